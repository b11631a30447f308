"""What a worker process does: load one version of one model, answer batches until its server is gone."""

from __future__ import annotations

import json
import os
import queue
import socket
import threading
from dataclasses import asdict
from pathlib import Path

import numpy as np

from bigearth_tf.errors import BigEarthError, RequestError
from bigearth_tf.serving.server.slots import Slot
from bigearth_tf.serving.session import SessionModel
from bigearth_tf.serving.warmup import read_warmup


def work(connection: socket.socket, slots: list[Slot], folder: str, threads: int | None, warm: bool) -> None:
    """Serve a version until the connection ends; messages in both directions are lines of JSON.

    The first line out says `signatures` or `error`. Then each line in is `{"signature", "slot", "inputs", "end"}`, and
    gets one line out: `{"outputs", "end"}`, or `{"refused": why}` for what is wrong with the request, or
    `{"failed": why}` for what is wrong with the model. Arrays lie in the slot, those of the answer behind the inputs.
    """
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, lines), daemon=True).start()
    try:
        model = SessionModel(folder, threads=threads)
        if warm:
            for signature, inputs in read_warmup(Path(folder)):
                model.run(signature, inputs)
    except Exception as error:
        _say(connection, {"error": _text(error)})
        return
    _say(connection, {"signatures": {name: asdict(s) for name, s in model.signatures.items()}})
    while True:
        _say(connection, _answer(model, slots, json.loads(lines.get())))


def _listen(connection: socket.socket, lines: queue.SimpleQueue) -> None:
    """Hand on lines; end the process, whatever it computes, when there is nobody to answer any more."""
    try:
        with connection.makefile("rb") as stream:
            for line in stream:
                lines.put(line)
    finally:
        os._exit(0)


def _say(connection: socket.socket, message: dict) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _answer(model: SessionModel, slots: list[Slot], asked: dict) -> dict:
    slot = slots[asked["slot"]]
    try:
        outputs = model.run(asked["signature"], slot.read(asked["inputs"], asked["end"]))
        places, end = slot.write({name: [_array(value)] for name, value in outputs.items()}, asked["end"])
    except RequestError as error:
        return {"refused": str(error)}
    except Exception as error:  # whatever a model of other people does, the worker lives on
        return {"failed": _text(error)}
    return {"outputs": places, "end": end}


def _array(value) -> np.ndarray:
    """A session gives NumPy or Python scalars where a tensor has no axes."""
    return np.asarray(value, object if isinstance(value, bytes) else None)


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, BigEarthError) else f"{type(error).__name__}: {error}"
