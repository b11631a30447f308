"""The outlines of hits as GeoJSON (RFC 7946), for any GIS."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigearth_tf.records.places import footprint
from bigearth_tf.records.stats import whole_file

if TYPE_CHECKING:
    from bigearth_tf.retrieval.index import Hit

_DIGITS = 6  # of degrees, a tenth of a metre, as RFC 7946 advises


def hits_geojson(hits: Sequence[Hit], query: Hit | None = None) -> dict[str, Any]:
    """Return the outlines of hits as a GeoJSON FeatureCollection.

    Args:
        hits: whose `rank`, `score`, `name`, `labels`, `country` and so on become properties.
        query: what was asked: the first feature, with the `role` `query`; hits have `hit`.

    Returns:
        JSON types. Polygons in longitude and latitude, closed, counterclockwise; the geometry of a patch whose place is
        unknown is null.
    """
    features = [_feature(hit, "hit", rank=hit.rank, score=round(hit.score, 6)) for hit in hits]
    if query is not None:
        features.insert(0, _feature(query, "query"))
    return {"type": "FeatureCollection", "features": features}


def write_geojson(path: Path | str, hits: Sequence[Hit], query: Hit | None = None) -> None:
    """Write `hits_geojson` as a file, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with whole_file(Path(path)) as temporary:
        temporary.write_text(json.dumps(hits_geojson(hits, query), indent=1) + "\n", "utf-8")


def _feature(patch: Hit, role: str, **properties: Any) -> dict[str, Any]:
    ring = [[round(x, _DIGITS), round(y, _DIGITS)] for x, y in footprint(patch.epsg, patch.bounds)]
    known = {"name": patch.name, "country": patch.country, "time": patch.time, "split": patch.split}
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]} if ring else None,
        "properties": {"role": role, **properties, **known, "labels": list(patch.labels)},
    }
