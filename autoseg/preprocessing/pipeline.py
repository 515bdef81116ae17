"""Preprocesses one case: orient, permute axes, crop, normalize, resample."""

from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
from jaxtyping import Float32, Int16, Int32

from autoseg.errors import PlanError
from autoseg.fingerprint import CaseFingerprint
from autoseg.geometry import FloatTriple, Grid, IntTriple, Reorientation
from autoseg.intensities import measure_scale
from autoseg.nonzero_region import compute_bounding_box, compute_nonzero_box, compute_nonzero_mask, slice_box
from autoseg.plan.document import ConfigurationPlan, Plan
from autoseg.plan.preprocessing import ResamplingPlan
from autoseg.preprocessing.case import CaseGeometry, PreparedCase, PreprocessedCase, compute_plan_axes, mark_outside
from autoseg.preprocessing.normalize import normalize
from autoseg.preprocessing.resample import (
    compute_resampled_shape,
    find_nearest_axes,
    find_separate_axis,
    resample_image,
    resample_label_map,
)
from autoseg.preprocessing.small_objects import keep_small_objects
from autoseg.preprocessing.touching_objects import resample_objects, separate_objects
from autoseg.runtime.host_memory import find_available_ram

# In single precision: all channels, and the one that is being resampled, along another axis and before it is clipped.
VALUE_BYTES: Final = 4
RESAMPLED_COPIES: Final = 2
FEWEST_LOST_VOXELS: Final = 9  # fewer voxels may become one in honest data: a thumbnail, a corner of an image


