"""Reads which voxels belong to which object: from a label map of numbers, or from a folder with a file for each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from autoseg.dataset.folder_cases import list_object_files
from autoseg.errors import VolumeError
from autoseg.volume_io import LabelVolume, read_label_map

Fit = Callable[[LabelVolume, Path], LabelVolume]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectNumbers:
    """The objects of a case.

    Attributes:
        array: Number of the object of each voxel; 0 outside of all.
        warnings: Oddities of the files, one sentence each.
    """

    array: Int32[np.ndarray, "z y x"]
    warnings: tuple[str, ...] = ()


def read_object_numbers(path: Path, fit: Fit) -> ObjectNumbers:
    """Reads the numbers of the objects of a case; the files of a folder are numbered from 1, by name.

    Args:
        path: A label map, or a folder of label maps with one object each.
        fit: Brings a label map to the grid of the case, or refuses it.

    Raises:
        VolumeError: A file cannot be read, or does not fit; or one in a folder does not hold one object.
    """
    if not path.is_dir():
        return ObjectNumbers(array=fit(read_label_map(path), path).array)
    files = list_object_files(path)
    if not files:
        msg = f"{path} holds no label map; expected one for each object, or in place of the folder one that numbers all"
        raise VolumeError(msg)
    numbers, shared = np.zeros(0, np.int32), 0
    for number, file in enumerate(files, start=1):
        own = fit(read_label_map(file), file).array
        _check_single(own, file)
        numbers = numbers if number > 1 else np.zeros(own.shape, np.int32)
        mask = own > 0
        shared += int(np.count_nonzero(numbers[mask]))
        numbers[mask] = number
    return ObjectNumbers(array=numbers, warnings=_warn_of_shared(path, shared))


def _check_single(found: Int32[np.ndarray, "z y x"], file: Path) -> None:
    values = np.unique(found[found != 0]).tolist()
    if len(values) == 1 and values[0] > 0:
        return
    shown = f"the values {', '.join(map(str, values[:3]))}" if values else "no voxel"
    msg = (
        f"{file} must hold one object, voxels of one positive value, found {shown}; write a file for each object, or "
        f"one label map that numbers all in place of the folder"
    )
    raise VolumeError(msg)


def _warn_of_shared(folder: Path, shared: int) -> tuple[str, ...]:
    if not shared:
        return ()
    return (
        f"{shared} voxels belong to two objects and are given to the one whose file comes later by name, in the folder "
        f"{folder.parent.name}/{folder.name}",
    )
