"""How the prediction of a cascade's first stage reaches the grid of the second."""

import numpy as np
from jaxtyping import Float, Int16
from torch import Tensor

from autoseg.geometry import Grid
from autoseg.inference.restore_grid import restore_label_map
from autoseg.labels import LabelScheme
from autoseg.plan import ResamplingPlan
from autoseg.preprocessing.case import CaseGeometry, PreprocessedCase, mark_outside
from autoseg.preprocessing.resample import resample_label_map


def bring_to_training_grid(
    logits: Float[Tensor, "class z y x"],
    geometry: CaseGeometry,
    target: CaseGeometry,
    *,
    labels: LabelScheme,
    resampling: ResamplingPlan,
) -> Int16[np.ndarray, "new_z new_y new_x"]:
    """Internal labels on the grid of another configuration's preprocessed arrays, for training on them.

    Logits are interpolated from one grid to the other, as in nnU-Net, whose prediction takes another way: see
    `bring_to_prediction_grid`.

    Args:
        logits: Of the first stage.
        geometry: Of the case in the first stage.
        target: Of the same case in the second stage.
        labels: Of the plan.
        resampling: Of the first stage.
    """
    spacing_mm = geometry.target_spacing_mm
    extents = target.resampled_shape_voxels
    between = CaseGeometry(
        grid=Grid(shape_voxels=extents, spacing_mm=spacing_mm),
        orientation=None,
        axis_permutation=(0, 1, 2),
        crop_box=((0, extents[0]), (0, extents[1]), (0, extents[2])),
        cropped_shape_voxels=extents,
        resampled_shape_voxels=geometry.resampled_shape_voxels,
        cropped_spacing_mm=spacing_mm,  # whether an axis is resampled apart is decided by the first stage's alone
        target_spacing_mm=spacing_mm,
    )
    return restore_label_map(logits, between, labels=labels, resampling=resampling)


def bring_to_prediction_grid(
    logits: Float[Tensor, "class z y x"],
    case: PreprocessedCase,
    *,
    labels: LabelScheme,
    first: ResamplingPlan,
    second: ResamplingPlan,
) -> Int16[np.ndarray, "new_z new_y new_x"]:
    """Internal labels on the grid of the second stage's image; -1 is background outside the nonzero region.

    As in nnU-Net, the first stage's label map is finished on the grid of the file and then preprocessed like that of a
    training case.

    Args:
        logits: Of the first stage.
        case: Preprocessed for the second stage.
        labels: Of the plan.
        first: Resampling of the first stage.
        second: Resampling of the second stage.
    """
    assert case.previous is not None, "this case was not preprocessed for a cascade"
    assert case.nonzero_mask is not None, "this case was not preprocessed for a cascade"
    label_map = restore_label_map(logits, case.previous.geometry, labels=labels, resampling=first)
    geometry = case.geometry
    cropped = geometry.reorientation.apply(label_map)[geometry.crop_slices]
    return resample_label_map(
        mark_outside(cropped, case.nonzero_mask),
        shape=geometry.resampled_shape_voxels,
        spacing_mm=geometry.cropped_spacing_mm,
        target_spacing_mm=geometry.target_spacing_mm,
        plan=second,
    )
