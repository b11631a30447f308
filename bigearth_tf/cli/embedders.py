"""What makes vectors, opened by its path: shared by the commands of `retrieve` and by `explore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigearth_tf.retrieval.embedder import Embedder


def open_embedder(path: Path) -> Embedder:
    """Open a run folder, a .keras file, or a bundle that `export` wrote; takes seconds.

    Raises:
        ConfigError: it is none of them, or a form that gives no vectors.
        BundleError: the bundle cannot be loaded.
        NotServedError: the bundle is of a version that gave no vectors.
    """
    from bigearth_tf.errors import ConfigError
    from bigearth_tf.retrieval.embedder import BundleEmbedder, ModelEmbedder
    from bigearth_tf.serving.bundle import Bundle
    from bigearth_tf.serving.convert.targets import LITERT_SUFFIX, ONNX_SUFFIX
    from bigearth_tf.training.fit import load_run_model
    from bigearth_tf.training.run_folder import CONFIG_FILE, MODEL_FILE

    if path.suffix in (LITERT_SUFFIX, ONNX_SUFFIX):
        raise ConfigError(f"{path} gives probabilities alone; name the run, .keras file or bundle that it was made of")
    if not path.is_dir() or (path / MODEL_FILE).is_file() or (path / CONFIG_FILE).is_file():
        return ModelEmbedder(load_run_model(path))
    try:
        bundle = Bundle(path)
    except ConfigError as error:
        raise ConfigError(
            f"{path} is no run folder (no {MODEL_FILE}; `bigearth-tf train` makes one) and no bundle: {error}"
        ) from None
    return BundleEmbedder(bundle)
