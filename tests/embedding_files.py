"""Files of embeddings for tests of indexes: vectors in clusters, and facts that tell from the number of a patch."""

from pathlib import Path

import numpy as np

from bigearth_tf.contract import DataContract
from bigearth_tf.nomenclature import CLASSES_19
from bigearth_tf.retrieval.embeddings import Embeddings, EmbeddingsHead, VectorSpace, write_embeddings

COUNTRIES = ("Austria", "Finland", "Serbia")
SPLITS = ("train", "test")


def space(width: int, *, layer: str = "features", model: str = "a") -> VectorSpace:
    """Return a space of vectors; `model` is a hexadecimal digit that tells models apart."""
    contract = DataContract("v2", ("B02", "B03", "B04", "B08"), (CLASSES_19.names,), resampling="nearest")
    return VectorSpace("shallow_cnn", model * 64, layer, width, contract)


def clusters(rows: int, width: int, seed: int = 0) -> np.ndarray:
    """Return (rows, width) float16 vectors around a centre for every 40 of them, none below 0."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(2, rows // 40), width))
    noise = rng.normal(size=(rows, width))
    return np.abs(centres[rng.integers(len(centres), size=rows)] + 0.5 * noise).astype(np.float16)


def labels_of(number: int) -> list[str]:
    """Return the two labels of a patch."""
    names = CLASSES_19.names
    return [names[number % len(names)], names[(number + 5) % len(names)]]


def write_vectors(
    path: Path, vectors: np.ndarray, *, first: int = 0, dtype: str = "float16", sensors=("s2",), **of_space
) -> Embeddings:
    """Write patches `p0`, `p1`, ... from number `first` on.

    Number n is S2_n, and S1_n if even; lies in country n % 3, split n % 2, at longitude n % 100 / 10 and latitude 50.
    """
    numbers = range(first, first + len(vectors))
    columns = {
        "name": [f"p{n}" for n in numbers],
        "s2_name": [f"S2_{n}" for n in numbers],
        "s1_name": ["" if n % 2 else f"S1_{n}" for n in numbers],
        "split": [SPLITS[n % 2] for n in numbers],
        "country": [COUNTRIES[n % 3] for n in numbers],
        "time": ["2018-05-01T10:00:00" for n in numbers],
        "labels": [labels_of(n) for n in numbers],
        "epsg": [32633 for n in numbers],
        "bounds": [[float(n), 2.0, 3.0, 4.0] for n in numbers],
        "longitude": [n % 100 / 10 for n in numbers],
        "latitude": [50.0 for n in numbers],
        "shard": [n % 7 for n in numbers],
        "offset": [1000 * n for n in numbers],
    }
    head = EmbeddingsHead(space(vectors.shape[1], **of_space), dtype, sensors, "all", len(vectors), "c" * 64)
    write_embeddings(path, head, columns, vectors, rows=500)
    return Embeddings(path)
