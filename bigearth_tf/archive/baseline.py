"""Processing baseline of Sentinel-2 files: what lies with them about the level and the offset of their values.

A product of processing baseline 04.00 or later (since 25 January 2022, and every product that was processed again as
Collection 1) holds reflectance x 10000 + 1000; earlier ones hold reflectance x 10000. The archives are of the earlier
kind: v1 by its date; v2 was processed again by its authors (N9999 in the names), and its means are those of v1. So a
model that is fed a later product as it is sees a landscape that is too bright by 0.1 everywhere.

The offset is a matter of the product, not of the date, and no pixel shows it for certain. What says it:

    MTD_MSIL2A.xml, MTD_MSIL1C.xml   the product's own metadata: offset by band
    STAC item                        *.json: baseline, offset, or that the provider took it off
    tags of a band file              as GDAL writes them
    names                            N0509 in a product name of folders and files

The first that is there is the most exact, and all must agree.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from bigearth_tf.archive import geotiff
from bigearth_tf.archive.layout import LABELS_SUFFIX
from bigearth_tf.archive.patch import band_files
from bigearth_tf.bands import BAND_SETS, BANDS, L1C_UNIT, UNITS
from bigearth_tf.errors import ArchiveError, GeoTiffError

# First baseline with an offset, and the offset, the same for all bands since then: ESA, "Introduction of additional
# Radiometric Offset in PB04.00 products", forum.step.esa.int/t/35431; SentiWiki, S2 Products, Level-2A Products.
_FIRST_WITH_OFFSET, USUAL_OFFSET = (4, 0), -1000
# Baseline of what somebody processed with Sen2Cor: tells nothing of the offset, which follows that of the L1C input.
_OWN_PROCESSING = (99, 99)
# Special values of the XML, NODATA and SATURATED: no measurements, so they stay (SentiWiki, as above).
_NODATA, _SATURATED = 0, 65535
# What was below zero before baseline 04.00: ESA, as above, "clamped to a predefined range (e.g. [1-32767])".
_DARKEST = 1

# level -> metadata file and the element that gives the offset of a band (Sentinel-2 Products Specification Document)
_METADATA = {"L2A": ("MTD_MSIL2A.xml", "BOA_ADD_OFFSET"), "L1C": ("MTD_MSIL1C.xml", "RADIO_ADD_OFFSET")}
# unit of a contract -> level
LEVELS = {UNITS["s2"]: "L2A", L1C_UNIT: "L1C"}
# `band_id` of these elements (Spectral_Information_List of every product); B10 is in no archive
_BAND_IDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
_S2_BANDS = BAND_SETS["all"].of_sensor("s2").bands
# Product names of ESA, and the names of v1 and v2 that were made from them.
_PRODUCT = re.compile(r"S2[A-D]_MSI(?P<level>L1C|L2A)_\d{8}T\d{5,6}(?:_N(?P<baseline>\d{4}))?(?:_|$)")
_LEVELS_ABOVE = 2


@dataclass(frozen=True)
class Baseline:
    """What lies with Sentinel-2 files about their processing.

    Attributes:
        level: `L2A`, `L1C`, or empty where nothing says it.
        version: processing baseline such as `05.09`, empty where nothing says it.
        offsets: band name -> DN to add so that DN are reflectance x 10000, for the bands that have an offset; empty
            where there is none; None where nothing says it.
        source: the file or folder that says so.
        harmonized: a provider says that it took the offset off.
    """

    level: str
    version: str
    offsets: Mapping[str, int] | None
    source: Path
    harmonized: bool = False

    def __str__(self) -> str:
        baseline = f"baseline {self.version}" if self.version else "no baseline"
        if self.offsets is None:
            return f"{baseline}, nothing of an offset ({self.source})"
        values = sorted(set(self.offsets.values()))
        offset = f"offset {' and '.join(map(str, values))} DN" if values else "no offset"
        return f"{baseline}, {offset}{', taken off by its provider' if self.harmonized else ''} ({self.source})"


def find_baseline(folder: Path | str, *, check_offset: bool = True) -> Baseline | None:
    """Find out how the Sentinel-2 files in a folder were processed.

    Looked at are the folder, two levels above it, and a folder `*.SAFE` that it lies in. Names and metadata of the
    archives themselves say the level and nothing of an offset.

    Args:
        folder: that holds the band files.
        check_offset: sources must agree on the offset; otherwise the first counts.

    Returns:
        What was found; None where nothing says anything.

    Raises:
        ArchiveNotFoundError: the folder does not exist.
        ArchiveError: two sources contradict each other, or a metadata file cannot be read.
    """
    folder = Path(folder).absolute()
    files = {name: path for name, path in band_files([folder]).items() if BANDS[name].sensor == "s2"}
    places = _places(folder)
    said = [*_of_products(places), *_of_items(places), *_of_tags(files)]
    names = list(_of_names([*places, *files.values()]))
    if any(one.harmonized for one in said):  # which a name cannot know
        names = [Baseline(name.level, name.version, None, name.source) for name in names]
    return _agreed([*said, *names], check_offset)


def harmonize(pixels: np.ndarray, offset: int) -> np.ndarray:
    """Bring pixels to the values that products without an offset hold.

    ESA cut reflectance below zero off at DN 1 before there was an offset, and so does this: 0 means no data. (Sentinel
    Hub's `harmonizeValues` and the Planetary Computer's recipe end at 0, which turns the darkest water into holes.)

    Args:
        pixels: uint16 DN; 0 (no data) and 65535 (saturated) stay.
        offset: DN to add, such as -1000.

    Returns:
        Array of the same shape and type.
    """
    special = (pixels == _NODATA) | (pixels == _SATURATED)
    moved = np.clip(pixels.astype(np.int32) + offset, _DARKEST, _SATURATED)
    return np.where(special, pixels, moved).astype(pixels.dtype)


def _places(folder: Path) -> list[Path]:
    above = list(folder.parents)
    safe = next((path for path in above[_LEVELS_ABOVE:] if path.suffix.upper() == ".SAFE"), None)
    return [folder, *above[:_LEVELS_ABOVE], *([safe] if safe else [])]


def _agreed(said: list[Baseline], check_offset: bool) -> Baseline | None:
    """Return what all sources say together; the first is the most exact one."""
    if not said:
        return None
    level = next((one for one in said if one.level), said[0])
    offset = next((one for one in said if one.offsets is not None), None)
    for one in said:
        if one.level not in ("", level.level):
            raise ArchiveError(
                f"files beside a patch must agree on its processing level; {level.source} says {level.level}, "
                f"{one.source} says {one.level}. Keep the metadata of this patch only beside it"
            )
        if check_offset and offset and _differ(one.offsets, offset.offsets):
            raise ArchiveError(
                f"files beside a patch must agree on its offset; found {offset}, and {one}. Keep the metadata of this "
                "patch only beside it, or decide yourself: take off what must go and say offset='ignore' (--offset)"
            )
    best = offset or level
    version = best.version or next((one.version for one in said if one.version), "")
    return Baseline(level.level, version, best.offsets, best.source, best.harmonized)


def _differ(one: Mapping[str, int] | None, other: Mapping[str, int]) -> bool:
    return one is not None and any(one.get(band, 0) != other.get(band, 0) for band in _S2_BANDS)


def _parse_version(text: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d{1,2})\.(\d{1,2})|N?(\d\d)(\d\d)", text.strip())
    return tuple(int(part) for part in match.groups() if part) if match else None


def _usual_offsets(version: tuple[int, int] | None) -> dict[str, int] | None:
    """Return the offsets that ESA's products of a baseline have; None where it does not tell."""
    if version in (None, _OWN_PROCESSING):
        return None
    return dict.fromkeys(_S2_BANDS, USUAL_OFFSET) if version >= _FIRST_WITH_OFFSET else {}


