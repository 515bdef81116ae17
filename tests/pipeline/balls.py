"""A tiny dataset of two balls per image, and how the tests call the command line."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

AFFINE = np.array([[-1.25, 0.0, 0.0, 30.0], [0.0, -1.25, 0.0, 20.0], [0.0, 0.0, 2.5, -10.0], [0.0, 0.0, 0.0, 1.0]])
SHAPE = (20, 22, 12)  # x, y, z


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


def run_autoseg(*arguments: object, cwd: Path | None = None) -> Done:
    command = [sys.executable, "-m", "autoseg", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    return Done(code=done.returncode, out=done.stdout, err=done.stderr)


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


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def write_dataset(folder: Path, *, cases: int) -> Path:
    for index in range(cases):
        image, label_map = make_case(index)
        save(folder / "imagesTr" / f"case{index}_0000.nii.gz", image)
        save(folder / "labelsTr" / f"case{index}.nii.gz", label_map)
    description = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "bright": 2, "dark": 5},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def shorten(run: Path, configuration: str, *, epochs: int, iterations: int) -> None:
    """Edits the plan by hand, as a user may: a short schedule and a narrow network."""
    path = run / "plan.json"
    plan = json.loads(path.read_text())
    chosen = plan["configurations"][configuration]
    chosen["network"]["features_per_stage"] = [8 * 2**stage for stage in range(len(chosen["network"]["strides"]))]
    chosen["training"] |= {
        "epochs": epochs,
        "iterations_per_epoch": iterations,
        "validation_iterations_per_epoch": 2,
        "batch_size": 2,
    }
    path.write_text(json.dumps(plan))
