"""Resamples an image or a label map onto another grid of the same world.

Used by `--fix-geometry` for files of one case that lie on different grids. Preprocessing has its own resampling.
"""

from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float64, Int32, Shaped

from autoseg.errors import PlacementError, VolumeError
from autoseg.geometry import Grid
from autoseg.volume_io.formats.itk import build_image
from autoseg.volume_io.formats.volumes import LabelVolume, Volume, explain_spacings

# Losses that nearest-neighbour interpolation explains: sampling n voxels at random keeps n with a standard deviation of
# at most sqrt(n), and a twentieth may lie in the voxels at the borders of the grid.
INTERPOLATION_DEVIATIONS: Final = 4.0
BORDER_FRACTION: Final = 0.05
SMALL_VOXELS: Final = INTERPOLATION_DEVIATIONS**2  # a label of fewer voxels may well be missed by all of them
# Of two images of one patient the smaller mostly lies in the larger; with less in common a header is wrong (guess).
SMALLEST_OVERLAP: Final = 0.5
# Intensities above the smallest one, of a voxel in what both images cover against one of the whole image (guess).
SMALLEST_DENSITY: Final = 0.02


def resample_image_onto_grid(volume: Volume, grid: Grid, *, what: str) -> Volume:
    """Resamples by linear interpolation; outside of the volume, each channel has its smallest intensity.

    Args:
        volume: The image on any grid.
        grid: The grid of the result.
        what: Names the file and the grid in messages.

    Raises:
        VolumeError: One of them is a picture without physical coordinates, they overlap by less than half of the
            smaller one, or what they share is empty. A PlacementError where the spacings cannot both be right.
    """
    import SimpleITK

    _check_overlap(volume.grid, grid, what)
    _check_shared(volume, grid, what)
    channels = [
        _resample(channel, volume.grid, grid, interpolator=SimpleITK.sitkLinear, outside=float(channel.min()))
        for channel in volume.array
    ]
    return Volume(array=np.stack(channels), grid=grid)


def resample_label_map_onto_grid(volume: LabelVolume, grid: Grid, *, what: str) -> LabelVolume:
    """Resamples by nearest neighbour; the result is background outside of the volume. No small label vanishes.

    Raises:
        VolumeError: One of them is a picture without physical coordinates, they do not overlap, or a label loses more
            of its volume than interpolation explains. A PlacementError where the spacings cannot both be right.
    """
    import SimpleITK

    _check_overlap(volume.grid, grid, what)
    array = _resample(volume.array, volume.grid, grid, interpolator=SimpleITK.sitkNearestNeighbor, outside=0.0)
    moved = LabelVolume(array=array, grid=grid)
    _keep_small_labels(volume, moved)
    _check_losses(volume, moved, what)
    return moved


def _keep_small_labels(before: LabelVolume, after: LabelVolume) -> None:
    """Gives a label that fell between the voxels of the new grid the background voxel in which it lies, in place."""
    for value in _count_values(before.array).keys() - _count_values(after.array).keys():
        voxels = np.argwhere(before.array == value)
        if len(voxels) * np.prod(before.grid.spacing_mm) > SMALL_VOXELS * np.prod(after.grid.spacing_mm):
            continue
        voxels = voxels[_find_inside(before.grid, after.grid, voxels)]
        for place in np.rint(_compute_indices(before.grid, after.grid, voxels)).astype(np.int64):
            if after.array[tuple(place)] == 0:
                after.array[tuple(place)] = value
                break


def _check_losses(before: LabelVolume, after: LabelVolume, what: str) -> None:
    """Compares the volume of every label with what is left of it."""
    unit_mm3, left_mm3 = (float(np.prod(volume.grid.spacing_mm)) for volume in (before, after))
    counts, left = _count_values(before.array), _count_values(after.array)
    outside = _count_values(np.where(_cover(after.grid, before.grid), 0, before.array))
    losses = []
    for value, count in counts.items():
        expected = count * unit_mm3 / left_mm3  # in voxels of the new grid
        allowed = BORDER_FRACTION * expected + INTERPOLATION_DEVIATIONS * expected**0.5
        gone = outside.get(value, 0)
        if left.get(value, 0) < max(expected - allowed, 1) or gone > 1 + BORDER_FRACTION * count:
            losses.append(
                f"value {value}: {count} voxels, {count * unit_mm3:.4g} mm3, become {left.get(value, 0)} voxels, "
                f"{left.get(value, 0) * left_mm3:.4g} mm3 ({gone} of the {count} lie outside of that grid)"
            )
    if losses:
        msg = (
            f"{what}: labels lose more than interpolation explains, so that a header tells the wrong place (repair "
            f"it), or the label map goes beyond the image (cut it)\n    {'; '.join(losses)}\n"
            f"    from {before.grid.describe()}\n"
            f"    onto {after.grid.describe()}"
        )
        raise VolumeError(msg)


