"""What a model says of one patch: probabilities, evidence, vector; and the one thread that a model runs in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from bigearth_tf.archive.patch import PatchPair
from bigearth_tf.bands import BandSet
from bigearth_tf.calibration import Calibration
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import BigEarthError, ConfigError, MissingBandError, ServerError, UnknownNameError
from bigearth_tf.serving.interface import EXPLAIN, PROBABILITIES, map_outputs

if TYPE_CHECKING:
    from bigearth_tf.retrieval.embedder import Embedder

Grids = Mapping[str, np.ndarray]
T = TypeVar("T")
STARTING, READY, FAILED = "starting", "ready", "failed"


class PageModel(Protocol):
    """A model as the page asks it; grids are of one patch, (1, size, size, bands) raw values, a sensor whole or absent.

    Attributes:
        title: for people.
        contract: what it takes and returns.
        calibration: thresholds of the classes.
        backbones: names of the maps of evidence.
        embedder: makes vectors.
    """

    title: str
    contract: DataContract
    calibration: Calibration
    backbones: tuple[str, ...]
    embedder: Embedder

    def probabilities(self, grids: Grids) -> np.ndarray:
        """Return (classes,) probabilities."""

    def evidence(self, grids: Grids, label: str) -> dict[str, np.ndarray]:
        """Return backbone -> (size, size) map of 0..1: where the evidence for a class lies."""


class KerasPageModel:
    """A model of the zoo: a run folder or a `.keras` file."""

    def __init__(self, path: Path):
        from bigearth_tf.training.fit import load_run_model
        from bigearth_tf.training.grad_cam import feature_maps

        self._model = load_run_model(path)
        self.title = self._model.model_name
        self.contract = self._model.contract
        self.calibration = self._model.calibration or Calibration.plain(len(self.contract.nomenclature))
        self.backbones = tuple(feature_maps(self._model))

    @cached_property
    def embedder(self) -> Embedder:
        from bigearth_tf.retrieval.embedder import ModelEmbedder

        return ModelEmbedder(self._model)

    def probabilities(self, grids: Grids) -> np.ndarray:
        logits = np.asarray(self._model.predict_on_batch(self._model.complete(grids)))
        return self.calibration.probabilities(logits)[0]

    def evidence(self, grids: Grids, label: str) -> dict[str, np.ndarray]:
        from bigearth_tf.training.grad_cam import grad_cam

        return {name: maps[0, 0] for name, maps in grad_cam(self._model, grids, [label]).items()}


class BundlePageModel:
    """A bundle, asked by its signatures alone."""

    def __init__(self, path: Path):
        from bigearth_tf.serving.bundle import Bundle

        self._bundle = Bundle(path)
        self.contract, self.calibration = self._bundle.contract, self._bundle.calibration
        self.title = f"{self._bundle.path.parent.name}, version {self._bundle.path.name}"
        maps = [name for name in self._bundle.signatures[EXPLAIN].outputs if name != PROBABILITIES]
        sensors = self.contract.band_set.sensors
        several = [name.partition("_")[2] for name in maps if name.startswith("maps_")]  # sorted, as a bundle has them
        self.backbones = tuple(sorted(several, key=lambda b: sensors.index(b.partition("_")[0]))) or (
            "+".join(sensors),
        )

    @cached_property
    def embedder(self) -> Embedder:
        from bigearth_tf.retrieval.embedder import BundleEmbedder

        return BundleEmbedder(self._bundle)

    def probabilities(self, grids: Grids) -> np.ndarray:
        return self._bundle.predict(**self._whole(grids))[0].astype(np.float64)

    def evidence(self, grids: Grids, label: str) -> dict[str, np.ndarray]:
        number = self.contract.nomenclature.index(label)
        answer = self._bundle.ask(EXPLAIN, **self._whole(grids))
        outputs = map_outputs(self.backbones)
        return {name: answer[output][0, :, :, number] for name, output in zip(self.backbones, outputs, strict=True)}

    def _whole(self, grids: Grids) -> dict[str, np.ndarray]:
        """Put zeros, which are absence, where a sensor is not given."""
        return {g.name: grids.get(g.name, np.zeros((1, *g.shape), g.dtype)) for g in self.contract.band_set.grids}


def open_page_model(path: Path | str) -> PageModel:
    """Open a run folder, a `.keras` file or a bundle; this starts TensorFlow.

    Raises:
        ConfigError: none of them is there.
    """
    from bigearth_tf.quiet import import_tensorflow

    import_tensorflow()
    from bigearth_tf.serving.bundle import find_bundle

    path = Path(path)
    try:
        find_bundle(path)
    except ConfigError:
        return KerasPageModel(path)
    return BundlePageModel(path)


def sensors_of(bands: BandSet, pair: PatchPair) -> tuple[str, ...]:
    """Return the sensors of a model's bands that a patch has whole."""
    return tuple(s for s in bands.sensors if all(name in pair.bands for name in bands.of_sensor(s).bands))


