"""Outlines of objects in annotation files, and the pixels inside them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64
from skimage.draw import polygon2mask

from autoseg.errors import DocumentError
from autoseg.geometry import IntTriple
from autoseg.untrusted.xml_reading import read_xml

Polygon = Float64[np.ndarray, "corner 2"]
"""Corners (y, x) in pixels; (0, 0) is the upper left corner of the picture, (0.5, 0.5) the centre of that pixel."""

Box = tuple[slice, slice, slice]

FEWEST_CORNERS: Final = 3


def read_aperio_polygons(path: Path) -> list[Polygon]:
    """Reads the outlines of an XML file of Aperio ImageScope: one for each `Region`, with corners `Vertex`.

    Raises:
        DocumentError: The file cannot be read, or a corner has no finite coordinates.
    """
    regions: list[list[tuple[float, float]]] = []

    def collect(name: str, attributes: Mapping[str, str]) -> None:
        if name == "Region":
            regions.append([])
        elif name == "Vertex" and regions:
            regions[-1].append((_parse(attributes, "Y", path), _parse(attributes, "X", path)))

    read_xml(path, collect)
    return [np.array(corners, np.float64) for corners in regions if len(corners) >= FEWEST_CORNERS]


def paint_polygon(polygon: Polygon, shape: IntTriple) -> tuple[Box, Bool[np.ndarray, "z y x"]]:
    """Returns the box around a polygon in a picture of one slice, and which pixels have their centres inside it."""
    first = np.clip(np.floor(polygon.min(0)), 0, shape[1:]).astype(int)
    last = np.clip(np.ceil(polygon.max(0)), first, shape[1:]).astype(int)
    box = (slice(0, 1), slice(int(first[0]), int(last[0])), slice(int(first[1]), int(last[1])))
    inside: Bool[np.ndarray, "z y x"] = polygon2mask(tuple(last - first), polygon - first - 0.5)[None]
    return box, inside


def _parse(attributes: Mapping[str, str], name: str, path: Path) -> float:
    text = attributes.get(name, "")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        msg = f"{path}: expected a number as {name} of a Vertex, found {text[:40]!r}"
        raise DocumentError(msg)
    return value