def prepare_case(
    image: Float32[np.ndarray, "channel z y x"],
    label_map: Int16[np.ndarray, "z y x"] | None,
    grid: Grid,
    plan: Plan,
    *,
    keeps_mask: bool = False,
    objects: Int32[np.ndarray, "z y x"] | None = None,
) -> PreparedCase:
    """Does the part of preprocessing that does not depend on the configuration, without modifying its arguments.

    Args:
        image: The image on its own grid.
        label_map: Internal labels; None in prediction.
        grid: The grid of both.
        plan: The plan of the run.
        keeps_mask: Whether the result includes the nonzero mask.
        objects: Number of the object at every voxel, to separate those that touch; None otherwise.

    Raises:
        PlanError: The image does not fit the plan.
    """
    reorientation = compute_plan_axes(grid, plan.orientation, plan.axis_permutation)
    image = _orient(image, grid, plan)
    needs_mask = keeps_mask or label_map is not None or any(channel.inside_nonzero_only for channel in plan.channels)
    mask = compute_nonzero_mask(image) if needs_mask else None
    box = compute_nonzero_box(image) if mask is None else compute_bounding_box(mask)
    inside = slice_box(box)
    nonzero_mask = cropped_mask = None if mask is None else mask[inside]
    cropped_labels = None
    if label_map is not None and cropped_mask is not None:
        cropped_labels = mark_outside(reorientation.apply(label_map)[inside], cropped_mask)
        # Annotated voxels outside the nonzero region are normalized too, as in the reference implementation.
        cropped_mask = cropped_labels >= 0
    cropped = image[:, *inside]
    return PreparedCase(
        image=normalize(cropped, plan.channels, cropped_mask),
        label_map=cropped_labels,
        grid=grid,
        crop_box=box,
        spacing_mm=reorientation.apply_to_grid(grid).spacing_mm,
        nonzero_mask=nonzero_mask if keeps_mask else None,
        objects=None if objects is None else reorientation.apply(objects)[inside],
        intensity_scales=tuple(map(measure_scale, cropped)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResamplingTask:
    """Everything that the resampled arrays of a prepared case depend on: equal tasks give equal arrays."""

    shape: IntTriple
    separate_axis: int | None
    image_order: int
    label_order: int
    separated_dimensions: int


def compute_resampling_task(case: PreparedCase, plan: Plan, configuration: str) -> ResamplingTask:
    """Computes the resampling of a configuration; it is often the same for 2D and 3D."""
    geometry = _compute_geometry(case, plan, configuration)
    chosen = plan.configurations[configuration]
    resampling = chosen.resampling
    return ResamplingTask(
        shape=geometry.resampled_shape_voxels,
        separate_axis=find_separate_axis(
            geometry.cropped_spacing_mm, geometry.target_spacing_mm, resampling.anisotropy_threshold
        ),
        image_order=resampling.image_order,
        label_order=resampling.label_order,
        separated_dimensions=chosen.dimensions if chosen.separates_objects else 0,
    )


def preprocess_prepared_case(
    case: PreparedCase, plan: Plan, configuration: str, *, like: PreprocessedCase | None = None
) -> PreprocessedCase:
    """Resamples a prepared case to the spacing of one configuration.

    Args:
        case: The prepared case.
        plan: The plan of the run.
        configuration: Name of the configuration.
        like: The same case for a configuration with an equal `ResamplingTask`, whose arrays are reused.

    Raises:
        PlanError: Resampled, the case would exceed the memory, or be a single voxel.
    """
    resampling = plan.configurations[configuration].resampling
    geometry = _compute_geometry(case, plan, configuration)
    if like is not None:
        return PreprocessedCase(image=like.image, label_map=like.label_map, geometry=geometry)
    chosen = plan.configurations[configuration]
    check_resampled_shape(geometry, chosen, channels=len(case.image))
    label_map = None if case.label_map is None else _resample_label_map(case.label_map, geometry, plan, resampling)
    if label_map is not None and chosen.separates_objects:
        label_map = _separate_objects(label_map, case, dimensions=chosen.dimensions)
    return PreprocessedCase(
        image=_resample_image(case.image, geometry, resampling),
        label_map=label_map,
        geometry=geometry,
    )


def resample_labels(case: PreparedCase, plan: Plan, configuration: str) -> Int16[np.ndarray, "new_z new_y new_x"]:
    """Resamples the labels of a prepared training case, whose touching objects stay as they are."""
    assert case.label_map is not None, "a training case has labels"
    geometry = _compute_geometry(case, plan, configuration)
    return _resample_label_map(case.label_map, geometry, plan, plan.configurations[configuration].resampling)


def check_resampled_shape(
    geometry: CaseGeometry, configuration: ConfigurationPlan, *, channels: int, available_bytes: int | None = None
) -> None:
    """Compares the shape after resampling with the memory, and with a single voxel.

    Args:
        geometry: The geometry of the case.
        configuration: The plan of the configuration.
        channels: Number of channels of the image.
        available_bytes: The RAM of the computer; None for that of this one.

    Raises:
        PlanError: The case would exceed the memory, or be a single voxel; the message has the numbers.
    """
    shape = geometry.resampled_shape_voxels
    needed = prod(shape) * VALUE_BYTES * (channels + RESAMPLED_COPIES)
    available = find_available_ram() if available_bytes is None else available_bytes
    if needed > available:
        effect = f"takes {needed / 1e9:,.1f} GB of memory, and this computer has {available / 1e9:,.1f} GB"
        msg = f"{describe_resampling(geometry, effect)}, else use a computer with more memory"
        raise PlanError(msg)
    changed = configuration.resampled_axis_count  # a 2D configuration keeps the slices
    if prod(shape[-changed:]) == 1 and prod(geometry.cropped_shape_voxels[-changed:]) >= FEWEST_LOST_VOXELS:
        raise PlanError(describe_resampling(geometry, "leaves nothing of it"))


def describe_resampling(geometry: CaseGeometry, effect: str) -> str:
    """Describes a resampling and its effect, with the advice to look at the spacing."""
    return (
        f"the image of {_format_extents(geometry.cropped_shape_voxels)} voxels at "
        f"{_format_extents(geometry.cropped_spacing_mm)} mm would be resampled to "
        f"{_format_extents(geometry.target_spacing_mm)} mm, that is {_format_extents(geometry.resampled_shape_voxels)} "
        f"voxels, which {effect}; if its spacing is in another unit, correct the header"
    )


def compute_preprocessed_shape(case: CaseFingerprint, plan: Plan, configuration: str) -> IntTriple:
    """Computes the shape of a training case's arrays for a configuration, in plan axes."""
    z, y, x = plan.axis_permutation
    spacing_mm = (case.spacing_mm[z], case.spacing_mm[y], case.spacing_mm[x])
    shape = case.cropped_shape_voxels
    target = compute_target_spacing(spacing_mm, plan.configurations[configuration])
    return compute_resampled_shape((shape[z], shape[y], shape[x]), spacing_mm, target)


def compute_target_spacing(case_spacing_mm: FloatTriple, configuration: ConfigurationPlan) -> FloatTriple:
    """Returns the target spacing in plan axes; a 2D configuration keeps the slice spacing of the case."""
    planned = configuration.spacing_mm
    if len(planned) == 2:
        return case_spacing_mm[0], planned[0], planned[1]
    return planned[0], planned[1], planned[2]


def _orient(
    image: Float32[np.ndarray, "channel z y x"], grid: Grid, plan: Plan
) -> Float32[np.ndarray, "channel i j k"]:
    """Brings an image to plan axes, in a memory order that does not depend on the file.

    Float32 sums depend on the memory order; without the copy, a flipped image would be normalized differently.
    """
    oriented = np.ascontiguousarray(compute_plan_axes(grid, plan.orientation, (0, 1, 2)).apply(image))
    return Reorientation(permutation=plan.axis_permutation, is_flipped=(False, False, False)).apply(oriented)


def _format_extents(values: FloatTriple | IntTriple) -> str:
    return " x ".join(f"{value:.6g}" for value in values)


def _compute_geometry(case: PreparedCase, plan: Plan, configuration: str) -> CaseGeometry:
    target_spacing_mm = compute_target_spacing(case.spacing_mm, plan.configurations[configuration])
    cropped_shape = (case.image.shape[1], case.image.shape[2], case.image.shape[3])
    return CaseGeometry(
        grid=case.grid,
        orientation=plan.orientation,
        axis_permutation=plan.axis_permutation,
        crop_box=case.crop_box,
        cropped_shape_voxels=cropped_shape,
        resampled_shape_voxels=compute_resampled_shape(cropped_shape, case.spacing_mm, target_spacing_mm),
        cropped_spacing_mm=case.spacing_mm,
        target_spacing_mm=target_spacing_mm,
        intensity_scales=case.intensity_scales,
    )


def _resample_image(
    image: Float32[np.ndarray, "channel z y x"], geometry: CaseGeometry, plan: ResamplingPlan
) -> Float32[np.ndarray, "channel new_z new_y new_x"]:
    return resample_image(
        image,
        shape=geometry.resampled_shape_voxels,
        spacing_mm=geometry.cropped_spacing_mm,
        target_spacing_mm=geometry.target_spacing_mm,
        plan=plan,
    )


def _resample_label_map(
    label_map: Int16[np.ndarray, "z y x"], geometry: CaseGeometry, plan: Plan, resampling: ResamplingPlan
) -> Int16[np.ndarray, "new_z new_y new_x"]:
    """Resamples labels; objects that would vanish keep one voxel each, unlike in the reference implementation."""
    spacing_mm, target_spacing_mm = geometry.cropped_spacing_mm, geometry.target_spacing_mm
    resampled = resample_label_map(
        label_map,
        shape=geometry.resampled_shape_voxels,
        spacing_mm=spacing_mm,
        target_spacing_mm=target_spacing_mm,
        plan=resampling,
    )
    nearest_axes = find_nearest_axes(spacing_mm, target_spacing_mm, resampling)
    keep_small_objects(label_map, resampled, classes=plan.labels.class_labels, nearest_axes=nearest_axes)
    return resampled


def _separate_objects(
    label_map: Int16[np.ndarray, "z y x"], case: PreparedCase, *, dimensions: int
) -> Int16[np.ndarray, "z y x"]:
    assert case.objects is not None, "the caller reads the objects where the plan separates them"
    shape = (label_map.shape[0], label_map.shape[1], label_map.shape[2])
    return separate_objects(label_map, resample_objects(case.objects, shape), dimensions=dimensions)
