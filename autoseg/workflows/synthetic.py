"""Writes a small synthetic dataset that resembles abdominal CT: two organs, anisotropic spacing, noise.

It lets users try the pipeline without any data. Intensities are Hounsfield units.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Float32, UInt8
from scipy.ndimage import gaussian_filter

from autoseg.geometry import Grid, IntTriple
from autoseg.run_folder import make_folder, write_text
from autoseg.volume_io import write_image, write_label_map

AIR_HU: Final = -1000.0
BODY_HU: Final = 20.0
LIVER_HU: Final = 110.0
KIDNEY_HU: Final = 190.0
NOISE_HU: Final = 25.0
SLICE_SPACINGS_MM: Final = (4.0, 5.0)
PLANE_SPACINGS_MM: Final = (1.4, 1.6)
SHAPE_VOXELS: Final = (14, 44, 44)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ellipsoid:
    """An ellipsoid in millimetres from the volume's centre (z, y, x)."""

    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]

    def contains(self, positions_mm: Float[np.ndarray, "axis z y x"]) -> np.ndarray:
        """Whether each position lies inside."""
        centre = np.asarray(self.centre_mm)[:, None, None, None]
        radii = np.asarray(self.radii_mm)[:, None, None, None]
        inside: np.ndarray = (((positions_mm - centre) / radii) ** 2).sum(axis=0) <= 1.0
        return inside


def write_synthetic_dataset(folder: Path, *, training_cases: int, test_cases: int, seed: int) -> None:
    """Writes a dataset in the nnU-Net v2 raw layout, with labelled test images in imagesTs and labelsTs."""
    random = np.random.default_rng(seed)
    for index in range(training_cases + test_cases):
        part = "Tr" if index < training_cases else "Ts"
        _write_case(folder, part, f"case_{index:03d}", random)
    description = {
        "name": "synthetic abdominal CT",
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "kidney": 2},
        "numTraining": training_cases,
        "file_ending": ".nii.gz",
    }
    write_text(folder / "dataset.json", json.dumps(description, indent=2) + "\n")


def _write_case(folder: Path, part: str, name: str, random: np.random.Generator) -> None:
    grid = _draw_grid(random)
    label_map = _draw_label_map(grid, random)
    image = _draw_image(label_map, grid, random)
    write_image(make_folder(folder / f"images{part}") / f"{name}_0000.nii.gz", image, grid=grid)
    write_label_map(make_folder(folder / f"labels{part}") / f"{name}.nii.gz", label_map, grid=grid, like=None)


def _draw_grid(random: np.random.Generator) -> Grid:
    depth, height, width = (int(extent + random.integers(-2, 3)) for extent in SHAPE_VOXELS)
    plane = float(random.uniform(*PLANE_SPACINGS_MM))
    spacing = (float(random.uniform(*SLICE_SPACINGS_MM)), plane, plane)
    return Grid(shape_voxels=(depth, height, width), spacing_mm=spacing)


def _compute_positions(shape: IntTriple, spacing_mm: Sequence[float]) -> Float[np.ndarray, "axis z y x"]:
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing_mm, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def _draw_label_map(grid: Grid, random: np.random.Generator) -> UInt8[np.ndarray, "z y x"]:
    positions = _compute_positions(grid.shape_voxels, grid.spacing_mm)
    label_map = np.zeros(grid.shape_voxels, np.uint8)
    for label, centre, radii in ((1, (2.0, -2.0, 12.0), (20.0, 14.0, 12.0)), (2, (-2.0, 4.0, -14.0), (13.0, 8.0, 7.0))):
        organ = Ellipsoid(
            centre_mm=tuple(value + random.uniform(-3, 3) for value in centre),  # type: ignore[arg-type]
            radii_mm=tuple(value * random.uniform(0.85, 1.15) for value in radii),  # type: ignore[arg-type]
        )
        label_map[organ.contains(positions)] = label
    return label_map


def _draw_image(
    label_map: UInt8[np.ndarray, "z y x"], grid: Grid, random: np.random.Generator
) -> Float32[np.ndarray, "z y x"]:
    positions = _compute_positions(grid.shape_voxels, grid.spacing_mm)
    body = Ellipsoid(centre_mm=(0.0, 0.0, 0.0), radii_mm=(500.0, 29.0, 31.0)).contains(positions)
    image = np.where(body, BODY_HU, AIR_HU)
    image[label_map == 1] = LIVER_HU
    image[label_map == 2] = KIDNEY_HU
    blurred = gaussian_filter(image, sigma=(0.3, 0.6, 0.6))
    noisy = blurred + random.normal(0.0, NOISE_HU, image.shape)
    return np.round(noisy).astype(np.float32)
