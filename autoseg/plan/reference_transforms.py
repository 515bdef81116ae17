"""The transforms of nnU-Net: paper (Isensee et al. 2021), supplement, with the numbers of its version 2."""

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

GAMMA_RANGE: Final = (0.7, 1.5)
REFERENCE_MASK_TRANSFORMS: Final[tuple[TransformPlan, ...]] = (
    MaskMorphologyPlan(probability=0.4, label_probability=0.5, radius_range_voxels=(1.0, 8.0)),
    MaskComponentRemovalPlan(probability=0.2, label_probability=0.5, limit_fraction=0.15),
)
"""Follow the others in the second stage of a cascade."""


def build_reference_transforms(
    rotation_limit_degrees: float, *, in_plane_only: bool, mirror_axes: tuple[int, ...]
) -> tuple[TransformPlan, ...]:
    """Builds the list for one configuration; what it depends on is given."""
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
