"""How fast and how exact is each kind of index over the whole archive?

One run builds every kind of index of `bigearth_tf.retrieval` over as many vectors as the archive has patches, and asks
all of them the same queries with the same threads, in turn, so that all see the same noise:

numpy                baseline: a product of matrices and a partial sort, exact; recall is against what it finds
flat                 baseline: exact search of faiss
ivf hnsw pq binary   searched with the effort that the index chose when it was built

The limit of exact search is the product of matrices alone: of a batch, and of one query, which reads the gallery once.

`queries_per_s` is of one batch, where exact search is at its best: it reads a vector once for many queries. One query
after the other, as people ask, is told too. `recall_at_10` is the share of the ten nearest that was found; what is as
near as the tenth counts. `memory_bytes` is by how much the resident memory of a process grows when it opens the index
and answers the queries: pages of mapped files count, though the system may take them back. An index is built with as
many threads as it is asked with; `build_s` contains the choice of its effort, `disk_bytes` the embeddings.

Embeddings of 590,000 real patches are not at hand, and noise is no stand-in. A small model is trained to compare the
patches of a synthetic archive, its embeddings are measured, and a generator draws as many as wanted that measure alike
(see _vectors.py): a table says how alike. Queries are drawn too; none is in the gallery. What this cannot show:
embeddings of the real archive may have another intrinsic dimension, and with it other speeds at the same recall.
`--like` takes embeddings of a model of yours; if they are enough, they are used as they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from operator import itemgetter
from pathlib import Path

import _index_job
import numpy as np
from _common import synthetic_archive
from _index_job import NUMPY
from _vectors import NEIGHBOURS, Geometry, distances, fit, near_geometry, nearest, unit

KINDS = ("flat", "ivf", "hnsw", "pq", "binary")
FLAT = "flat"
EXACT = (NUMPY, FLAT)
MODEL = "shallow_cnn_s1s2_early"
SMALL = {"dropout": 0.2, "conv_dropout": 0.0, "stride": 4}
SAMPLE = 6000  # embeddings that the generator is fitted to


def main() -> None:
    options = _options()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # of the processes that are started below
    with tempfile.TemporaryDirectory(prefix="bigearth-bench-") as scratch:
        scratch = Path(scratch)
        embeddings = options.like or _train(scratch, options)
        _make(embeddings, scratch, options)
        rows = _compare(scratch, _build_all(scratch, options), options)
    _print(rows, options)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def _options() -> argparse.Namespace:
    options = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    options.add_argument("--patches", type=int, default=590_000, help="vectors in the gallery")
    options.add_argument("--queries", type=int, default=2000, help="held-out vectors, asked in one batch")
    options.add_argument("--singles", type=int, default=500, help="of these, asked one by one")
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of index")
    options.add_argument("--recall", type=float, default=0.95, help="recall@10 that an index shall reach")
    options.add_argument("--threads", type=int, default=os.cpu_count(), help="of every row")
    options.add_argument("--repeats", type=int, default=3, help="rounds; the best of each row counts")
    options.add_argument("--like", type=Path, metavar="EMB", help="embeddings of a trained model; else one is trained")
    options.add_argument("--width", type=int, default=128, help="of the embeddings, without --like")
    options.add_argument("--train-patches", type=int, default=4000, help="pairs of the synthetic archive")
    options.add_argument("--epochs", type=int, default=6, help="passes over its training split")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    return options.parse_args()


def _train(scratch: Path, options) -> Path:
    """Return embeddings of a synthetic archive by a model that was trained to compare."""
    start = time.perf_counter()
    out = scratch / "embeddings.arrow"
    with synthetic_archive(options.train_patches) as (archive, folder):
        from bigearth_tf.records.writer import write_records
        from bigearth_tf.retrieval.embed import embed
        from bigearth_tf.retrieval.embedder import ModelEmbedder
        from bigearth_tf.training.config import TrainConfig
        from bigearth_tf.training.fit import fit as train

        write_records([archive], folder / "records")
        config = TrainConfig(
            MODEL,
            model_options={**SMALL, "embedding_width": options.width},
            metric_loss="contrastive",
            epochs=options.epochs,
            batch_size=64,
            cache="memory",
            seed=0,
        )
        with tempfile.TemporaryDirectory() as run:
            model = train(config, folder / "records", run).model
        embed(ModelEmbedder(model), folder / "records", out, split="all", dtype="float32")
    print(
        f"{MODEL} trained on {options.train_patches} synthetic pairs: {time.perf_counter() - start:.0f} s", flush=True
    )
    return out


def _make(source: Path, scratch: Path, options) -> None:
    """Write gallery.arrow and queries.npy, and print what their geometry is."""
    from bigearth_tf.retrieval.embeddings import Embeddings

    embeddings = Embeddings(source)
    order = np.random.default_rng(0).permutation(len(embeddings))
    sample = np.sort(order[:SAMPLE])
    vectors = unit(embeddings.vectors(sample))
    _, sets = np.unique(embeddings.multi_hot[sample], axis=0, return_inverse=True)
    generator, real, same = fit(vectors, sets.ravel())
    if len(embeddings) >= options.patches + options.queries:
        chosen = order[: options.patches]
        gallery, queries = embeddings.vectors(chosen), embeddings.vectors(order[-options.queries :])
    else:
        gallery, around = generator.draw(options.patches, seed=1)
        chosen = sample[around]
        queries, _ = generator.draw(options.queries, seed=2)
    _write(scratch / "gallery.arrow", embeddings, chosen, gallery)
    gallery, queries = unit(Embeddings(scratch / "gallery.arrow").vectors()), unit(queries)
    np.save(scratch / "queries.npy", queries)
    rows, _ = nearest(gallery, queries, NEIGHBOURS)
    full = near_geometry(distances(queries, gallery, rows))
    counts = np.sort(np.bincount(sets.ravel()))[::-1]
    print(
        f"{len(sample):,} embeddings of width {vectors.shape[1]} in {len(counts)} label sets (the largest has "
        f"{counts[0] / counts.sum():.0%}, the ten largest {counts[:10].sum() / counts.sum():.0%}); drawn around each "
        f"from {generator.near.shape[1]} neighbours with spread {generator.spread}"
    )
    _print_geometry(real, same, full, len(sample), options.patches)


def _write(path: Path, source, chosen: np.ndarray, vectors: np.ndarray) -> None:
    """Write vectors as `embed` does, with the facts of the rows of a source that were chosen, under new names."""
    from bigearth_tf.retrieval.embeddings import TEXT_COLUMNS, write_embeddings

    columns = {name: source.text(name)[chosen] for name in TEXT_COLUMNS}
    columns["name"] = columns["s2_name"] = np.array([f"patch-{number}" for number in range(len(chosen))], object)
    columns["s1_name"] = np.full(len(chosen), "", object)
    for name in set(source.table.column_names) - {*TEXT_COLUMNS, "embedding"}:
        values = source.table[name].to_pylist()
        columns[name] = [values[row] for row in chosen]
    write_embeddings(path, dataclasses.replace(source.head, dtype="float16", patches=len(chosen)), columns, vectors)


def _print_geometry(real: Geometry, same: Geometry, full: Geometry, sample: int, patches: int) -> None:
    """Print the geometry of the sample, of as many vectors drawn around a quarter of it, and of the gallery."""
    print(f"\n{'geometry':<34}{f'real {sample:,}':>14}{f'drawn {sample:,}':>16}{f'gallery {patches:,}':>18}")
    for label, of in (
        ("dimension, TwoNN", lambda g: g.two_nn),
        ("dimension, Levina and Bickel", lambda g: g.mle),
        ("distance to the nearest, median", lambda g: g.nearest),
        ("nearest / tenth nearest", lambda g: g.contrast),
        ("duplicates, share", lambda g: g.duplicates),
        ("variance of 1 component", lambda g: g.components and g.components[0]),
        ("variance of 10 components", lambda g: g.components and g.components[1]),
        ("hubness (skewness)", lambda g: g.hubness),
        ("variance between label sets", lambda g: g.between),
        ("silhouette of label sets", lambda g: g.silhouette),
    ):
        cells = ["" if of(g) is None else f"{of(g):.3f}" for g in (real, same, full)]
        print(f"{label:<34}{cells[0]:>14}{cells[1]:>16}{cells[2]:>18}")
    print("drawn: around a quarter of the real ones; gallery: around all of them, seen from the queries\n", flush=True)


def _build_all(scratch: Path, options) -> dict[str, dict]:
    """Build each kind in a process of its own; return name -> what the row says of it."""
    built = {NUMPY: {"build_s": 0.0, "effort": None, "disk_bytes": 0}}
    for kind in dict.fromkeys((FLAT, *options.kinds)):
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            built[kind] = process.submit(_index_job.build, kind, scratch, options.recall, options.threads).result()
        print(f"{kind}: built in {built[kind]['build_s']:.0f} s", flush=True)
    return built


def _compare(scratch: Path, built: dict[str, dict], options) -> list[dict]:
    """Return a row for each of `built`, asked in turn, each in a process of its own."""
    with ExitStack() as stack:
        processes = {name: stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"))) for name in built}
        opened = {
            name: process.submit(_index_job.open_index, name, scratch).result() for name, process in processes.items()
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in built}
        for _ in range(options.repeats):
            for name, process in processes.items():
                times[name].append(process.submit(_index_job.ask_all).result())
        each = {
            name: process.submit(_index_job.ask_each, options.singles).result() for name, process in processes.items()
        }
        limits = processes[NUMPY].submit(_index_job.limits, scratch).result()
    recalls = _index_job.recalls(scratch, {name: rows for name, (rows, _) in opened.items()})
    wall, cpu = ({name: min(rounds, key=itemgetter(n))[n] for name, rounds in times.items()} for n in (0, 1))
    return [
        {
            "name": name,
            "queries_per_s": options.queries / wall[name],
            "recall_at_10": recalls[name],
            "memory_bytes": opened[name][1],
            **built[name],
            "times_flat": wall[FLAT] / wall[name],
            "cpu_us_per_query": 1e6 * cpu[name] / options.queries,
            "cpu_times_flat": cpu[FLAT] / cpu[name],
            "one_by_one_per_s": len(each[name]) / sum(each[name]),
            "one_by_one_times_flat": sum(each[FLAT]) / sum(each[name]),
            "p50_ms": 1e3 * float(np.quantile(each[name], 0.5)),
            "p99_ms": 1e3 * float(np.quantile(each[name], 0.99)),
            "of_limit": limits[0] / wall[name] if name in EXACT else None,
            "one_by_one_of_limit": limits[1] / min(each[name]) if name in EXACT else None,
            "patches": options.patches,
            "threads": options.threads,
        }
        for name in built
    ]


def _print(rows: list[dict], options) -> None:
    print(f"\n{options.patches:,} vectors, {options.queries:,} queries, {options.threads} threads")
    print(
        "| index | effort | recall@10 | queries/s | x flat | of limit | processor us | x flat | one by one: queries/s "
        "| x flat | of limit | p50, p99 ms | memory MB | disk MB | build s |\n" + "|---" * 15 + "|"
    )
    for row in rows:
        cells = [
            row["name"],
            "" if row["name"] in EXACT else f"{row['effort']}",
            f"{row['recall_at_10']:.3f}",
            f"{row['queries_per_s']:,.0f}",
            f"{row['times_flat']:.1f}",
            "" if row["of_limit"] is None else f"{row['of_limit']:.2f}",
            f"{row['cpu_us_per_query']:,.0f}",
            f"{row['cpu_times_flat']:.1f}",
            f"{row['one_by_one_per_s']:,.0f}",
            f"{row['one_by_one_times_flat']:.1f}",
            "" if row["one_by_one_of_limit"] is None else f"{row['one_by_one_of_limit']:.2f}",
            f"{row['p50_ms']:.2f}, {row['p99_ms']:.2f}",
            f"{row['memory_bytes'] / 1e6:,.0f}",
            f"{row['disk_bytes'] / 1e6:,.0f}",
            f"{row['build_s']:.0f}",
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
