"""How fast does load_dataset feed a training step?

Baseline: rasterio, file by file. Limit: reading the same shards without decoding anything. All 14 bands, batches of
64, from the page cache, iterated from Python as `model.fit` does.
"""

from __future__ import annotations

from _common import best_rates, parser, rasterio_bands, report, synthetic_archive

from bigearth_tf.archive.metadata import index_archive

BATCH = 64
PASSES = 3


def main() -> None:
    options = parser(__doc__.splitlines()[0], patches=600).parse_args()
    with synthetic_archive(options.patches) as (archive, scratch):
        import tensorflow as tf

        from bigearth_tf.pipelines.dataset import INTERLEAVED_SHARDS, load_dataset
        from bigearth_tf.records.writer import write_records

        manifest = write_records([archive], scratch / "records", shards=8)
        files = [str(scratch / "records" / shard.file) for shard in manifest.of_split("all")]
        slow = [e for e in index_archive([archive]).entries if not e.excluded][: options.patches // 10]

        # Datasets are built once, as for a training run; what counts is the flow of batches.
        plain = load_dataset(scratch / "records", "all", batch_size=BATCH)
        augmented = load_dataset(scratch / "records", "all", batch_size=BATCH, augment=True)
        undecoded = (
            tf.data.Dataset.from_tensor_slices(files)
            .interleave(tf.data.TFRecordDataset, cycle_length=INTERLEAVED_SHARDS, num_parallel_calls=tf.data.AUTOTUNE)
            .batch(BATCH)
            .prefetch(tf.data.AUTOTUNE)
        )

        def flow(dataset: tf.data.Dataset) -> int:
            count = 0
            for _ in range(PASSES):
                for batch in dataset:
                    count += len(batch[1] if isinstance(batch, tuple) else batch)
            return count

        def with_rasterio() -> int:
            for entry in slow:
                rasterio_bands(entry)
            return len(slow)

        jobs = {
            "ours": lambda: flow(plain),
            "augmented": lambda: flow(augmented),
            "rasterio": with_rasterio,
            "limit": lambda: flow(undecoded),
        }
        for job in jobs.values():
            job()  # warm the page cache and TensorFlow
        rates = best_rates(jobs, options.repeats)
    report(
        f"reading {manifest.records_in('all')} pairs, 14 bands, batches of {BATCH}",
        rates,
        options.json,
        {
            "ours": "load_dataset: parsed, decoded, shaped",
            "augmented": "the same with flips and quarter turns",
            "rasterio": "GeoTIFFs by rasterio, file by file",
            "limit": "the same shards as serialised strings",
        },
        per_core=False,
    )


if __name__ == "__main__":
    main()