def _count_values(array: Int32[np.ndarray, "z y x"]) -> dict[int, int]:
    values, counts = np.unique(array[array != 0], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _find_inside(source: Grid, target: Grid, voxels: Shaped[np.ndarray, "voxel 3"]) -> Bool[np.ndarray, " voxel"]:
    """Finds the voxels z, y, x of one grid whose centres lie within the voxels of another."""
    indices = _compute_indices(source, target, voxels)
    is_inside = (indices > -0.5) & (indices < np.subtract(target.shape_voxels, 0.5))
    return np.asarray(is_inside.all(axis=1))


def _compute_indices(
    source: Grid, target: Grid, voxels: Shaped[np.ndarray, "voxel 3"]
) -> Float64[np.ndarray, "voxel 3"]:
    """Computes where the voxels z, y, x of one grid lie on another, as fractional indices z, y, x."""
    places = voxels[:, ::-1] @ source.affine[:3, :3].T + source.affine[:3, 3]
    indices = np.linalg.solve(target.affine[:3, :3], (places - target.affine[:3, 3]).T)
    return np.asarray(indices.T[:, ::-1])


def _compute_overlap(first: Grid, second: Grid) -> float:
    """Computes which part of the smaller of two grids lies in the other one, by up to 32 positions along every axis."""

    def share(source: Grid, target: Grid) -> float:
        axes = (np.unique(np.linspace(0, extent - 1, 32).round()) for extent in source.shape_voxels)
        voxels = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        return float(_find_inside(source, target, voxels).mean())

    return max(share(first, second), share(second, first))


def _check_shared(volume: Volume, grid: Grid, what: str) -> None:
    """Checks that an image covers enough of a grid, and shows something there."""
    overlap = _compute_overlap(volume.grid, grid)
    if overlap < SMALLEST_OVERLAP:
        problem = f"only {overlap:.0%} of the smaller one lies in the other"
    else:
        density = min(_compute_density(channel, volume.grid, grid) for channel in volume.array)
        if density >= SMALLEST_DENSITY:
            return
        problem = f"where both lie, the image is empty (its voxels there have {density:.1%} of its mean intensity)"
    msg = (
        f"{what}: {problem}, so that one header tells the wrong place: repair it\n"
        f"    from {volume.grid.describe()}\n"
        f"    onto {grid.describe()}"
    )
    raise VolumeError(msg)


def _compute_density(channel: Shaped[np.ndarray, "z y x"], source: Grid, target: Grid) -> float:
    """Computes the mean intensity above the smallest one inside another grid, as a share of that of the image."""
    steps = [max(1, extent // 64) for extent in channel.shape]
    axes = [np.arange(step // 2, extent, step) for step, extent in zip(steps, channel.shape, strict=True)]
    voxels = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    heights = channel[np.ix_(*axes)].reshape(-1).astype(np.float64) - float(channel.min())
    inside = _find_inside(source, target, voxels)
    return float(heights[inside].mean() / heights.mean()) if inside.any() and heights.any() else 1.0


def _cover(source: Grid, target: Grid) -> Bool[np.ndarray, "z y x"]:
    """Finds the voxels of a grid that another one covers."""
    import SimpleITK

    inside = np.ones(source.shape_voxels, np.uint8)
    covered = _resample(inside, source, target, interpolator=SimpleITK.sitkNearestNeighbor, outside=0.0)
    return covered.astype(bool)


def _check_overlap(source: Grid, target: Grid, what: str) -> None:
    if not (source.is_oriented and target.is_oriented):
        msg = f"{what}: a picture has no place in the world; bring both to one size with a picture editor"
        raise VolumeError(msg)
    explained = explain_spacings(target, source)
    if explained is not None:
        msg = f"{what}: {explained}\n    not resampled from {source.describe()}\n    onto {target.describe()}"
        raise PlacementError(msg)
    if not _cover(source, target).any():
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
