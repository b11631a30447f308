"""The text features of records, without their pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bigearth_tf.errors import RecordsError
from bigearth_tf.records.skim import skim_records


def read_texts(path: Path | str, keys: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield key -> text of every record of a file; empty where a record has none.

    The checksums of the data are not compared: that would read all pixels.

    Args:
        path: TFRecord file of this package.
        keys: names of text features, such as `name`.

    Raises:
        RecordsError: the file does not exist, is truncated, or holds no records of this package.
    """
    for at, feature in skim_records(path):
        try:
            yield {key: text_of(feature, key) for key in keys}
        except UnicodeDecodeError:
            raise RecordsError(f"{path}: the record at byte {at} is damaged or foreign") from None


def text_of(feature, key: str) -> str:
    """Return a text feature of a record, empty where there is none."""
    values = feature[key].bytes_list.value if key in feature else ()
    return values[0].decode() if values else ""
