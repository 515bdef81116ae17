"""Tiny datasets, to be spoilt by the tests."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
SHAPE = (9, 8, 7)  # x, y, z
Writer = Callable[..., Path]


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def make_image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 10, SHAPE).astype(np.float32)


def make_label_map() -> np.ndarray:
    label_map = np.zeros(SHAPE, np.uint8)
    label_map[2:5, 2:5, 2:5] = 2
    label_map[6, 6, 3] = 5
    return label_map


@pytest.fixture
def write_case() -> Writer:
    """Saves an array as image or label map of a case."""

    def write(folder: Path, part: str, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
        save(folder / part, array, affine)
        return folder / part

    return write


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Six good cases p1_a, p1_b, p2_a, ... of three patients."""
    folder = tmp_path / "Dataset001_X"
    for index in range(6):
        name = f"p{1 + index // 2}_{'ab'[index % 2]}"
        save(folder / "imagesTr" / f"{name}_0000.nii.gz", make_image(index))
        save(folder / "labelsTr" / f"{name}.nii.gz", make_label_map())
    description = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "big": 2, "small": 5}}
    (folder / "dataset.json").write_text(json.dumps(description | {"file_ending": ".nii.gz"}))
    return folder
