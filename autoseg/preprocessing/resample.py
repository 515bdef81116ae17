"""Resamples images and label maps to another spacing.

Where the coarsest axis is far coarser than the others it is resampled by nearest neighbour, slice by slice: a spline
across thick slices would invent anatomy between them (Isensee et al. 2021, supplement).
"""

import numpy as np
from jaxtyping import Float32, Int16, Shaped

from autoseg.geometry import FloatTriple, IntTriple
from autoseg.plan.preprocessing import ResamplingPlan
from autoseg.preprocessing.interpolation import compute_nearest_indices, resample_axes
from autoseg.preprocessing.label_interpolation import interpolate_labels


def compute_resampled_shape(shape: IntTriple, spacing_mm: FloatTriple, target_spacing_mm: FloatTriple) -> IntTriple:
    """Computes the shape at the target spacing: spacing / target * extent, halves rounded to even, at least 1."""
    z, y, x = (
        max(1, round(spacing / target * extent))
        for spacing, target, extent in zip(spacing_mm, target_spacing_mm, shape, strict=True)
    )
    return z, y, x


def find_separate_axis(
    current_spacing_mm: FloatTriple, target_spacing_mm: FloatTriple, anisotropy_threshold: float
) -> int | None:
    """Finds the axis that is resampled by nearest neighbour; None if there is none.

    It is the coarsest axis of the current spacing if that is anisotropic, else of the target spacing if that is. Where
    two axes share the coarsest spacing there is no such axis, whatever the target spacing is.
    """
    for spacing_mm in (current_spacing_mm, target_spacing_mm):
        coarsest = max(spacing_mm)
        if coarsest / min(spacing_mm) > anisotropy_threshold:
            return spacing_mm.index(coarsest) if spacing_mm.count(coarsest) == 1 else None
    return None


def resample_image(
    image: Float32[np.ndarray, "channel z y x"],
    *,
    shape: IntTriple,
    spacing_mm: FloatTriple,
    target_spacing_mm: FloatTriple,
    plan: ResamplingPlan,
) -> Float32[np.ndarray, "channel new_z new_y new_x"]:
    """Resamples every channel by splines, clipped to the range of the channel (of the slice, if separate).

    Returns the image itself if the shape does not change.
    """
    axis = find_separate_axis(spacing_mm, target_spacing_mm, plan.anisotropy_threshold)
    return _resample_channels(image, shape, order=plan.image_order, separate_axis=axis)


def resample_label_map(
    label_map: Int16[np.ndarray, "z y x"],
    *,
    shape: IntTriple,
    spacing_mm: FloatTriple,
    target_spacing_mm: FloatTriple,
    plan: ResamplingPlan,
) -> Int16[np.ndarray, "new_z new_y new_x"]:
    """Resamples labels: each voxel gets the label with the largest interpolated indicator.

    Returns the label map itself if the shape does not change.
    """
    if label_map.shape == shape:
        return label_map
    for nearest_axis in find_nearest_axes(spacing_mm, target_spacing_mm, plan):
        label_map = _take_nearest(label_map, nearest_axis, shape[nearest_axis])
    return interpolate_labels(label_map, shape)


def find_nearest_axes(spacing_mm: FloatTriple, target_spacing_mm: FloatTriple, plan: ResamplingPlan) -> frozenset[int]:
    """Finds the axes along which labels are resampled by nearest neighbour."""
    if plan.label_order == 0:
        return frozenset((0, 1, 2))
    axis = find_separate_axis(spacing_mm, target_spacing_mm, plan.anisotropy_threshold)
    return frozenset() if axis is None else frozenset((axis,))


def _resample_channels(
    channels: Float32[np.ndarray, "channel z y x"], shape: IntTriple, *, order: int, separate_axis: int | None
) -> Float32[np.ndarray, "channel new_z new_y new_x"]:
    if channels.shape[1:] == shape:
        return channels
    result = np.empty((len(channels), *shape), dtype=np.float32)
    for index, channel in enumerate(channels):
        result[index] = _resample_channel(channel, shape, order=order, separate_axis=separate_axis)
    return result


def _resample_channel(
    channel: Float32[np.ndarray, "z y x"], shape: IntTriple, *, order: int, separate_axis: int | None
) -> Float32[np.ndarray, "new_z new_y new_x"]:
    if separate_axis is None:
        return _resample_and_clip(channel, shape, order=order, clip_axes=(0, 1, 2))
    extents = list(shape)
    extents[separate_axis] = channel.shape[separate_axis]
    in_plane = (extents[0], extents[1], extents[2])
    clip_axes = tuple(axis for axis in range(3) if axis != separate_axis)
    slices = _resample_and_clip(channel, in_plane, order=order, clip_axes=clip_axes)
    return _take_nearest(slices, separate_axis, shape[separate_axis])


def _resample_and_clip(
    channel: Float32[np.ndarray, "z y x"], shape: IntTriple, *, order: int, clip_axes: tuple[int, ...]
) -> Float32[np.ndarray, "new_z new_y new_x"]:
    if channel.shape == shape:
        return channel
    resampled = resample_axes(channel, shape, order)
    lowest, highest = channel.min(axis=clip_axes, keepdims=True), channel.max(axis=clip_axes, keepdims=True)
    return np.clip(resampled, lowest, highest, out=resampled)


def _take_nearest(array: Shaped[np.ndarray, "z y x"], axis: int, new: int) -> Shaped[np.ndarray, "new_z new_y new_x"]:
    old = array.shape[axis]
    return array if old == new else array.take(compute_nearest_indices(old, new), axis=axis)
