"""Metrics of an engine for Prometheus, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable

from bigearth_tf.errors import (
    ConfigError,
    DeadlineError,
    NotServedError,
    OverloadedError,
    RequestError,
)

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
except ImportError:
    raise ConfigError("the server needs prometheus-client; pip install 'bigearth-tf[serve]'") from None

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_PATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_VERSION = ("model", "version")


class Metrics:
    """All metrics of an engine.

    Attributes:
        registry: that holds them.
    """

    def __init__(self):
        self.registry = CollectorRegistry()

        def make(kind, name, text, labels, **options):
            return kind(f"bigearth_{name}", text, labels, registry=self.registry, **options)

        signature = (*_VERSION, "signature")
        self.requests = make(Counter, "requests", "Requests by result.", (*signature, "result"))
        self.waiting = make(Histogram, "waiting_seconds", "From a request to its batch.", signature, buckets=_SECONDS)
        self.running = make(Histogram, "running_seconds", "From a batch to its answer.", signature, buckets=_SECONDS)
        self.batch = make(Histogram, "batch_patches", "Patches computed together.", signature, buckets=_PATCHES)
        self.queue = make(Gauge, "queue_patches", "Patches that wait.", _VERSION)
        self.workers = make(Gauge, "workers", "Worker processes that answer.", _VERSION)
        self.deaths = make(Counter, "worker_deaths", "Worker processes that ended unasked.", ("model",))
        self.loads = make(Counter, "version_loads", "Versions loaded, or found broken.", ("model", "result"))

    def lost(self) -> None:
        """Count a request for what is not served; its names are the client's, so they are no labels."""
        self.requests.labels("", "", "", result_name(NotServedError())).inc()


class VersionMetrics:
    """The metrics of one version; they leave the registry with it, so that many versions do not pile up.

    Args:
        metrics: of the engine.
        model: name.
        version: number.
    """

    def __init__(self, metrics: Metrics, model: str, version: int):
        self._labels = (model, str(version))
        self._all, self._children = metrics, {}

    def result(self, signature: str, error: BaseException | None) -> None:
        """Count a request by what became of it."""
        self._child(self._all.requests, signature, result_name(error)).inc()

    def waited(self, signature: str, seconds: float) -> None:
        """Note how long a request waited for its batch."""
        self._child(self._all.waiting, signature).observe(seconds)

    def ran(self, signature: str, rows: int, seconds: float) -> None:
        """Note how many patches a batch had and how long it took, its way to the worker and back included."""
        self._child(self._all.running, signature).observe(seconds)
        self._child(self._all.batch, signature).observe(rows)

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Read the length of the queue from here whenever somebody asks."""
        self._child(self._all.queue).set_function(length)

    def workers(self, number: int) -> None:
        """Note how many workers answer."""
        self._child(self._all.workers).set(number)

    def died(self) -> None:
        """Count a worker that ended unasked."""
        self._all.deaths.labels(self._labels[0]).inc()

    def close(self) -> None:
        """Take the metrics of this version out of the registry."""
        for metric, *labels in self._children:
            metric.remove(*self._labels, *labels)
        self._children.clear()

    def _child(self, metric, *labels):
        key = (metric, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*self._labels, *labels)
        return child


def result_name(error: BaseException | None) -> str:
    """Return what metrics call a result."""
    if error is None:
        return "ok"
    for kind, name in _RESULTS.items():
        if isinstance(error, kind):
            return name
    return "cancelled" if not isinstance(error, Exception) else "failed"


_RESULTS = {
    NotServedError: "not_served",
    RequestError: "refused",
    OverloadedError: "overloaded",
    DeadlineError: "late",
}
