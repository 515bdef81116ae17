"""Resamples an image or a label map onto another grid of the same world.

Used by `--fix-geometry` for files of one case that lie on different grids. Preprocessing has its own resampling.
"""

from typing import Any

import numpy as np
from jaxtyping import Shaped

from autoseg.errors import VolumeError
from autoseg.geometry import Grid
from autoseg.volume_io.formats.itk import build_image
from autoseg.volume_io.formats.volumes import LabelVolume, Volume


def resample_image_onto_grid(volume: Volume, grid: Grid, *, what: str) -> Volume:
    """Resamples by linear interpolation; outside of the volume, each channel has its smallest intensity.

    Args:
        volume: The image on any grid.
        grid: The grid of the result.
        what: Names the file and the grid in messages.

    Raises:
        VolumeError: One of them is a picture without physical coordinates, or they do not overlap.
    """
    import SimpleITK

    _check_overlap(volume.grid, grid, what)
    channels = [
        _resample(channel, volume.grid, grid, interpolator=SimpleITK.sitkLinear, outside=float(channel.min()))
        for channel in volume.array
    ]
    return Volume(array=np.stack(channels), grid=grid)


def resample_label_map_onto_grid(volume: LabelVolume, grid: Grid, *, what: str) -> LabelVolume:
    """Resamples by nearest neighbour; the result is background outside of the volume.

    Raises:
        VolumeError: One of them is a picture without physical coordinates, they do not overlap, or no label is left.
    """
    import SimpleITK

    _check_overlap(volume.grid, grid, what)
    array = _resample(volume.array, volume.grid, grid, interpolator=SimpleITK.sitkNearestNeighbor, outside=0.0)
    if volume.array.any() and not array.any():
        msg = f"{what}: no labelled voxel lies on that grid; the headers tell different places: repair one of them"
        raise VolumeError(msg)
    return LabelVolume(array=array, grid=grid)


def _check_overlap(source: Grid, target: Grid, what: str) -> None:
    import SimpleITK

    if not (source.is_oriented and target.is_oriented):
        msg = f"{what}: a picture has no place in the world; bring both to one size with a picture editor"
        raise VolumeError(msg)
    inside = np.ones(source.shape_voxels, np.uint8)
    if not _resample(inside, source, target, interpolator=SimpleITK.sitkNearestNeighbor, outside=0.0).any():
        msg = (
            f"{what}: they do not overlap, so that one header tells the wrong place: repair it\n"
            f"    from {source.describe()}\n"
            f"    onto {target.describe()}"
        )
        raise VolumeError(msg)


def _resample(
    array: Shaped[np.ndarray, "z y x"], source: Grid, target: Grid, *, interpolator: Any, outside: float
) -> Shaped[np.ndarray, "new_z new_y new_x"]:
    import SimpleITK

    frame = build_image(np.zeros((1, 1, 1), np.uint8), target, is_flat=False)
    moved = SimpleITK.Resample(
        build_image(array, source, is_flat=False),
        target.shape_voxels[::-1],
        SimpleITK.Transform(),
        interpolator,
        frame.GetOrigin(),
        frame.GetSpacing(),
        frame.GetDirection(),
        outside,
    )
    resampled: Shaped[np.ndarray, "new_z new_y new_x"] = SimpleITK.GetArrayFromImage(moved)
    return resampled