def _of_products(places: list[Path]) -> Iterator[Baseline]:
    """Read the product metadata; without any element no band has an offset."""
    for place in places:
        for level, (name, element) in _METADATA.items():
            if (path := place / name).is_file():
                yield _of_product(path, level, element)


def _of_product(path: Path, level: str, element: str) -> Baseline:
    try:
        root = ElementTree.parse(path).getroot()
        nodes = [(node.tag.rpartition("}")[2], node) for node in root.iter()]
        text = next(((node.text or "").strip() for tag, node in nodes if tag == "PROCESSING_BASELINE"), "")
        listed = [
            (_BAND_IDS[int(node.attrib["band_id"])], int(float(node.text))) for tag, node in nodes if tag == element
        ]
    except (ElementTree.ParseError, OSError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ArchiveError(
            f"{path}: product metadata must be readable, got {type(error).__name__}: {error}; fetch it again"
        ) from None
    version = _parse_version(text)
    uri = next(((node.text or "").strip() for tag, node in nodes if tag == "PRODUCT_URI"), "")
    named = _PRODUCT.match(uri)
    if named and named["baseline"] and version and _parse_version(named["baseline"]) != version:
        raise ArchiveError(
            f"{path} contradicts itself: PROCESSING_BASELINE is {text}, and the product is named {uri}; fetch it again "
            "from the product"
        )
    lacking = [band for band in _S2_BANDS if band not in dict(listed)]
    if lacking and (listed or _usual_offsets(version)):
        raise ArchiveError(
            f"{path}: products of baseline 04.00 and later give {element} for each band; this file, of baseline "
            f"{text or 'unknown'}, lacks {', '.join(lacking)}; fetch it again from the product"
        )
    if listed and _usual_offsets(version) == {}:
        raise ArchiveError(
            f"{path} contradicts itself: products of baseline {text} have no offset, and it gives {element}; fetch it "
            "again from the product"
        )
    return Baseline(level, text, {band: value for band, value in listed if value}, path)


def _of_items(places: list[Path]) -> Iterator[Baseline]:
    """Read STAC items: any JSON file beside the bands, above them `<folder>/<folder>.json`, where items lie by custom.

    Folders above are not listed: that of an archive holds half a million names.
    """
    beside = (path for path in sorted(places[0].glob("*.json")) if not path.name.endswith(LABELS_SUFFIX))
    for path in (*beside, *(place / f"{place.name}.json" for place in places[1:])):
        if path.is_file() and (item := _read_item(path)) and (found := _of_item(item, path)):
            yield found


def _read_item(path: Path) -> dict[str, Any] | None:
    """Return the STAC item of Sentinel-2 in a file; None where the file is something else."""
    try:
        data = path.read_bytes()
        item = json.loads(data) if b'"stac_version"' in data else None
    except (OSError, ValueError) as error:
        raise ArchiveError(f"{path}: a STAC item must be readable JSON, got {error}; fetch it again") from None
    if not isinstance(item, dict) or not isinstance(item.get("properties"), dict):
        return None
    properties = item["properties"]
    named = (item.get("id"), item.get("collection"), properties.get("constellation"), properties.get("platform"))
    return item if any(str(name).lower().startswith(("s2", "sentinel-2")) for name in named) else None


# `s2:` is of the STAC extension sentinel-2 (Planetary Computer, Earth Search), `processing:` and `product:` of those
# that replaced it (Copernicus Data Space), `sentinel:` of Earth Search v0.
_ITEM_BASELINE = ("s2:processing_baseline", "processing:version", "sentinel:processing_baseline")
_ITEM_LEVEL = ("s2:product_type", "product:type", "processing:level")
# Earth Search says with these whether its copies have the offset taken off; their `raster:bands` give -0.1 either way
# (github.com/Element84/earth-search issue 66, github.com/cirrus-geo/cirrus-earth-search issue 21).
_ITEM_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")


def _of_item(item: Mapping[str, Any], path: Path) -> Baseline | None:
    properties = item["properties"]
    text = next((str(properties[key]) for key in _ITEM_BASELINE if properties.get(key)), "")
    kinds = [str(properties.get(key)).upper() for key in _ITEM_LEVEL] + [str(item.get("collection")).upper()]
    level = next((level for kind in kinds for level in _METADATA if kind.endswith((level, f"MSI{level[1:]}"))), "")
    offsets = _usual_offsets(_parse_version(text))
    applied = next((properties[key] for key in _ITEM_APPLIED if key in properties), None)
    if applied is None:
        offsets = _of_assets(item.get("assets")) or offsets
    elif applied:
        return Baseline(level, text, {}, path, harmonized=True)
    return Baseline(level, text, offsets, path) if level or text or offsets is not None else None


def _of_assets(assets: Any) -> dict[str, int]:
    """Return the offsets that the assets of an item give: reflectance = DN * scale + offset (extension raster)."""
    offsets = {}
    for key, asset in assets.items() if isinstance(assets, dict) else ():
        bands = asset.get("bands") or asset.get("eo:bands") or [{}]
        values = (asset.get("raster:bands") or bands)[0]
        match = re.search(r"B(\d\d?|8A)(?:_|$)", str(bands[0].get("name") or key).upper())
        band = f"B{match[1]:0>2}" if match else ""
        scale, offset = (values.get(name, values.get(f"raster:{name}", asset.get(f"raster:{name}")))
                         for name in ("scale", "offset"))  # fmt: skip
        if band in _S2_BANDS and scale and offset:
            offsets[band] = round(offset / scale)
    return offsets


def _of_tags(files: Mapping[str, Path]) -> Iterator[Baseline]:
    """Read the tags that GDAL writes: those of its Sentinel-2 driver (github.com/OSGeo/gdal pull 8379), or an offset.

    A plain file of the archive has none.
    """
    for name, path in files.items():
        if geotiff.is_plain(geotiff.read_bytes(path), BANDS[name]):
            continue
        tags, scale, offset = _read_tags(path)
        listed = {level: tags[element] for level, (_, element) in _METADATA.items() if element in tags}
        text = tags.get("PROCESSING_BASELINE", "")
        level = next(iter(listed), "")
        usual = _usual_offsets(_parse_version(text))
        value = int(float(listed[level])) if listed else round(offset / scale) if offset else None
        if value is None and usual is not None:
            value = usual.get(name, 0)
        if level or text or value:
            # one file tells of the others only what it would say itself
            offsets = None if value is None else dict.fromkeys(_S2_BANDS, value) if value else {}
            yield Baseline(level, text, offsets, path)


def _read_tags(path: Path) -> tuple[dict[str, str], float, float]:
    """Return the tags of a GeoTIFF and its band together, and its scale and offset."""
    import rasterio.errors  # only for files that are not plain: importing GDAL takes a while

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(path, driver="GTiff") as file:
                return {**file.tags(), **file.tags(1)}, file.scales[0], file.offsets[0]
    except rasterio.errors.RasterioError as error:
        raise GeoTiffError(f"{path}: not a readable GeoTIFF ({error}); fetch it again") from None


def _of_names(paths: list[Path]) -> Iterator[Baseline]:
    for path in paths:
        if match := _PRODUCT.match(path.name):
            version = _parse_version(match["baseline"] or "")
            text = "{:02d}.{:02d}".format(*version) if version else ""
            yield Baseline(match["level"], text, _usual_offsets(version), path)
