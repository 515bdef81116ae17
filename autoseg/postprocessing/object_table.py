"""Table with a row for each object of an image."""

import csv
import io
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float32
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
        z, y, x = (float(places.mean()) + part.start for places, part in zip(np.nonzero(is_object), box, strict=True))
        voxels = int(found.voxels[index])
        rows.append(
            ObjectRow(
                case=case,
                object=index + 1,
                class_name=rules[found.classes[index] - 1].name,
                voxels=voxels,
                size=voxels * voxel_size,
                unit="ml" if unit == "mm3" else unit,
                centroid_x=round(x, 3),
                centroid_y=round(y, 3),
                centroid_z=round(z, 3),
                first_x=box[2].start,
                first_y=box[1].start,
                first_z=box[0].start,
                last_x=box[2].stop - 1,
                last_y=box[1].stop - 1,
                last_z=box[0].stop - 1,
                mean_probability=round(float(probabilities[box][is_object].mean(dtype=np.float64)), 4),
            )
        )
    return tuple(rows)


def format_rows(rows: Iterable[ObjectRow]) -> str:
    """Formats rows as CSV with a heading."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(ObjectRow.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.model_dump() for row in rows)
    return text.getvalue()
