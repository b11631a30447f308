"""RemoteModel: a model on a server: which version to ask, what its contract is, and asking it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from bigearth_tf.calibration import Calibration
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import (
    BundleError,
    ConfigError,
    ContractError,
    NotServedError,
    OverloadedError,
    RequestError,
    UnauthorizedError,
)
from bigearth_tf.serving.interface import ASSET, CALIBRATION_FILE, CONTRACT_FILE
from bigearth_tf.serving.transport import Transport, try_again

_LOOK_AGAIN_S = 10.0  # how long a version is taken for the newest
_READY, _COMING = "AVAILABLE", ("START", "LOADING")  # states of TensorFlow Serving
_Result = TypeVar("_Result")
Inputs = Mapping[str, Sequence[bytes] | np.ndarray]


@dataclass(frozen=True)
class ServedVersion:
    """One version of a model, and what it says of itself.

    Attributes:
        number: of the version.
        contract: what it takes and returns.
        calibration: its thresholds, and how sure a decision has to be.
    """

    number: int
    contract: DataContract
    calibration: Calibration


class RemoteModel:
    """A model on a server. Threads may share one.

    Every request names the version whose contract was read: so it cannot reach another one, over REST (whose answers do
    not tell their version) as over gRPC, whatever a server loads meanwhile. The newest version is looked up again
    after some seconds, and at once when the old one is gone.

    Args:
        transport: to the server.
        server: its address, for messages.
        name: of the model; None takes the only one.
        version: to ask; None takes the newest that is ready.
        timeout: seconds for a request, all tries together.
        retries: tries after the first.
    """

    def __init__(
        self, transport: Transport, server: str, *, name: str | None, version: int | None, timeout: float, retries: int
    ):
        self._transport, self._server = transport, server
        self._name, self._version = name, version
        self._timeout, self._retries = timeout, retries
        self._lock = threading.Lock()
        self._served: ServedVersion | None = None
        self._looked = 0.0

    def current(self, *, look: bool = False) -> ServedVersion:
        """Return the version to ask next.

        Args:
            look: ask the server which is the newest, even if that was done just now.

        Raises:
            BundleError: its contract cannot be read.
            ConfigError: the name of the model is needed.
            NotServedError: no such model or version, or it is no bundle of ours.
            RequestError: and its neighbours in errors.py, as the server answers.
        """
        with self._lock:
            fresh = self._version is not None or time.monotonic() - self._looked < _LOOK_AGAIN_S
            if self._served and fresh and not look:
                return self._served
            if self._name is None:
                self._name = self._only_name()
            number = self._version or self._try(self._newest)
            while self._served is None or self._served.number != number:
                try:
                    self._served = self._read(number)
                except NotServedError:
                    asked, number = number, self._version or self._try(self._newest)
                    if number == asked:
                        raise
            self._looked = time.monotonic()
            return self._served

    def ask(
        self, signature: str, inputs: Inputs, outputs: Sequence[str], served: ServedVersion
    ) -> tuple[dict[str, np.ndarray], ServedVersion]:
        """Ask a version, or the one that replaced it if data for one fit the other.

        Args:
            signature: to ask.
            inputs: name -> value for each patch.
            outputs: names of what is needed.
            served: version that the inputs were made for.

        Returns:
            Output name -> array, and the version that answered.

        Raises:
            ContractError: the new version takes or returns something else.
            RequestError: and its neighbours in errors.py, as the server answers.
        """
        latest = self._replacement(served, self._served or served)
        while True:
            try:
                return self._predict(signature, inputs, outputs, latest.number), latest
            except NotServedError:
                asked, latest = latest, self._replacement(served, self.current(look=True))
                if latest.number == asked.number:
                    raise

    def _replacement(self, old: ServedVersion, new: ServedVersion) -> ServedVersion:
        for what in ("bands", "units", "class_names"):
            before, now = getattr(old.contract, what), getattr(new.contract, what)
            if before != now:
                raise ContractError(
                    f"{self._name} on {self._server} went from version {old.number} to {new.number}, which has other "
                    f"{what.replace('_', ' ')}: {before} became {now}. Predict again"
                )
        return new

    def _predict(self, signature: str, inputs: Inputs, outputs: Sequence[str], version: int) -> dict[str, np.ndarray]:
        return self._try(lambda left: self._transport.predict(self._name, version, signature, inputs, outputs, left))

    def _try(self, ask: Callable[[float], _Result]) -> _Result:
        return try_again(ask, timeout=self._timeout, retries=self._retries)

    def _only_name(self) -> str:
        names = self._try(self._transport.models)
        if names is None:
            raise ConfigError(
                f"{self._server} does not tell which models it has (TensorFlow Serving never does); name yours: model, "
                "--model"
            )
        if len(names) != 1:
            raise ConfigError(f"{self._server} has {len(names)} models ({', '.join(names)}); name one: model, --model")
        return names[0]

    def _newest(self, timeout: float) -> int:
        states = self._transport.versions(self._name, timeout)
        if ready := [number for number, (state, _) in states.items() if state == _READY]:
            return max(ready)
        said = ", ".join(f"{n} is {state}{error and f' ({error})'}" for n, (state, error) in sorted(states.items()))
        coming = any(state in _COMING for state, _ in states.values())
        raise (OverloadedError if coming else NotServedError)(
            f"no version of {self._name} on {self._server} is ready: {said or 'there is none'}"
        )

    def _read(self, number: int) -> ServedVersion:
        inputs = {"names": [CONTRACT_FILE.encode(), CALIBRATION_FILE.encode()]}
        try:
            contents = self._predict(ASSET, inputs, ("contents",), number)["contents"]
        except UnauthorizedError:
            raise
        except RequestError as error:  # such as an unknown signature
            raise type(error)(
                f"{self._name} version {number} on {self._server} does not give its contract (signature {ASSET}): "
                f"{error}. Is it a bundle of `bigearth-tf export`?"
            ) from None
        try:
            contract, calibration = (json.loads(text) for text in contents)
            return ServedVersion(number, DataContract.from_dict(contract), Calibration.from_dict(calibration))
        except (TypeError, ValueError) as error:  # a contract of a later release is a ValueError too
            raise BundleError(
                f"the contract of {self._name} version {number} on {self._server} cannot be read ({error}); it is a "
                "model of another program, or of a later release: update this one"
            ) from None
