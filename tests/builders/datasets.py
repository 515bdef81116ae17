"""Raw datasets: folders of images and label maps with a dataset.json."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from builders.volumes import AFFINE, save_nifti


def describe_dataset(folder: Path, **entries: Any) -> None:
    """Changes entries of dataset.json, or writes a new one."""
    path = folder / "dataset.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | entries))


def write_dataset(
    folder: Path,
    cases: Iterable[tuple[str, tuple[np.ndarray, np.ndarray]]],
    *,
    labels: dict[str, Any],
    affine: np.ndarray = AFFINE,
    **entries: Any,
) -> Path:
    """Writes cases (name, (image, label map)) of one channel as NIfTI; further entries go to dataset.json."""
    for name, (image, label_map) in cases:
        save_nifti(folder / "imagesTr" / f"{name}_0000.nii.gz", image, affine)
        save_nifti(folder / "labelsTr" / f"{name}.nii.gz", label_map, affine)
    described = {"channel_names": {"0": "MR"}, "labels": {"background": 0, **labels}, "file_ending": ".nii.gz"}
    describe_dataset(folder, **described | entries)
    return folder
