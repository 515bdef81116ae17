"""Random changes of training patches."""

from typing import Annotated

from pydantic import Field

from autoseg.document import Part
from autoseg.plan.values import Fraction, FractionRange, NonNegativeRange, PositiveRange


class AugmentationPlan(Part):
    """Random changes of a training patch, in this order; probabilities are per sample unless said.

    A range is a lower and an upper limit, both drawn.

    Attributes:
        rotation_limit_degrees: Each angle is uniform in [-limit, limit].
        in_plane_only: Spatial changes and low resolution leave plan axis 0 alone ("dummy 2D").
        scaling_range: One factor for all axes; above 1 objects become smaller.
        noise_std_range: Standard deviation of additive Gaussian noise.
        blur_sigma_range_voxels: Drawn per channel and axis.
        low_resolution_range: Zoom factor of the simulated low resolution.
        gamma_range: Exponents; below 1 and above 1 are equally likely (so for brightness and contrast).
        mirror_axes: Plan axes (of the patch) that are flipped with probability one half each, also in prediction.
        mask_change_probability: That masks of the previous stage of a cascade grow or shrink; this and what follows
            counts in a cascade alone, and has the reference's values by default.
        mask_change_label_probability: Of each label, if masks change.
        mask_change_radius_voxels: Drawn per label; how far a mask grows or shrinks.
        component_removal_probability: That masks of the previous stage lose a connected component each.
        component_removal_label_probability: Of each label, if masks lose components.
        component_removal_limit_fraction: Components of this share of the patch or more stay.
    """

    rotation_probability: Fraction
    rotation_limit_degrees: Annotated[float, Field(ge=0, le=180)]
    in_plane_only: bool
    scaling_probability: Fraction
    scaling_range: PositiveRange
    noise_probability: Fraction
    noise_std_range: NonNegativeRange
    blur_probability: Fraction
    blur_channel_probability: Fraction
    blur_sigma_range_voxels: NonNegativeRange
    brightness_probability: Fraction
    brightness_range: PositiveRange
    contrast_probability: Fraction
    contrast_range: PositiveRange
    low_resolution_probability: Fraction
    low_resolution_channel_probability: Fraction
    low_resolution_range: FractionRange
    inverted_gamma_probability: Fraction
    gamma_probability: Fraction
    gamma_range: PositiveRange
    mirror_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...]
    mask_change_probability: Fraction = 0.4
    mask_change_label_probability: Fraction = 0.5
    mask_change_radius_voxels: NonNegativeRange = (1.0, 8.0)
    component_removal_probability: Fraction = 0.2
    component_removal_label_probability: Fraction = 0.5
    component_removal_limit_fraction: Fraction = 0.15
