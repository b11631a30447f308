"""What a v2 reference map says of its patch: the share of each class, and so the labels."""

from __future__ import annotations

import numpy as np

from bigearth_tf.bands import BANDS
from bigearth_tf.errors import ConfigError, LabelError
from bigearth_tf.nomenclature import CLASSES_19, CLC_CODES, CLC_GLACIERS, CLC_NODATA, CLC_UNLABELED, MAP_43_TO_19

_SIZE = BANDS["B02"].size  # a map has the grid of the 10 m bands
_NO_CLASS, _UNKNOWN = len(CLASSES_19), len(CLASSES_19) + 1


def _class_of_code() -> np.ndarray:
    """Return the index of the class of every uint16 value, or one of the two places behind the classes."""
    table = np.full(1 << 16, _UNKNOWN, np.uint8)
    table[[CLC_GLACIERS, CLC_UNLABELED, CLC_NODATA]] = _NO_CLASS
    for code, name in CLC_CODES.items():
        target = MAP_43_TO_19[name]
        table[code] = _NO_CLASS if target is None else CLASSES_19.index(target)
    return table


_CLASS_OF_CODE = _class_of_code()


def class_areas(codes: np.ndarray) -> np.ndarray:
    """Return which share of a patch each of the 19 classes covers.

    Pixels of no class (unlabeled, nodata, glaciers and the 11 dropped classes) belong to the patch, so the shares add
    up to what is labeled of it: at most 1.

    Args:
        codes: a reference map, (120, 120) uint16 CLC codes as `read_reference_map` returns it.

    Returns:
        (19,) float32 in [0, 1], in CLC order.

    Raises:
        LabelError: a value that no reference map holds.
        ConfigError: an array of another shape or type.
    """
    if codes.shape != (_SIZE, _SIZE) or codes.dtype != np.uint16:
        raise ConfigError(f"a reference map is ({_SIZE}, {_SIZE}) uint16, got {codes.shape} {codes.dtype}")
    classes = _CLASS_OF_CODE[codes]
    counts = np.bincount(classes.ravel(), minlength=_UNKNOWN + 1)
    if counts[_UNKNOWN]:
        wrong = ", ".join(map(str, np.unique(codes[classes == _UNKNOWN])))
        raise LabelError(f"reference maps hold CLC level-3 codes, 999 or 0; got {wrong}; is it a file of the archive?")
    return (counts[: len(CLASSES_19)] / codes.size).astype(np.float32)


def labels_of_map(codes: np.ndarray) -> tuple[str, ...]:
    """Return the 19-class labels of a reference map, in CLC order: the classes with at least one pixel, as v2 has it.

    Args:
        codes: as for `class_areas`, which names the errors too.
    """
    return CLASSES_19.decode(class_areas(codes))