def grids_of(bands: BandSet, pair: PatchPair, sensors: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Return the grids of a patch as a model takes them.

    Args:
        bands: of the model.
        pair: the patch.
        sensors: to show to the model; all that the patch has where empty.

    Returns:
        Grid name -> (1, size, size, bands) raw values; the grids of other sensors are left out.

    Raises:
        UnknownNameError: the model has no such sensor.
        MissingBandError: the patch has no sensor of the model whole, or not one that was asked for.
    """
    for sensor in sensors:
        if sensor not in bands.sensors:
            raise UnknownNameError("sensor of the model", sensor, bands.sensors)
    there = sensors_of(bands, pair)
    lacking = [name for name in bands.bands if name not in pair.bands]
    if not there or any(sensor not in there for sensor in sensors):
        raise MissingBandError(
            f"the model takes {bands}; the patch lacks {' '.join(lacking)}, so it cannot be shown "
            f"{' and '.join(sensors) or 'to it'}"
        )
    shown = sensors or there
    return {grid.name: pair.grid(grid)[None] for grid in bands.grids if grid.sensor in shown}


@dataclass(frozen=True)
class ClassRow:
    """One class of a prediction.

    Attributes:
        name: of the class.
        probability, threshold: 0..1; the class is predicted from its threshold on.
        predicted: it reaches its threshold.
        true: it is a true label; None where these are unknown.
        unsure: the decision is less certain than the calibration asks for.
    """

    name: str
    probability: float
    threshold: float
    predicted: bool
    true: bool | None
    unsure: bool

    @property
    def verdict(self) -> str:
        """`right`, `wrong` or `missed`; `predicted` where the truth is unknown; empty for what nobody claims."""
        if self.true is None:
            return "predicted" if self.predicted else ""
        return {(True, True): "right", (True, False): "wrong", (False, True): "missed"}.get(
            (self.predicted, self.true), ""
        )


def class_rows(
    contract: DataContract, calibration: Calibration, probabilities: np.ndarray, true: Sequence[str] | None
) -> list[ClassRow]:
    """Return the classes of a prediction, the most likely one first.

    Args:
        contract, calibration: of the model.
        probabilities: (classes,).
        true: labels; None where they are unknown.
    """
    names = contract.nomenclature.names
    (predicted,), (unsure,) = calibration.decide(probabilities[None])
    return [
        ClassRow(
            names[i],
            float(probabilities[i]),
            calibration.thresholds[i],
            bool(predicted[i]),
            None if true is None else names[i] in true,
            bool(unsure[i]),
        )
        for i in np.argsort(-probabilities, kind="stable")
    ]


class ModelThread:
    """The one thread that a model lives in: it starts there, and answers one question at a time.

    So the page never waits for TensorFlow, and two visitors never run a model at once.

    Args:
        open_model: makes the model; called in the thread, at once.

    Attributes:
        model: None until it is ready.
        state: `STARTING`, `READY` or `FAILED`.
        error: why it failed.
    """

    def __init__(self, open_model: Callable[[], PageModel]):
        self.model: PageModel | None = None
        self.state, self.error = STARTING, ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._opened = self._thread.submit(self._open, open_model)

    def _open(self, open_model: Callable[[], PageModel]) -> None:
        try:
            self.model = open_model()
            self.state = READY
        except Exception as error:  # whatever it is, the page goes on without a model and says why
            self.state, self.error = FAILED, _message(error)

    async def ask(self, question: Callable[[PageModel], T]) -> T:
        """Put a question to the model, when it has started and nobody else asks.

        Raises:
            ServerError: the model could not be opened, or failed at the question.
            BigEarthError: what the question raises on purpose.
        """

        def answer() -> T:
            if self.model is None:
                raise ServerError(f"the model could not be opened: {self.error}")
            try:
                return question(self.model)
            except BigEarthError:
                raise
            except Exception as error:  # of TensorFlow: a class of its own for every reason
                raise ServerError(f"the model failed: {_message(error)}") from error

        return await asyncio.wrap_future(self._thread.submit(answer))

    def close(self) -> None:
        """Answer nothing more; what is being computed ends by itself."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _message(error: Exception) -> str:
    return str(error) or type(error).__name__
