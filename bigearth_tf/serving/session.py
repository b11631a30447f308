"""SessionModel: a SavedModel as TensorFlow Serving runs it: a session of the C++ runtime, fed by tensor names."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tensorflow as tf

from bigearth_tf.errors import BundleError, NotServedError, RequestError, ServerError
from bigearth_tf.serving.interface import STRING, Signature, Tensor

_OWN = "__saved_model"  # names of signatures that the format keeps for itself begin with this


class SessionModel:
    """A loaded SavedModel. `run` may be called from several threads at once.

    Args:
        folder: of saved_model.pb.
        threads: cores that one request may use; all by default. TensorFlow reads it once a process.

    Attributes:
        signatures: name -> signature.

    Raises:
        BundleError: no SavedModel there, a damaged one, or one with ops that this TensorFlow does not know.
    """

    def __init__(self, folder: Path | str, *, threads: int | None = None):
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=threads or 0,
            inter_op_parallelism_threads=threads or 0,
            allow_soft_placement=True,
        )
        config.gpu_options.allow_growth = True  # versions and workers share a GPU
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        try:
            with self._session.graph.as_default(), _without_advice():
                meta = tf.compat.v1.saved_model.load(self._session, ["serve"], str(folder))
        except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
            self._session.close()
            raise BundleError(f"{folder} cannot be loaded: {plain_message(error)}; export the model again") from None
        self.signatures = meta_graph_signatures(meta)
        self._calls = {name: self._callable(meta.signature_def[name]) for name in self.signatures}

    def _callable(self, definition) -> Callable:
        fetches = {name: info.name for name, info in definition.outputs.items()}
        return self._session.make_callable(
            fetches, [definition.inputs[name].name for name in sorted(definition.inputs)]
        )

    def run(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Ask a signature.

        Args:
            signature: name.
            inputs: name -> array; strings are object arrays of bytes.

        Returns:
            Output name -> array; strings are object arrays of bytes.

        Raises:
            NotServedError: no such signature.
            RequestError: the inputs are not those of the signature, or fail one of its checks.
            ServerError: the model could not answer, such as for want of memory.
        """
        if signature not in self.signatures:
            raise NotServedError(f"the model has no signature {signature!r}; ask one of {', '.join(self.signatures)}")
        self.signatures[signature].check(inputs)
        try:
            found = self._calls[signature](*(inputs[name] for name in sorted(inputs)))
        except tf.errors.InvalidArgumentError as error:
            raise RequestError(plain_message(error)) from None
        except UnicodeDecodeError as error:  # the same, with bytes of the request in what TensorFlow says
            raise RequestError(plain_message(ValueError(error.object.decode("utf-8", "replace")))) from None
        except tf.errors.OpError as error:
            raise ServerError(f"{signature} could not answer: {plain_message(error)}; try again, smaller") from None
        return found

    def close(self) -> None:
        """Free the model."""
        self._session.close()


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keep TensorFlow from advising another loader: this one is TensorFlow Serving's, which is the point."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def plain_message(error: Exception | str) -> str:
    """Return what TensorFlow says, without the nodes of the graph that say it."""
    text = str(getattr(error, "message", "") or error)
    asserted = re.search(r"assertion failed: \[(.*?)\](?: \[|\s*\n|\s*$)", text, re.DOTALL)
    if asserted:
        return re.sub(r"\\(['\"\\])", r"\1", asserted[1])  # TensorFlow writes strings as C does
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not re.match(r"\(\d\) |\[\[|Original stack|\d+ (successful|derived) ", line)]
    said = [line for line in lines if not line.endswith(("Graph execution error:", "root error(s) found."))]
    return re.sub(r"\s*\[\[?\{\{node.*", "", said[0]) if said else type(error).__name__


def meta_graph_signatures(meta) -> dict[str, Signature]:
    """Return the signatures of a MetaGraphDef: name -> signature."""
    return {
        name: Signature(name, found.method_name, _tensors(found.inputs), _tensors(found.outputs))
        for name, found in sorted(meta.signature_def.items())
        if not name.startswith(_OWN)
    }


def _tensors(infos) -> dict[str, Tensor]:
    return {name: _tensor(infos[name]) for name in sorted(infos)}


def _tensor(info) -> Tensor:
    dtype = tf.dtypes.as_dtype(info.dtype)
    sizes = tf.TensorShape(info.tensor_shape).as_list()
    return Tensor(STRING if dtype == tf.string else dtype.name, tuple(sizes))
