"""A data set of warped copies of the cases of another one: `python -m benchmarks.warped_dataset DATASET FOLDER`.

Copies of one patient fall into several folds, so that networks which are trained apart differ little by chance: they
tell what a configuration does to shares, times and scores, not how well a network knows other patients.
"""

import argparse
import json
from itertools import count
from pathlib import Path
from typing import Final

import nibabel
import numpy as np
from scipy.ndimage import map_coordinates

from benchmarks.warped_ct import save, warp

COPIES: Final = 4
NOISE: Final = 0.05
"""Of every channel outside its lowest value, in standard deviations."""


def main() -> None:
    """Writes the data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="in the layout of nnU-Net v2, of NIfTI volumes")
    parser.add_argument("folder", type=Path, help="data set to write")
    parser.add_argument("--copies", type=int, default=COPIES, help="of every case")
    parser.add_argument("--spacing", type=float, default=1.0, help="of the copies, along every axis (mm)")
    options = parser.parse_args()
    for name in ("imagesTr", "labelsTr"):
        (options.folder / name).mkdir(parents=True)
    numbers = count()
    for path in sorted((options.dataset / "labelsTr").glob("*.nii.gz")):
        case = path.name.removesuffix(".nii.gz")
        images = sorted((options.dataset / "imagesTr").glob(f"{case}_[0-9][0-9][0-9][0-9].nii.gz"))
        for _ in range(options.copies):
            write_copy(images, path, options.folder, number=next(numbers), spacing_mm=options.spacing)
    described = json.loads((options.dataset / "dataset.json").read_text(encoding="utf-8"))
    described["numTraining"] = next(numbers)
    (options.folder / "dataset.json").write_text(json.dumps(described, indent=2), encoding="utf-8")


def write_copy(images: list[Path], labels: Path, folder: Path, *, number: int, spacing_mm: float) -> None:
    """Writes a warped copy of a case, whose name is its number."""
    random = np.random.default_rng(number)
    volume = nibabel.load(labels)
    steps = spacing_mm / np.asarray(volume.header.get_zooms()[:3], float)
    affine = volume.affine @ np.diag([*steps, 1.0])
    places = warp(volume.shape, steps, spacing_mm, random)
    moved = map_coordinates(np.asarray(volume.dataobj), places, order=0, mode="nearest")
    save(folder / "labelsTr" / f"copy_{number:02}.nii.gz", moved.astype(np.uint8), affine)
    for path in images:
        values = np.asarray(nibabel.load(path).dataobj, np.float32)
        lowest = map_coordinates((values == values.min()).astype(np.uint8), places, order=0, mode="nearest") > 0
        warped = map_coordinates(values, places, order=1, mode="nearest")
        warped += random.normal(0.0, NOISE * values[values != values.min()].std(), warped.shape)
        warped[lowest] = values.min()
        channel = path.name.removesuffix(".nii.gz").rsplit("_", 1)[1]
        save(folder / "imagesTr" / f"copy_{number:02}_{channel}.nii.gz", warped.astype(np.float32), affine)


if __name__ == "__main__":
    main()
