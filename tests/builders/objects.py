"""Images of touching objects, and what a perfect network would say of them."""

from pathlib import Path

import numpy as np

from autoseg.geometry import FloatTriple, Grid
from autoseg.labels import InstanceTargets
from autoseg.postprocessing.instances import CoreMaps, build_core_maps
from autoseg.preprocessing.instance_targets import build_core_and_border
from builders.datasets import write_dataset
from builders.labels import build_labels
from builders.volumes import save_nifti

CELLS = InstanceTargets(labels=build_labels({"cell": (1,)}), border_fraction=0.25)
TWO_CLASSES = InstanceTargets(labels=build_labels({"cell": (3,), "gland": (7,)}, ignore_value=9), border_fraction=0.25)

CENTRED = CELLS.model_copy(update={"centre_steps": 3})


def draw_balls(shape: tuple[int, ...], balls: dict[int, tuple[tuple[float, ...], float]]) -> np.ndarray:
    """Numbers of balls (centre and radius by number) at the voxels (z, y, x) of a volume; each keeps its nearest."""
    places = np.indices(shape).astype(float)
    distances = [
        np.sqrt(sum((axis - part) ** 2 for axis, part in zip(places, centre, strict=True))) / radius
        for centre, radius in balls.values()
    ]
    nearest = np.argmin(distances, axis=0)
    return np.where(np.min(distances, axis=0) <= 1, np.array([*balls], np.int32)[nearest], 0).astype(np.int32)


def build_picture_grid(shape: tuple[int, int, int]) -> Grid:
    """The grid of a picture without spacing."""
    return Grid(shape_voxels=shape, spacing_mm=(999.0, 1.0, 1.0), is_oriented=False, tells_spacing=False)


def answer_perfectly(
    label_map: np.ndarray, numbers: np.ndarray, *, spacing_mm: FloatTriple, targets: InstanceTargets
) -> CoreMaps:
    """Maps of a network that is sure of the right labels."""
    built = build_core_and_border(label_map.astype(np.int16), numbers, spacing_mm=spacing_mm, targets=targets)
    labels = range(1 + targets.part_count * targets.class_count)
    probabilities = np.stack([built == label for label in labels]).astype(np.float32)
    whole = (slice(None), slice(None), slice(None))
    return build_core_maps([(whole, probabilities)], numbers.shape, targets)


def are_same_objects(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two maps hold the same objects, however they are numbered."""
    pairs = np.unique(np.stack([first.ravel(), second.ravel()]), axis=1)
    return len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1] and np.array_equal(first > 0, second > 0)


def write_cells(folder: Path, *, cases: int = 5) -> Path:
    """Slices of 48 x 48 pixels with touching pairs of cells, whose numbers have gaps."""
    random = np.random.default_rng(0)
    made = []
    for index in range(cases):
        row = 14.0 + index
        balls = {5: ((0, row, 14), 8.0), 9: ((0, row, 28), 7.0), 70_000: ((0, 38, 38), 6.0)}
        numbers = draw_balls((1, 48, 48), balls).transpose(2, 1, 0)
        image = (numbers > 0) * 100 + random.normal(0, 10, numbers.shape)
        made.append((f"case{index}", image.astype(np.float32), numbers))
    write_dataset(
        folder,
        [(name, (image, (numbers > 0) * np.uint8(1))) for name, image, numbers in made],
        labels={"cell": 1},
        numTraining=cases,
    )
    for name, _, numbers in made:
        save_nifti(folder / "instancesTr" / f"{name}.nii.gz", numbers)
    return folder
