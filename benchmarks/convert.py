"""How fast is the conversion to TFRecord, per core?

Baseline: the same conversion with every band read and checked by rasterio, file by file. Limit: copying the same
files' bytes into one file. One process, from the page cache. The rate per core is patches per second of processor time
(user and system, all threads): what a core can do, without the wait for the disk that flushes the shards; the rate by
the clock stands beside it.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

from _common import best_rates, parser, rasterio_bands, report, synthetic_archive

from bigearth_tf.archive.layout import band_path
from bigearth_tf.archive.metadata import index_archive
from bigearth_tf.archive.patch import read_patch
from bigearth_tf.bands import BAND_SETS, BANDS

SHARE = 8


def main() -> None:
    options = parser(__doc__.splitlines()[0], patches=1000).parse_args()
    with synthetic_archive(options.patches) as (archive, scratch):
        import tensorflow as tf

        from bigearth_tf.records.schema import encode_record
        from bigearth_tf.records.writer import write_records

        index = index_archive([archive])
        entries = [e for e in index.entries if not e.excluded]
        rounds = itertools.count()
        # names, labels and place of the baseline's records, read beforehand: only the bands are left to rasterio
        places = {e.name: dataclasses.replace(read_patch(e, index.version), bands={}) for e in entries}

        def ours() -> int:
            return write_records([archive], scratch / "records", overwrite=True).records_in("all")

        def with_rasterio() -> int:
            # an eighth takes long enough; another one each round, so that its files are no warmer than ours
            slow = entries[next(rounds) % SHARE :: SHARE]
            with tf.io.TFRecordWriter(str(scratch / "baseline.tfrecord")) as writer:
                for entry in slow:
                    writer.write(encode_record(dataclasses.replace(places[entry.name], bands=rasterio_bands(entry))))
            return len(slow)

        def copy() -> int:
            with open(scratch / "copy.bin", "wb") as out:
                for entry in entries:
                    for path in _files(entry):
                        with open(path, "rb", buffering=0) as file:
                            out.write(file.read())
            return len(entries)

        ours()  # warm the page cache and TensorFlow
        rates = best_rates({"ours": ours, "rasterio": with_rasterio, "limit": copy}, options.repeats)
    report(
        f"conversion of {len(entries)} pairs, one process, patches per second of processor time",
        rates,
        options.json,
        {
            "ours": "records write: read, check, serialise, write, hash, fsync",
            "rasterio": "the same records, bands read and checked by rasterio file by file",
            "limit": "copying the same files' bytes into one file",
        },
        per_core=True,
    )


def _files(entry) -> list[Path | str]:
    return [
        band_path(folder, BANDS[name])
        for sensor, folder in (("s2", entry.s2_dir), ("s1", entry.s1_dir))
        for name in BAND_SETS["all"].of_sensor(sensor).bands
    ]


if __name__ == "__main__":
    main()
