"""Checks inside a served graph. Their messages reach users of a stock TensorFlow Serving as they are."""

from __future__ import annotations

import tensorflow as tf

from bigearth_tf.bands import BandSet


def require(ok: tf.Tensor, *message: str | tf.Tensor) -> tf.Operation | None:
    """Fail the request unless every element is ok.

    Args:
        ok: (n,) bool.
        message: texts, and (n,) tensors whose value at the first wrong element is written between them. No quotes and
            nothing but ASCII: TensorFlow would write them as escapes.

    Returns:
        The check, to order what follows behind it; None where it ran at once.
    """
    first = tf.argmin(tf.concat([tf.cast(ok, tf.int32), [0]], axis=0))  # n where all are ok
    parts = [part if isinstance(part, str) else _at(part, first) for part in message]
    return tf.debugging.Assert(tf.reduce_all(ok), [tf.strings.join(parts)])


def after(check: tf.Operation | None):
    """Order what follows behind a check; run eagerly, a check is done when it returns None."""
    return tf.control_dependencies([check] if check is not None else [])


def number(like: tf.Tensor) -> tf.Tensor:
    """Return 0, 1, 2... for the elements of a batch: the numbers of its patches."""
    return tf.range(tf.shape(like)[0])


def check_grids(grids: dict[str, tf.Tensor], bands: BandSet) -> None:
    """Refuse pixels that no sensor measured.

    Args:
        grids: grid name -> (batch, size, size, bands) raw values.
        bands: that the grids are of.
    """
    holds_data = []
    for grid in bands.grids:
        pixels = grids[grid.name]
        if pixels.dtype.is_floating:
            require(
                tf.reduce_all(tf.math.is_finite(pixels), axis=(1, 2, 3)),
                f"{grid.name}: every value is a finite number in dB, patch ",
                number(pixels),
                " holds NaN or infinity; fill such pixels, or send the sensor as absent (all zeros)",
            )
        holds_data.append(tf.reduce_any(tf.not_equal(pixels, tf.zeros((), pixels.dtype)), axis=(1, 2, 3)))
    require(
        tf.reduce_any(tf.stack(holds_data), axis=0),
        f"a patch holds data of {' or '.join(bands.sensors)}, patch ",
        number(holds_data[0]),
        " is all zeros (no data); leave it out",
    )


def _at(values: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    texts = values if values.dtype == tf.string else tf.strings.as_string(values)
    return tf.gather(tf.concat([texts, [""]], axis=0), place)
