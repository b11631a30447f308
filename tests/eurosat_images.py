"""Tiny EuroSAT folders in the published layout, in which every band is a constant that names it.

root = write_images(tmp_path, images=5)
value("B8A", 3) in band B8A of every image `<Class>_3.tif`
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

# Written out, not asked of the package, so that a wrong order there cannot hide here.
CLASSES = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop", "Residential",
    "River", "SeaLake",
)  # fmt: skip
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
CORNER = (624602.2348443292, 4877286.033637)  # of an image of the real set; easting moves on with the image's number
PIXEL = (10.00570688714736, 9.994088099999352)


def value(band: str, number: int) -> int:
    """Return the digital number of a band: B05 is 500 and the image's number, B8A 800 and 80, B08 800 and 8."""
    digits = band[1:].replace("8A", "88")
    return 100 * int(digits) + number


def write_image(path: Path, number: int = 1, **changes) -> None:
    """Write one image as published, or with another `count`, `size`, `dtype` or `crs`."""
    kind = {"count": len(BANDS), "size": 64, "dtype": "uint16", "crs": "EPSG:32635", **changes}
    pixels = np.empty((kind["count"], kind["size"], kind["size"]), kind["dtype"])
    for i in range(kind["count"]):
        pixels[i] = value(BANDS[i], number) if i < len(BANDS) else i
    place = None if kind["crs"] is None else Affine(PIXEL[0], 0, CORNER[0] + 1000 * number, 0, -PIXEL[1], CORNER[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # that is what some tests want
        with rasterio.open(
            path, "w", driver="GTiff", width=kind["size"], height=kind["size"], count=kind["count"],
            dtype=kind["dtype"], crs=kind["crs"], transform=place, interleave="pixel",
        ) as file:  # fmt: skip
            file.write(pixels)


def image_path(root: Path, label: str, number: int) -> Path:
    return root / label / f"{label}_{number}.tif"


def write_images(root: Path, images: int = 5) -> Path:
    """Write so many images of each class; no two show the same place, and no two classes the same pixels."""
    for i, label in enumerate(CLASSES):
        for n in range(1, images + 1):
            write_image(image_path(root, label, n), n + images * i)
    return root


def write_names(root: Path, images: dict[str, int] | int) -> Path:
    """Write empty files: an index reads no pixels."""
    for label in CLASSES:
        (root / label).mkdir(parents=True)
        for n in range(1, (images if isinstance(images, int) else images.get(label, 5)) + 1):
            image_path(root, label, n).touch()
    return root
