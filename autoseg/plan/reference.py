"""The training of the reference implementation, nnU-Net v2, in the terms of a plan."""

from typing import Final

from autoseg.plan.augmentation import (
    BlurPlan,
    BrightnessPlan,
    ContrastPlan,
    GammaPlan,
    LowResolutionPlan,
    MaskComponentRemovalPlan,
    MaskMorphologyPlan,
    MirrorPlan,
    NoisePlan,
    SpatialPlan,
    TransformPlan,
)
from autoseg.plan.losses import CrossEntropyTerm, DiceTerm, SegmentationObjective
from autoseg.plan.training import PolynomialSchedule, TrainingPlan

ELONGATED_2D_RATIO: Final = 1.5  # of the implementation: a longer picture leaves its frame when it is turned
FLAT_PATCH_RATIO: Final = 3.0  # of the paper: the anisotropy factor of the spacing, applied to the patch
GAMMA_RANGE: Final = (0.7, 1.5)
REFERENCE_MASK_TRANSFORMS: Final[tuple[TransformPlan, ...]] = (
    MaskMorphologyPlan(probability=0.4, label_probability=0.5, radius_range_voxels=(1.0, 8.0)),
    MaskComponentRemovalPlan(probability=0.2, label_probability=0.5, limit_fraction=0.15),
)
"""Follow the others in the second stage of a cascade."""


def build_reference_training(
    *,
    batch_size: int,
    batch_dice: bool,
    transforms: tuple[TransformPlan, ...],
    sufficient_iterations: int | None = None,
) -> TrainingPlan:
    """The training of the class nnUNetTrainer (release 2.8.1), the same for every dataset.

    Source: Isensee et al. 2021 ("fixed parameters"); the gradient's norm limit is that of the code.
    """
    return TrainingPlan(
        epochs=1000,
        iterations_per_epoch=250,
        validation_iterations_per_epoch=50,
        budget_seconds=None,
        sufficient_iterations=sufficient_iterations,
        batch_size=batch_size,
        foreground_fraction=0.33,
        foreground_placement="centred",
        foreground_choice="class",
        losses=(DiceTerm(weight=1.0, batch_dice=batch_dice), CrossEntropyTerm(weight=1.0)),
        objective=SegmentationObjective(),
        optimizer="sgd_nesterov",
        initial_learning_rate=0.01,
        momentum=0.99,
        second_moment_decay=0.999,
        weight_decay=3e-5,
        schedule=PolynomialSchedule(exponent=0.9),
        warmup_iterations=0,
        weight_average_decay=0.0,
        gradient_norm_limit=12.0,
        augmentation_end_fraction=0.0,
        synthetic_end_fraction=0.5,
        transforms=transforms,
    )


def build_reference_transforms(
    patch_voxels: tuple[int, ...], *, mirror_axes: tuple[int, ...]
) -> tuple[TransformPlan, ...]:
    """Builds the list for one configuration, without the transforms of a cascade's masks.

    Source: Isensee et al. 2021, supplement, with the numbers of version 2.

    Args:
        patch_voxels: Extent of the patch, on which the rotation depends.
        mirror_axes: Plan axes (of the patch) that are flipped; may be empty.
    """
    rotation_limit_degrees, in_plane_only = limit_rotation(patch_voxels)
    mirror = (MirrorPlan(axes=mirror_axes),) if mirror_axes else ()
    return (
        SpatialPlan(
            rotation_probability=0.2,
            rotation_limit_degrees=rotation_limit_degrees,
            in_plane_only=in_plane_only,
            scaling_probability=0.2,
            scaling_range=(0.7, 1.4),
        ),
        NoisePlan(probability=0.1, std_range=(0.0, 0.1)),
        BlurPlan(probability=0.2, channel_probability=0.5, sigma_range_voxels=(0.5, 1.0)),
        BrightnessPlan(probability=0.15, factor_range=(0.75, 1.25)),
        ContrastPlan(probability=0.15, factor_range=(0.75, 1.25)),
        LowResolutionPlan(
            probability=0.25, channel_probability=0.5, zoom_range=(0.5, 1.0), in_plane_only=in_plane_only
        ),
        GammaPlan(probability=0.1, inverted=True, exponent_range=GAMMA_RANGE),
        GammaPlan(probability=0.3, inverted=False, exponent_range=GAMMA_RANGE),
        *mirror,
    )


def limit_rotation(patch_voxels: tuple[int, ...]) -> tuple[float, bool]:
    """Returns the largest angle in degrees, and whether slices are rotated in plane only ("dummy 2D")."""
    if len(patch_voxels) == 2:
        is_elongated = max(patch_voxels) / min(patch_voxels) > ELONGATED_2D_RATIO
        return (15.0 if is_elongated else 180.0), False
    is_flat = max(patch_voxels) / patch_voxels[0] > FLAT_PATCH_RATIO
    return (180.0 if is_flat else 30.0), is_flat
