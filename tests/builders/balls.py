"""A tiny dataset of two balls per image."""

from pathlib import Path

import numpy as np

from builders.datasets import write_dataset
from builders.volumes import save_nifti

AFFINE = np.array([[-1.25, 0.0, 0.0, 30.0], [0.0, -1.25, 0.0, 20.0], [0.0, 0.0, 2.5, -10.0], [0.0, 0.0, 0.0, 1.0]])
SHAPE = (20, 22, 12)  # x, y, z
LABELS = {"bright": 2, "dark": 5}


def make_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (x, y, z) with a bright and a dark ball, and its label map with the values 0, 2, 5."""
    random = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.arange(extent) for extent in SHAPE), indexing="ij")
    label_map = np.zeros(SHAPE, np.uint8)
    for value, centre in ((2, (6, 7, 5)), (5, (14, 14, 6))):
        moved = [c + random.integers(-1, 2) for c in centre]
        distance = sum((axis - c) ** 2 / r**2 for axis, c, r in zip(axes, moved, (4.2, 4.2, 3.2), strict=True))
        label_map[distance <= 1] = value
    image = 100 + 80.0 * (label_map == 2) - 60.0 * (label_map == 5) + random.normal(0, 8, SHAPE)
    return image.astype(np.float32), label_map


def make_wide_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball in a corner of an image of twice its extent, with a dark one beside it, which is background."""
    image, label_map = make_case(seed)
    wide = np.random.default_rng(seed).normal(100, 8, [2 * extent for extent in SHAPE]).astype(np.float32)
    wide[tuple(slice(extent) for extent in SHAPE)] = image
    return wide, np.pad(label_map * (label_map == 2), [(0, extent) for extent in SHAPE])


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """Saves an image or a label map where the balls lie."""
    return save_nifti(path, array, affine)


def write_balls(folder: Path, *, cases: int) -> Path:
    """Writes a dataset of cases `case0`, `case1`, ..."""
    made = ((f"case{index}", make_case(index)) for index in range(cases))
    return write_dataset(folder, made, labels=LABELS, affine=AFFINE, numTraining=cases)
