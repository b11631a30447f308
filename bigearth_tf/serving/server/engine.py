"""Engine: models in worker processes, asked from asyncio. The process of the engine itself never runs a model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bigearth_tf.errors import BundleError, ConfigError, NotServedError, OverloadedError, RequestError, TooLargeError
from bigearth_tf.serving.interface import Signature
from bigearth_tf.serving.server.jobs import by_patch
from bigearth_tf.serving.server.metrics import Metrics, VersionMetrics
from bigearth_tf.serving.server.pool import Pool
from bigearth_tf.serving.server.settings import ServerSettings
from bigearth_tf.serving.server.spawner import Spawner
from bigearth_tf.serving.server.versions import Versions, VersionStatus

log = logging.getLogger(__name__)

_SHOWN = 80  # characters of a client's text that messages repeat


@dataclass(frozen=True)
class Answer:
    """What a model says to one request.

    Attributes:
        outputs: output name -> array; strings are object arrays of bytes.
        version: that gave the answer.
    """

    outputs: dict[str, np.ndarray]
    version: int


class Engine:
    """Serves models from folders of versions; for use in one asyncio loop.

    Args:
        models: model name -> folder of versions (`<folder>/<number>/saved_model.pb`).
        settings: of the server.

    Attributes:
        models: names of the models.
        registry: prometheus_client.CollectorRegistry of this engine alone.
    """

    def __init__(self, models: Mapping[str, Path], settings: ServerSettings):
        if not models:
            raise ConfigError("a server needs a model, got none; name a folder of <model>/<version>/saved_model.pb")
        self.models = list(models)
        self._settings = settings
        self._metrics = Metrics()
        self.registry = self._metrics.registry
        self._spawner = Spawner()
        self._versions = {
            name: Versions(name, Path(folder), settings.keep_versions, partial(self._load, name))
            for name, folder in models.items()
        }
        self._search: asyncio.Task | None = None
        self._ending = False

    async def start(self) -> None:
        """Load the newest version of every model, then look for newer ones from time to time.

        Raises:
            BundleError: a model has no version that can be loaded; names the model and the reason.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for versions in self._versions.values():
                    group.create_task(self._first(versions))
        except BaseException as error:
            await self.stop()
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise
        self._search = asyncio.create_task(self._keep_searching())

    async def stop(self) -> None:
        """Accept nothing new, finish what runs within the settings' `grace_s`, end all workers."""
        self._ending = True
        if self._search is not None:
            self._search.cancel()
            await asyncio.gather(self._search, return_exceptions=True)
        await asyncio.gather(*(versions.close(self._settings.grace_s) for versions in self._versions.values()))
        await self._spawner.close()

    async def infer(
        self,
        model: str,
        signature: str,
        inputs: dict[str, np.ndarray],
        *,
        version: int | None = None,
        deadline: float | None = None,
    ) -> Answer:
        """Ask a model. A cancelled call frees its place in the queue.

        Args:
            model: name.
            signature: name.
            inputs: input name -> array with exactly the signature's dtype; strings are object arrays of bytes.
            version: by default the newest that is served.
            deadline: time of the loop's clock (`loop.time()`) at which the answer is worth nothing any more.

        Raises:
            NotServedError: no such model, version or signature.
            RequestError: inputs that are not what the signature takes, or that the graph refuses.
            TooLargeError: more patches than may ever wait.
            OverloadedError: too many patches wait, or the server is ending; at once.
            DeadlineError: no answer by the deadline or within `request_timeout_s`.
            ServerError: two workers died of this request.
        """
        try:
            number, pool = self._of(model).pick(version)
            asked = pool.signatures.get(signature)
            if asked is None:
                raise NotServedError(
                    f"version {number} of {model} has no signature {shown(signature)}; "
                    f"ask one of {', '.join(pool.signatures)}"
                )
        except NotServedError:
            self._metrics.lost()
            raise
        error = None
        try:
            rows = self._check(asked, inputs)
            limit = asyncio.get_running_loop().time() + self._settings.request_timeout_s
            outputs = await pool.batcher.submit(
                asked, inputs, rows, limit if deadline is None else min(deadline, limit)
            )
            return Answer(outputs, number)
        except BaseException as caught:
            error = caught
            raise
        finally:
            pool.metrics.result(signature, error)

    def signatures(self, model: str, version: int | None = None) -> tuple[int, dict[str, Signature]]:
        """Return the version (by default the newest that is served) and its signatures by name.

        Raises:
            NotServedError: no such model or version.
        """
        number, pool = self._of(model).pick(version)
        return number, pool.signatures

    def status(self, model: str) -> list[VersionStatus]:
        """Return the known versions of a model, newest first.

        Raises:
            NotServedError: no such model.
        """
        return self._of(model).status()

    def pids(self, model: str) -> list[int]:
        """Return the process ids of the workers that answer for a model.

        Raises:
            NotServedError: no such model.
        """
        return [pid for pool in self._of(model).served.values() for pid in pool.pids]

    def ready(self) -> bool:
        """Return whether every model has a worker that answers, and the engine is not ending."""
        return not self._ending and all(
            any(pool.pids for pool in versions.served.values()) for versions in self._versions.values()
        )

    async def reload(self) -> None:
        """Look for new versions now; returns when they are served, or were found broken (see `status`)."""
        if self._ending:
            raise OverloadedError("the server is ending and loads nothing more; start it again")
        await asyncio.gather(*(versions.refresh(settled=False) for versions in self._versions.values()))

    async def _first(self, versions: Versions) -> None:
        try:
            await versions.refresh(settled=False)
        except OSError as error:
            raise BundleError(f"the versions of {versions.name} cannot be read: {error}") from error
        if not versions.served:
            raise versions.why_none()

    async def _keep_searching(self) -> None:
        said: dict[str, str] = {}
        while True:
            await asyncio.sleep(self._settings.poll_s)
            for name, versions in self._versions.items():
                try:
                    await versions.refresh(settled=True)
                    said.pop(name, None)
                except Exception as error:  # the folder may be away for a while, or change while it is read
                    if said.get(name) != str(error):
                        log.warning("the versions of %s cannot be read: %s; those that are served stay", name, error)
                    said[name] = str(error)

    async def _load(self, model: str, version: int, folder: Path) -> Pool:
        metrics = VersionMetrics(self._metrics, model, version)
        pool = Pool(f"version {version} of {model}", folder, self._settings, self._spawner, metrics)
        error = None
        try:
            await pool.start()
        except BaseException as caught:
            error = caught
            raise
        finally:
            self._metrics.loads.labels(model, "failed" if error else "ok").inc()
        return pool

    def _of(self, model: str) -> Versions:
        if model not in self._versions:
            raise NotServedError(f"there is no model {shown(model)}; ask one of {', '.join(self.models)}")
        return self._versions[model]

    def _check(self, signature: Signature, inputs: dict[str, np.ndarray]) -> int:
        """Return how many patches a request has, or refuse it."""
        if self._ending:
            raise OverloadedError("the server is ending; ask another one, or this one when it is back")
        rows = signature.check(inputs) if by_patch(signature) else 1
        for name, value in inputs.items():
            if value.dtype == object and not all(type(text) is bytes for text in value.flat):
                raise RequestError(f"{name} of {signature.name} takes bytes, got other objects; encode text as UTF-8")
        if rows > self._settings.max_queue:
            raise TooLargeError(
                f"a request has at most {self._settings.max_queue} patches, got {rows}; send them in several requests"
            )
        return rows


def shown(name: str) -> str:
    """Return a client's name as messages quote it."""
    return repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}...")
