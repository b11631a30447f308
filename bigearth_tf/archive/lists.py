"""The official lists as published: v1 CSV files and v2 Parquet tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from bigearth_tf.errors import ArchiveError

SPLITS = ("train", "validation", "test")
SNOW, CLOUD, NO_LABEL, NO_SPLIT = "seasonal snow", "cloud or shadow", "no 19-class label", "in no official split"
# What `--include` calls the reasons for which a patch is not recommended.
REASONS = {"snow": SNOW, "cloud": CLOUD, "no-label": NO_LABEL, "no-split": NO_SPLIT}

V1_SPLIT_FILES = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}
V1_EXCLUSION_FILES = {
    SNOW: "patches_with_seasonal_snow.csv",
    CLOUD: "patches_with_cloud_and_shadow.csv",
    NO_LABEL: "patches_with_no_19_class_targets.csv",
}
V2_CLEAN, V2_FLAGGED = "metadata.parquet", "metadata_for_patches_with_snow_cloud_or_shadow.parquet"

# md5 of the lists as published. Sources: v1 one-column CSVs of kai-tub/bigearthnet_common @ 2010779 and of the
# official S2 model repositories; v2 Zenodo record 10891137.
OFFICIAL_MD5 = {
    # one column (S2 name), and two columns (S2 name, S1 name) of the multi-modal model repository
    "train.csv": ("414fe489db59cbf66fa44a659f4409ef", "623e501b38ab7b12fe44f0083c00986d"),
    "val.csv": ("7ec8f17a5f9c2b003a9fc6f74a9fbe17", "22efe8ed9cbd71fa10742ff7df2b7978"),
    "test.csv": ("b3ab2c2434d88cf03ab77ed17f1d08e0", "697fb90677e30571b9ac7699b7e5b432"),
    "patches_with_seasonal_snow.csv": ("7219803bde2ab2925ded75c5109450f5",),
    "patches_with_cloud_and_shadow.csv": ("7388ec3bee2d519846f01ecb9f95cc4d",),
    "patches_with_no_19_class_targets.csv": ("e7ccfd2669cbea5eb96daebc2504a8f7",),
    V2_CLEAN: ("55687065e77b6d0b0f1ff604a6e7b49c",),
    V2_FLAGGED: ("fe31856f4986d446c9468b59d6387c91",),
}

# Patches of each split as recommended. Sources: rows of the official lists (v1 CSVs, v2 metadata.parquet).
OFFICIAL_COUNTS = {
    "v1": {"train": 269_695, "validation": 123_723, "test": 125_866},
    "v2": {"train": 237_871, "validation": 122_342, "test": 119_825},
}

_V2_COLUMNS = (
    "patch_id", "labels", "split", "country", "s1_name", "s2v1_name",
    "contains_seasonal_snow", "contains_cloud_or_shadow",
)  # fmt: skip


def read_csv_list(path: Path) -> list[tuple[str, ...]]:
    """Read an official v1 list: rows of one or two names, no header, CRLF or LF."""
    lines = path.read_text("utf-8").split("\n")
    return [tuple(c.strip() for c in line.split(",")) for line in lines if line.strip()]


def read_v2_columns(paths: Sequence[Path], column: str | None = None, names: Iterable[str] = ()) -> dict[str, list]:
    """Read the v2 metadata tables as columns.

    Args:
        paths: metadata.parquet and, if wanted, the one of snow, cloud and shadow.
        column, names: keep rows whose `column` is one of `names`; all rows without a column.

    Returns:
        Column name -> values; `labels` are tuples, and equal ones are one object.

    Raises:
        ArchiveError: not a table of the published schema.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    columns: dict[str, list] = {name: [] for name in _V2_COLUMNS}
    wanted = pa.array(list(names), pa.string()) if column else None
    for path in paths:
        try:
            table = pq.read_table(path, columns=list(_V2_COLUMNS))
        except (pa.ArrowException, KeyError, OSError) as error:
            raise ArchiveError(
                f"{path} is no v2 metadata table with the columns {', '.join(_V2_COLUMNS)}: {error}"
            ) from None
        if column:
            table = table.filter(pc.is_in(table[column], wanted))
        for name, values in columns.items():
            values += _tuples(table[name]) if name == "labels" else table[name].to_pylist()
    # few values in many rows: keep one object of each
    for name in ("split", "country"):
        known: dict[str, str] = {}
        columns[name] = [known.setdefault(value, value) for value in columns[name]]
    return columns


def _tuples(labels) -> list[tuple[str, ...]]:
    known: dict[tuple, tuple] = {}
    names: dict[str, str] = {}
    rows = []
    for chunk in labels.chunks:
        for batch in range(0, len(chunk), 50_000):  # a list of lists of strings is large: never all of them at once
            for row in chunk.slice(batch, 50_000).to_pylist():
                key = tuple(row)
                if key not in known:
                    known[key] = tuple(names.setdefault(name, name) for name in key)
                rows.append(known[key])
    return rows


def read_v2_table(paths: Sequence[Path], column: str | None = None, names: Iterable[str] = ()) -> list[dict]:
    """Read rows of the v2 metadata tables as dictionaries; arguments and errors as `read_v2_columns`."""
    columns = read_v2_columns(paths, column, names)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
