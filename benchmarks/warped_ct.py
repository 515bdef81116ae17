"""A data set of warped copies of one labelled CT: `python -m benchmarks.warped_ct CT LABELS FOLDER --classes 2 3`.

It tells what a configuration does to the shares, times and scores of one anatomy, as every copy shows the same
patient; how well a network knows other patients it does not tell.
"""

import argparse
import json
from pathlib import Path
from typing import Final

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

CASES: Final = 10
ROTATION_DEGREES: Final = 10.0
SCALE: Final = 0.1
SHIFT_MM: Final = 20.0
ELASTIC_MM: Final = 4.0
SMOOTHNESS_MM: Final = 25.0
NOISE_HU: Final = 10.0


def main() -> None:
    """Writes the data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ct", type=Path)
    parser.add_argument("labels", type=Path, help="label map on the grid of the CT")
    parser.add_argument("folder", type=Path, help="data set to write, in the layout of nnU-Net v2")
    parser.add_argument("--classes", type=int, nargs="+", required=True, help="label values, each of which is a class")
    parser.add_argument("--spacing", type=float, default=1.5, help="of the copies, along every axis (mm)")
    options = parser.parse_args()
    image, labels = nibabel.load(options.ct), nibabel.load(options.labels)
    hounsfield = np.asarray(image.dataobj, np.float32)
    chosen = np.zeros(labels.shape, np.uint8)
    for index, value in enumerate(options.classes, start=1):
        chosen[np.asarray(labels.dataobj) == value] = index
    steps = options.spacing / np.asarray(image.header.get_zooms()[:3], float)
    affine = image.affine @ np.diag([*steps, 1.0])
    for name in ("imagesTr", "labelsTr"):
        (options.folder / name).mkdir(parents=True)
    for case in range(CASES):
        random = np.random.default_rng(case)
        places = warp(hounsfield.shape, steps, options.spacing, random)
        warped = map_coordinates(hounsfield, places, order=1, mode="nearest")
        warped += random.normal(0.0, NOISE_HU, warped.shape)
        moved = map_coordinates(chosen, places, order=0, mode="nearest")
        save(options.folder / "imagesTr" / f"copy_{case}_0000.nii.gz", warped.round().astype(np.int16), affine)
        save(options.folder / "labelsTr" / f"copy_{case}.nii.gz", moved, affine)
    names = {"background": 0} | {f"class_{value}": index for index, value in enumerate(options.classes, start=1)}
    described = {"channel_names": {"0": "CT"}, "labels": names, "numTraining": CASES, "file_ending": ".nii.gz"}
    (options.folder / "dataset.json").write_text(json.dumps(described, indent=2), encoding="utf-8")


def warp(
    shape: tuple[int, ...], steps: NDArray[np.float64], spacing_mm: float, random: np.random.Generator
) -> NDArray[np.float64]:
    """Draws where each voxel of a copy lies in the scan, in voxels of the scan.

    Args:
        shape: Of the scan (x, y, z).
        steps: Distance of voxels of the copy, in voxels of the scan.
        spacing_mm: The same in mm.
        random: Draws a turn about the last axis, a scaling, a shift in plane, and a smooth displacement.

    Returns:
        Shape (3, x, y, z) of the copy.
    """
    extents = tuple(int(extent / step) for extent, step in zip(shape, steps, strict=True))
    grid = np.stack(np.meshgrid(*(np.arange(extent) for extent in extents), indexing="ij")).astype(float)
    centre = (np.asarray(extents, float) - 1)[:, None, None, None] / 2
    angle = np.deg2rad(random.uniform(-ROTATION_DEGREES, ROTATION_DEGREES))
    turn = np.eye(3)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn *= random.uniform(1 - SCALE, 1 + SCALE)
    places = np.tensordot(turn, grid - centre, axes=1) + centre
    places[:2] += random.uniform(-SHIFT_MM, SHIFT_MM, 2)[:, None, None, None] / spacing_mm
    for axis in range(3):
        field = gaussian_filter(random.normal(size=extents), SMOOTHNESS_MM / spacing_mm)
        places[axis] += field / np.abs(field).max() * random.uniform(0, ELASTIC_MM) / spacing_mm
    return places * steps[:, None, None, None]


def save(path: Path, array: NDArray[np.generic], affine: NDArray[np.float64]) -> None:
    """Writes a volume."""
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


if __name__ == "__main__":
    main()
