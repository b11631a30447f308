"""Embeddings without a model: patches lie on a circle, so that everybody's neighbours are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bigearth_tf.records.facts import RecordFacts, read_record_facts
from bigearth_tf.records.manifest import Manifest, manifest_sha256
from bigearth_tf.records.places import centers
from bigearth_tf.retrieval.embeddings import TEXT_COLUMNS, EmbeddingsHead, VectorSpace, write_embeddings


def circle_space(records: Path, model: str = "circle") -> VectorSpace:
    """Return the space of `write_circle`: width 2."""
    return VectorSpace(model, f"{len(model):064d}", "features", 2, Manifest.load(records).contract)


def angle(place: int) -> float:
    """Return the angle of a patch in degrees, 0, 1, 4, 9, ...: a patch is nearer to the one before it."""
    return float(place**2)


def write_circle(path: Path, records: Path, *, start: int = 0, space: VectorSpace | None = None) -> list[RecordFacts]:
    """Write embeddings of records, and return their facts in the order of their names, which is that on the circle.

    Args:
        path: file to write.
        records: records folder.
        start: place of the first patch on the circle.
        space: of the vectors; that of `circle_space` unless given.
    """
    facts = list(read_record_facts(records))
    named = sorted(facts, key=lambda fact: fact.name)
    turns = np.radians([angle(start + named.index(fact)) for fact in facts])
    longitude, latitude = centers([fact.epsg for fact in facts], [fact.bounds for fact in facts])
    space = space or circle_space(records)
    classes = len(space.contract.nomenclature)
    columns: dict[str, Sequence] = {name: [getattr(fact, name) for fact in facts] for name in TEXT_COLUMNS}
    columns |= {name: [getattr(fact, name) for fact in facts] for name in ("epsg", "bounds", "shard", "offset")}
    columns |= {"labels": [f.labels[classes] for f in facts], "longitude": longitude, "latitude": latitude}
    head = EmbeddingsHead(space, "float32", ("s2", "s1"), "all", len(facts), manifest_sha256(records))
    write_embeddings(path, head, columns, np.stack([np.cos(turns), np.sin(turns)], axis=-1))
    return named
