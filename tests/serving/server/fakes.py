"""An engine without processes and TensorFlow: the protocols are tested against its arithmetic."""

import asyncio

import numpy as np
from prometheus_client import CollectorRegistry, Counter

from bigearth_tf.errors import NotServedError, OverloadedError
from bigearth_tf.serving.interface import CLASSIFY_METHOD, DEFAULT, PREDICT_METHOD, Signature, Tensor
from bigearth_tf.serving.server.engine import Answer
from bigearth_tf.serving.server.versions import VersionStatus

CLASSES = (b"Pastures", b"For\xc3\xaats", b"Sea")
SIDE = 2

_GRIDS = {"dn": Tensor("uint16", (None, SIDE, SIDE, 1)), "db": Tensor("float32", (None, SIDE, SIDE, 1))}
_PREDICTED = {
    "probabilities": Tensor("float32", (None, len(CLASSES))),
    "labels": Tensor("string", (None, len(CLASSES))),
    "unsure": Tensor("bool", (None, len(CLASSES))),
}


def _signature(name, inputs, outputs, method=PREDICT_METHOD):
    return Signature(name, method, inputs, outputs)


SIGNATURES = {
    one.name: one
    for one in (
        _signature(DEFAULT, _GRIDS, _PREDICTED),
        _signature("lengths", {"B02": Tensor("string", (None,))}, {"length": Tensor("int64", (None,))}),
        _signature(
            "classify",
            {"inputs": Tensor("string", (None,))},
            {"classes": Tensor("string", (None, 3)), "scores": Tensor("float32", (None, 3))},
            CLASSIFY_METHOD,
        ),
        _signature("asset", {"names": Tensor("string", (None,))}, {"contents": Tensor("string", (None,))}),
        _signature("embed", {"dn": _GRIDS["dn"]}, {"embedding": Tensor("float32", (None, 2))}),
        _signature("echo_bytes", {"data": Tensor("string", (None,))}, {"data_bytes": Tensor("string", (None,))}),
        _signature("wait", {"names": Tensor("string", (None,))}, {"contents": Tensor("string", (None,))}),
        _signature("fail", {"names": Tensor("string", (None,))}, {"contents": Tensor("string", (None,))}),
    )
}


def predicted(dn, db):
    """Return what the fake model says: means of the inputs, and 0.2, which no binary fraction is."""
    columns = [dn.mean((1, 2, 3)) / 10000, db.mean((1, 2, 3)) / -100, np.full(len(dn), 0.2)]
    return np.stack(columns, 1).astype(np.float32)


class FakeEngine:
    """The interface of Engine, one model `m` in versions 1 and 2; `wait` answers when `go` is set."""

    last = None

    def __init__(self, models, settings):
        self.models = ["m"]
        self.registry = CollectorRegistry()
        Counter("fake_requests", "none", registry=self.registry)
        self.started = asyncio.Event()
        self.go = asyncio.Event()
        self.cancelled = 0
        self.asked = []
        self.is_ready = True
        self.stopped = False
        FakeEngine.last = self

    async def start(self):
        pass

    async def stop(self):
        self.stopped = True

    def ready(self):
        return self.is_ready

    def status(self, model):
        self._check(model)
        return [
            VersionStatus(3, "END", "saved_model.pb is damaged"),
            VersionStatus(2, "AVAILABLE"),
            VersionStatus(1, "AVAILABLE"),
        ]

    def signatures(self, model, version=None):
        self._check(model)
        if version not in (None, 1, 2):
            raise NotServedError(f"m has no version {version}; it serves 2, 1")
        return version or 2, SIGNATURES

    def _check(self, model):
        if model != "m":
            raise NotServedError(f"no model {model!r} is served; there is m")

    async def infer(self, model, signature, inputs, *, version=None, deadline=None):
        number, signatures = self.signatures(model, version)
        signatures[signature].check(inputs)
        self.asked.append((signature, inputs, deadline - asyncio.get_running_loop().time()))
        if signature == "wait":
            self.started.set()
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return Answer(self._outputs(signature, inputs), number)

    def _outputs(self, signature, inputs):
        if signature == DEFAULT:
            probabilities = predicted(**inputs)
            labels = np.empty(probabilities.shape, object)
            labels[:] = np.where(probabilities >= 0.15, np.array(CLASSES, object), b"")
            return {"probabilities": probabilities, "labels": labels, "unsure": probabilities < 0.1}
        if signature == "lengths":
            return {"length": np.array([len(b) for b in inputs["B02"]], np.int64)}
        if signature == "classify":
            n = len(inputs["inputs"])
            classes = np.empty((n, 3), object)
            classes[:] = CLASSES
            return {"classes": classes, "scores": np.tile(np.float32([0.5, 0.2, 0.1]), (n, 1))}
        if signature == "embed":
            return {"embedding": np.float32([[d.min(), d.max()] for d in inputs["dn"]])}
        if signature == "echo_bytes":
            return {"data_bytes": inputs["data"]}
        if signature == "fail":
            if inputs["names"][0] == b"overloaded":
                raise OverloadedError("256 patches wait already; try again in a second")
            raise KeyError("a secret of the server")
        return {"contents": inputs["names"]}
