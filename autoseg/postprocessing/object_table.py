"""Table with a row for each object of an image."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Integer
from scipy import ndimage

from autoseg.document import Part
from autoseg.geometry import Grid
from autoseg.postprocessing.application import compute_voxel_mm3
from autoseg.postprocessing.instances import FoundObjects, ObjectRule
from autoseg.postprocessing.rules import find_size_unit

MM3_PER_ML = 1000.0


class ObjectRow(Part):
    """An object of an image. Positions are indices of voxels of the image file, the first of which is 0.

    Attributes:
        case: Name of the image.
        object: Its number in the map of objects.
        class_name: Name of its class.
        voxels: Number of its voxels.
        size: Its volume; an area for images of one slice.
        unit: Unit of the size: ml, mm2, or pixel where the file has no spacing.
        mean_probability: Mean probability of its class over its voxels.
    """

    case: str
    object: int
    class_name: str
    voxels: int
    size: float
    unit: str
    centroid_x: float
    centroid_y: float
    centroid_z: float
    first_x: int
    first_y: int
    first_z: int
    last_x: int
    last_y: int
    last_z: int
    mean_probability: float


def describe_objects(
    found: FoundObjects,
    probabilities: Float32[np.ndarray, "z y x"],
    *,
    case: str,
    rules: Sequence[ObjectRule],
    grid: Grid,
) -> tuple[ObjectRow, ...]:
    """Measures every object, in the order of their numbers.

    Args:
        found: Objects of the image.
        probabilities: Probability of the most probable class.
        case: Name of the image.
        rules: Rules of the classes.
        grid: Grid of the image.
    """
    unit = find_size_unit([grid])
    voxel_size = compute_voxel_mm3(grid.shape_voxels, grid.spacing_mm) / (MM3_PER_ML if unit == "mm3" else 1.0)
    rows = []
    for index, box in enumerate(ndimage.find_objects(found.numbers)):
        is_object = found.numbers[box] == index + 1
        voxels = int(found.voxels[index])
        rows.append(
            ObjectRow(
                case=case,
                object=index + 1,
                class_name=rules[found.classes[index] - 1].name,
                size=float(f"{voxels * voxel_size:.9g}"),
                unit="ml" if unit == "mm3" else unit,
                **_measure_place(is_object, box),
                mean_probability=round(float(probabilities[box][is_object].mean(dtype=np.float64)), 4),
            )
        )
    return tuple(rows)


def is_described(numbers: Integer[np.ndarray, "z y x"], table: str) -> bool:
    """Returns whether the rows of a table describe the objects of a map: their voxels, boxes and centroids."""
    rows = list(csv.DictReader(io.StringIO(table)))
    if numbers.min(initial=0) < 0 or numbers.max(initial=0) != len(rows):
        return False
    boxes = ndimage.find_objects(numbers.astype(np.int64))
    if None in boxes:
        return False
    places = (_measure_place(numbers[box] == index + 1, box) for index, box in enumerate(boxes))
    return all(
        all(row.get(field) == str(value) for field, value in place.items())
        for row, place in zip(rows, places, strict=True)
    )


def _measure_place(is_object: Bool[np.ndarray, "box_z box_y box_x"], box: tuple[slice, ...]) -> dict[str, Any]:
    found = np.nonzero(is_object)
    z, y, x = (round(float(places.mean()) + part.start, 3) for places, part in zip(found, box, strict=True))
    return {
        "voxels": len(found[0]),
        **{"centroid_x": x, "centroid_y": y, "centroid_z": z},
        **{f"first_{axis}": part.start for axis, part in zip("zyx", box, strict=True)},
        **{f"last_{axis}": part.stop - 1 for axis, part in zip("zyx", box, strict=True)},
    }


def format_rows(rows: Iterable[ObjectRow]) -> str:
    """Formats rows as CSV with a heading."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(ObjectRow.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.model_dump() for row in rows)
    return text.getvalue()
