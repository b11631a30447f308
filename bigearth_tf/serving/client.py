"""Client: predictions of a served bundle, over REST or gRPC, from TensorFlow Serving or our own server alike.

The contract of the model is read from the server first, so that data of another kind are refused here and never become
a low score. Over REST no TensorFlow is loaded.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bigearth_tf.archive.model_files import OFFSET_CHOICES, read_model_files
from bigearth_tf.archive.pairing import PatchFolders, resolve_patches
from bigearth_tf.calibration import Calibration
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, RequestError, UnknownNameError
from bigearth_tf.serving.client_inputs import check_files, check_grids, files_of_grids, parts, split_grids
from bigearth_tf.serving.client_model import Inputs, RemoteModel, ServedVersion
from bigearth_tf.serving.interface import DEFAULT, EXAMPLES, GEOTIFF, LABELS, PROBABILITIES, UNSURE
from bigearth_tf.serving.transport import Address, Transport

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a server says of some patches.

    Attributes:
        probabilities: (patches, classes) float32, classes in the order of the contract.
        labels: for each patch the names of the predicted classes.
        unsure: for each patch the names of the classes whose decision is less certain than the calibration asks for.
        versions: for each patch the version of the model that answered; they differ where the server got a new one.
    """

    probabilities: np.ndarray
    labels: tuple[tuple[str, ...], ...]
    unsure: tuple[tuple[str, ...], ...]
    versions: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.versions)


