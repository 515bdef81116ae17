"""Reads MINC: version 1 (netCDF) through nibabel, version 2 (HDF5) through SimpleITK.

MINC's world is (R, A, S). ITK passes its coordinates on as if they were (L, P, S). This is undone here, so that both
versions of an image have the same position, which is also that of nibabel. Axes are returned in the order z, y, x,
whatever their order in the file.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from autoseg.errors import VolumeError
from autoseg.geometry import Grid, Reorientation, build_grid_from_affine, compute_reorientation
from autoseg.processes.library_output import redirect_library_messages
from autoseg.volume_io.formats import itk
from autoseg.volume_io.formats.volumes import StoredVolume

HDF5_SIGNATURE: Final = b"\x89HDF"
NETCDF_SIGNATURE: Final = b"CDF"
SPATIAL_SUFFIX: Final = "space"
AXES_OF_LETTERS: Final = ("LR", "PA", "IS")


def read(path: Path, *, as_labels: bool) -> StoredVolume:
    """Reads all voxels as real values; time points or vector components are channels."""
    if _is_version_2(path):
        with redirect_library_messages():
            stored = itk.read(path, as_labels=as_labels)
        return replace(stored, grid=_undo_itk_world(stored.grid))
    file, channel_axis = _open_version_1(path)
    voxels = np.asarray(file.get_scaled_data())
    channel_first = voxels[None] if channel_axis is None else np.moveaxis(voxels, channel_axis, 0)
    grid, sorting = _build_grid(file, channel_first.shape[1:])
    return StoredVolume(array=sorting.apply(channel_first.transpose(0, 3, 2, 1)), grid=sorting.apply_to_grid(grid))


def read_grid(path: Path) -> Grid:
    """Reads the header."""
    if _is_version_2(path):
        with redirect_library_messages():
            return _undo_itk_world(itk.read_grid(path))
    file, channel_axis = _open_version_1(path)
    shape = tuple(extent for axis, extent in enumerate(file.get_data_shape()) if axis != channel_axis)
    grid, sorting = _build_grid(file, shape)
    return sorting.apply_to_grid(grid)


def _is_version_2(path: Path) -> bool:
    with path.open("rb") as stream:
        signature = stream.read(len(HDF5_SIGNATURE))
    if signature == HDF5_SIGNATURE:
        return True
    if signature.startswith(NETCDF_SIGNATURE):
        return False
    msg = f"{path} starts neither like MINC 1 (netCDF) nor like MINC 2 (HDF5); convert it again"
    raise VolumeError(msg)


def _undo_itk_world(grid: Grid) -> Grid:
    z, y, x = (itk.convert_lps_ras(np.array(axis)) for axis in grid.direction)
    return replace(grid, origin_mm=itk.convert_lps_ras(np.array(grid.origin_mm)), direction=(z, y, x))


def _open_version_1(path: Path) -> tuple[Any, int | None]:
    """Returns nibabel's file and the index of the channel axis."""
    from nibabel.externals.netcdf import netcdf_file
    from nibabel.minc1 import Minc1File

    with path.open("rb") as stream:
        content = netcdf_file(stream)
    names = content.variables["image"].dimensions
    others = [name for name in names if not name.endswith(SPATIAL_SUFFIX)]
    if len(names) - len(others) != 3 or len(others) > 1 or any(name not in content.variables for name in others):
        msg = f"{path}: expected the axes xspace, yspace, zspace and at most time, found {', '.join(names)}; split it"
        raise VolumeError(msg)
    return Minc1File(content), names.index(others[0]) if others else None


def _build_grid(file: Any, extents: tuple[int, ...]) -> tuple[Grid, Reorientation]:
    """Returns the grid in the order of the file, and the permutation of its axes to z, y, x."""
    first, second, third = (int(extent) for extent in extents)
    grid = build_grid_from_affine(np.array(file.get_affine(), dtype=np.float64), (third, second, first))
    code = grid.orientation_code
    in_order = "".join(letter for letters in AXES_OF_LETTERS for letter in code if letter in letters)
    return grid, compute_reorientation(code, in_order)
