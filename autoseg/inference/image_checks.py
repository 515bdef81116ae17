"""Checks that an image suits a model before it is preprocessed: channels, intensities, size at the model's spacing."""

import logging
from math import prod
from typing import Final

import numpy as np
from jaxtyping import Float32

from autoseg.document import read_document
from autoseg.errors import DocumentError, PredictionError
from autoseg.fingerprint import Fingerprint
from autoseg.geometry import Grid, IntTriple
from autoseg.intensities import examine_image
from autoseg.nonzero_region import Box, compute_nonzero_box
from autoseg.plan.document import Plan
from autoseg.preprocessing.case import CaseGeometry, compute_plan_axes
from autoseg.preprocessing.pipeline import compute_preprocessed_shape, compute_target_spacing, describe_resampling
from autoseg.preprocessing.resample import compute_resampled_shape
from autoseg.run_folder import RunFolder
from autoseg.volume_io.formats.volumes import is_planar

logger = logging.getLogger(__name__)

LARGEST_GROWTH: Final = 64
"""An image of more than so many times the voxels of the largest training image has a wrong spacing."""
LARGEST_BY_MEDIAN: Final = 4
"""The largest training image as a multiple of the median, where only that is known (guess)."""
LARGEST_HONEST_ENLARGEMENT: Final = 2
"""Larger images than in training are honest if resampling does not make them so (whole slides, whole bodies)."""


def check_volume(array: Float32[np.ndarray, "channel z y x"], grid: Grid, plan: Plan) -> tuple[str, ...]:
    """Checks that a volume is a valid input of a model; returns warnings, one sentence each.

    Raises:
        PredictionError: Channels or shape do not fit, or intensities are not finite or cannot be normalized.
    """
    wanted = [channel.name for channel in plan.channels]
    if len(array) != len(wanted):
        names = ", ".join(wanted)
        takes = f"{len(wanted)} channel{'' if len(wanted) == 1 else 's'} ({names})"
        msg = f"the model takes {takes}, found {len(array)}; give them in this order"
        raise PredictionError(msg)
    if array.shape[1:] != grid.shape_voxels:
        msg = f"the array must have the shape of its grid, {grid.shape_voxels} (z, y, x), found {array.shape[1:]}"
        raise PredictionError(msg)
    clipped = [channel.normalization == "ct" for channel in plan.channels]
    found = examine_image(array, wanted, clipped=clipped)
    if found.problems:
        raise PredictionError("; ".join(found.problems))
    return found.warnings


def check_grid(
    array: Float32[np.ndarray, "channel z y x"],
    grid: Grid,
    plan: Plan,
    configuration: str,
    *,
    largest_voxels: int | None,
) -> None:
    """Checks that a configuration of volumes gets no 2D image, which has no distance of slices, and that resampling
    does not make an image far larger than those of training, because its spacing is wrong.

    Args:
        array: Intensities, of which the nonzero region counts.
        grid: Grid of the array.
        plan: Plan of the model.
        configuration: Name of the configuration.
        largest_voxels: Voxels of the largest preprocessed training image, in plane for a 2D configuration; None if it
            is not known.

    Raises:
        PredictionError: It is a 2D image, or would have more than 64 times as many voxels as any training image.
    """
    if plan.configurations[configuration].resampled_axis_count == 3 and is_planar(grid):
        msg = (
            f"{configuration} was trained on volumes, found a 2D image of {grid.shape_voxels[1:]} (y, x); give the "
            f"whole volume, or predict with a 2d configuration"
        )
        raise PredictionError(msg)
    if largest_voxels is None:
        return
    whole = compute_whole_geometry(grid, plan, configuration)
    if _count(whole, plan, configuration) <= LARGEST_GROWTH * largest_voxels:
        return
    geometry = _compute_geometry(grid, plan, configuration, box=compute_nonzero_box(array))
    voxels = _count(geometry, plan, configuration)
    is_enlarged = prod(geometry.resampled_shape_voxels) > LARGEST_HONEST_ENLARGEMENT * prod(
        geometry.cropped_shape_voxels
    )
    if voxels > LARGEST_GROWTH * largest_voxels and is_enlarged:
        effect = f"is {voxels / largest_voxels:.3g} times as many as in training (up to {largest_voxels})"
        raise PredictionError(describe_resampling(geometry, effect))


def find_largest_training_grid(run: RunFolder, plan: Plan, configuration: str) -> int:
    """Finds the voxels of the largest preprocessed training image, in plane for a 2D configuration.

    Models that were imported have no measurements of training images: theirs is estimated by the median shape.
    """
    chosen = plan.configurations[configuration]
    if run.fingerprint.is_file():
        try:
            cases = read_document(run.fingerprint, Fingerprint).cases
        except DocumentError as error:
            logger.warning("the sizes of the training images are not known: %s", error)
        else:
            shapes = (compute_preprocessed_shape(case, plan, configuration) for case in cases)
            return max(prod(shape[-chosen.resampled_axis_count :]) for shape in shapes)
    return round(LARGEST_BY_MEDIAN * max(prod(chosen.median_shape_voxels), prod(chosen.patch_voxels)))


def compute_whole_geometry(grid: Grid, plan: Plan, configuration: str) -> CaseGeometry:
    """Computes the geometry of an image as if nothing were cropped, from its header alone."""
    depth, height, width = grid.shape_voxels
    return _compute_geometry(grid, plan, configuration, box=((0, depth), (0, height), (0, width)))


def _count(geometry: CaseGeometry, plan: Plan, configuration: str) -> int:
    return prod(geometry.resampled_shape_voxels[-plan.configurations[configuration].resampled_axis_count :])


def _compute_geometry(grid: Grid, plan: Plan, configuration: str, *, box: Box) -> CaseGeometry:
    """Computes the geometry of an image from its box in the axes of the file, without touching its voxels."""
    reorientation = compute_plan_axes(grid, plan.orientation, plan.axis_permutation)
    spacing_mm = reorientation.apply_to_grid(grid).spacing_mm
    extents = [stop - start for start, stop in box]
    first, second, third = reorientation.permutation
    cropped: IntTriple = (extents[first], extents[second], extents[third])
    target_mm = compute_target_spacing(spacing_mm, plan.configurations[configuration])
    return CaseGeometry(
        grid=grid,
        orientation=plan.orientation,
        axis_permutation=plan.axis_permutation,
        crop_box=(box[first], box[second], box[third]),
        cropped_shape_voxels=cropped,
        resampled_shape_voxels=compute_resampled_shape(cropped, spacing_mm, target_mm),
        cropped_spacing_mm=spacing_mm,
        target_spacing_mm=target_mm,
    )
