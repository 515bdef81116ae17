"""CT as large as clinical CT, made up: a body with organs, smooth inside, with noise."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from autoseg.geometry import Direction, Grid
from autoseg.volume_io import write_label_map

AIR_HU: Final = -1000.0
TISSUE_HU: Final = 40.0
ORGANS: Final = {"liver": 110.0, "spleen": 90.0, "kidney": 190.0, "bone": 600.0}
NOISE_HU: Final = 12.0
COARSE_EXTENT: Final = 8
STRAIGHT: Final[Direction] = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
# 20 degrees about the x axis of the world, in the order z, y, x of array axes: no axis letter changes.
OBLIQUE: Final[Direction] = (
    (0.0, -0.3420201433256687, 0.9396926207859084),
    (0.0, 0.9396926207859084, 0.3420201433256687),
    (1.0, 0.0, 0.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CtCase:
    """Extent and spacing of one case (z, y, x)."""

    shape_voxels: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    direction: Direction = STRAIGHT


def write_ct_dataset(folder: Path, cases: Sequence[CtCase]) -> None:
    """Writes a dataset in the nnU-Net v2 layout; int16, compressed."""
    random = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for index, case in enumerate(cases):
        grid = Grid(shape_voxels=case.shape_voxels, spacing_mm=case.spacing_mm, direction=case.direction)
        image, label_map = draw_case(case.shape_voxels, random)
        path = folder / "imagesTr" / f"ct_{index:03d}_0000.nii.gz"
        write_label_map(path, image, grid=grid, like=None)
        write_label_map(folder / "labelsTr" / f"ct_{index:03d}.nii.gz", label_map, grid=grid, like=None)
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{name: value for value, name in enumerate(ORGANS, start=1)}},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2))


def draw_case(shape: tuple[int, int, int], random: np.random.Generator) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Intensities and labels: organs are where smooth random fields are high."""
    distance = compute_distance(shape)
    image = np.where(distance < 1, np.float32(TISSUE_HU), np.float32(AIR_HU))
    label_map = np.zeros(shape, np.uint8)
    for value, intensity in enumerate(ORGANS.values(), start=1):
        field = draw_smooth_field(shape, random)
        organ = (field > np.quantile(field[::4, ::4, ::4], 0.96)) & (distance < 0.8)
        label_map[organ] = value
        image[organ] = intensity
    image += 20 * draw_smooth_field(shape, random)
    image += random.standard_normal(shape, dtype=np.float32) * NOISE_HU
    return np.rint(image).astype(np.int16), label_map


def draw_smooth_field(shape: tuple[int, int, int], random: np.random.Generator) -> NDArray[np.float32]:
    """A coarse random grid, interpolated linearly."""
    coarse = random.standard_normal((COARSE_EXTENT,) * 3, dtype=np.float32)
    factors = [extent / COARSE_EXTENT for extent in shape]
    field: NDArray[np.float32] = zoom(coarse, factors, order=1, mode="nearest", grid_mode=True)
    return field


def compute_distance(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """From the axis of the body in units of its radii, so that the body ends at 1."""
    _, y, x = (np.linspace(-1, 1, extent, dtype=np.float32) for extent in shape)
    plane = np.sqrt((y[:, None] / 0.7) ** 2 + (x[None, :] / 0.85) ** 2)
    return np.broadcast_to(plane, shape)