class Client:
    """Asks a server for predictions. Threads may share one; use it in a `with` statement, or call `close`.

    Args:
        url: `http://host:8501` or `grpc://host:8500`; https and grpcs for TLS.
        model: name of the model; may be left out where the server has only one and tells its name. TensorFlow Serving
            does not tell.
        version: of the model; by default the newest that is ready, looked up again when a new one may be there.
        token: secret to send with every request (`Authorization: Bearer ...`). Use TLS where others can listen.
        timeout: seconds for a request of at most `batch_size` patches, all tries together.
        retries: tries after the first where nobody answers or the server is overloaded.
        ca: file of certificates (PEM) to trust instead of the system's.
        batch_size: patches in a request.
        concurrency: requests at the same time.
        offset: what to do with Sentinel-2 values of processing baseline 04.00 and later, as for `read_model_files`.
        note: gets every new remark on what was done to the values of files; by default it is logged as a warning.

    Raises:
        ConfigError: a value that cannot be.
        UnknownNameError: another word for `offset`.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        version: int | None = None,
        token: str | None = None,
        timeout: float = 30.0,
        retries: int = 3,
        ca: Path | str | None = None,
        batch_size: int = 16,
        concurrency: int = 2,
        offset: str = "harmonize",
        note: Callable[[str], None] = logger.warning,
    ):
        _require_whole(retries=retries, least=0)
        _require_whole(batch_size=batch_size, least=1)
        _require_whole(concurrency=concurrency, least=1)
        if version is not None:
            _require_whole(version=version, least=1)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < float("inf"):
            raise ConfigError(f"timeout is a number of seconds > 0, got {timeout!r}")
        if model is not None and (not isinstance(model, str) or not model):
            raise ConfigError(f"model is the name of a model, got {model!r}; leave it out where there is only one")
        if offset not in OFFSET_CHOICES:
            raise UnknownNameError("choice of offset", offset, OFFSET_CHOICES)
        self._address = Address(url, token, Path(ca) if ca is not None else None)
        self._batch_size, self._concurrency, self._offset = batch_size, concurrency, offset
        self._transport = _connect(self._address, concurrency)
        self._model = RemoteModel(
            self._transport, self._address.url, name=model, version=version, timeout=float(timeout), retries=retries
        )
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="bigearth-client")
        self._lock = threading.Lock()
        self._note, self._noted = note, {""}
        self._closed = False

    def __repr__(self) -> str:
        return f"Client({self._address.url!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """End the connections; requests under way are finished first."""
        self._closed = True
        self._pool.shutdown(cancel_futures=True)
        self._transport.close()

    @property
    def contract(self) -> DataContract:
        """What the model takes and returns."""
        return self._current().contract

    @property
    def calibration(self) -> Calibration:
        """Its thresholds, and how sure a decision has to be."""
        return self._current().calibration

    @property
    def version(self) -> int:
        """The version that is asked next."""
        return self._current().number

    def predict_folders(self, paths: Sequence[Path | str]) -> Prediction:
        """Predict from GeoTIFF patches, as `bigearth-tf predict` does.

        Args:
            paths: patch folders and archive roots; a model of two sensors takes the S2 and the S1 folder in any order.

        Returns:
            Patches in the order of `resolve_patches`.

        Raises:
            ArchiveError: no patch there, or its files are missing, damaged, of two places, or contradict each other.
            ContractError: data of another kind than the model's.
            RequestError: and its neighbours in errors.py, as the server answers.
        """
        return _joined(self.predict_patches(resolve_patches(paths, self.contract.band_set.sensors)))

    def predict_patches(self, patches: Iterable[PatchFolders]) -> Iterator[Prediction]:
        """Predict from patches of `resolve_patches`, and yield a prediction for each request, in order.

        The files of a few requests are in memory. Errors as `predict_folders`.
        """
        served = self._current()
        return self._ask_files((self._read(patch, served.contract) for patch in patches), served)

    def predict_files(self, patches: Sequence[Mapping[str, bytes]]) -> Prediction:
        """Predict from the bytes of band files.

        Args:
            patches: for each patch, band name -> bytes of a GeoTIFF, plain or compressed. For a model of two sensors,
                empty bytes for all bands of one sensor mean that it is absent. Values are taken as they are: no file
                lies with them that could tell of an offset.

        Raises:
            MissingBandError: a patch lacks a band, named.
            GeoTiffError: a file is truncated or foreign.
            ContractError: Sentinel-1 values that are no decibels.
            RequestError: and its neighbours in errors.py, as the server answers.
        """
        served = self._current()
        bands = served.contract.band_set
        ready = (check_files(files, bands, f"patch {number}") for number, files in enumerate(patches))
        return _joined(self._ask_files(ready, served))

    def predict_arrays(self, grids: Mapping[str, np.ndarray]) -> Prediction:
        """Predict from raw values, as models take them.

        Args:
            grids: grid name -> (patches, size, size, bands) DN or dB, of the contract's grids in their types. All zeros
                are an absent sensor. Values are taken as they are: nothing lies with them that could tell of an offset.

        Raises:
            RequestError: other grids, shapes or types than the contract's; Sentinel-1 values that are not finite. And
                its neighbours in errors.py, as the server answers.
            ContractError: Sentinel-1 values that are no decibels.
        """
        served = self._current()
        bands = served.contract.band_set
        lots = split_grids(grids, check_grids(grids, bands), self._batch_size)
        if self._transport.sends_arrays:
            return _joined(self._ask_all(DEFAULT, lots, served))
        return _joined(self._ask_all(GEOTIFF, (files_of_grids(lot, bands) for lot in lots), served))

    def predict_examples(self, examples: Sequence[bytes]) -> Prediction:
        """Predict from records: serialised tf.Examples, as `bigearth-tf records write` makes them.

        Raises:
            RequestError: something else than bytes. And its neighbours in errors.py, as the server answers.
        """
        if isinstance(examples, bytes) or not all(isinstance(example, bytes) for example in examples):
            raise RequestError("examples are a list of bytes, got something else; serialise each tf.Example")
        lots = ({"examples": lot} for lot in parts(examples, self._batch_size))
        return _joined(self._ask_all(EXAMPLES, lots, self._current()))

    def _current(self) -> ServedVersion:
        if self._closed:
            raise ConfigError("this client is closed; make another one")
        return self._model.current()

    def _read(self, patch: PatchFolders, contract: DataContract) -> Mapping[str, bytes]:
        ready = read_model_files(patch.folders, contract, offset=self._offset)
        with self._lock:
            new = ready.note not in self._noted
            self._noted.add(ready.note)
        if new:
            self._note(ready.note)
        return ready.files

    def _ask_files(self, patches: Iterable[Mapping[str, bytes]], served: ServedVersion) -> Iterator[Prediction]:
        lots = parts(patches, self._batch_size)
        requests = ({name: [files[name] for files in lot] for name in served.contract.bands} for lot in lots)
        return self._ask_all(GEOTIFF, requests, served)

    def _ask_all(self, signature: str, requests: Iterable[Inputs], served: ServedVersion) -> Iterator[Prediction]:
        """Send requests, several at a time, and yield their answers in order."""
        waiting: deque[Future[Prediction]] = deque()
        try:
            for request in requests:
                waiting.append(self._pool.submit(self._ask, signature, request, served))
                if len(waiting) > self._concurrency:  # one more than are under way, so that none waits for us
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _ask(self, signature: str, inputs: Inputs, served: ServedVersion) -> Prediction:
        answer, served = self._model.ask(signature, inputs, (PROBABILITIES, LABELS, UNSURE), served)
        names = np.array(served.contract.nomenclature.names, object)
        return Prediction(
            answer[PROBABILITIES].astype(np.float32),
            tuple(tuple(label for label in row if label) for row in answer[LABELS]),
            tuple(tuple(names[row]) for row in answer[UNSURE].astype(bool)),
            (served.number,) * len(answer[PROBABILITIES]),
        )


def _require_whole(*, least: int, **named: object) -> None:
    ((name, value),) = named.items()
    if type(value) is not int or value < least:
        raise ConfigError(f"{name} is a whole number from {least}, got {value!r}")


def _connect(address: Address, connections: int) -> Transport:
    if address.is_grpc:
        from bigearth_tf.serving.transport_grpc import GrpcTransport  # loads TensorFlow

        return GrpcTransport(address)
    from bigearth_tf.serving.transport_rest import RestTransport

    return RestTransport(address, connections)


def _joined(predictions: Iterator[Prediction]) -> Prediction:
    """Return the predictions of several requests as one."""
    found = list(predictions)
    if not found:
        raise RequestError("a prediction needs one patch at least, got none")
    return Prediction(
        np.concatenate([one.probabilities for one in found]),
        sum((one.labels for one in found), ()),
        sum((one.unsure for one in found), ()),
        sum((one.versions for one in found), ()),
    )
