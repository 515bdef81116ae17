"""Gamma correction: values scaled to 0 to 1 are raised to a power; mean and standard deviation are restored."""

from dataclasses import dataclass

import numpy as np
import torch
from batchgenerators.augmentations.color_augmentations import augment_gamma
from jaxtyping import Bool, Float32, Float64
from torch import Tensor

from autoseg.plan.augmentation import GammaPlan
from autoseg.training.augmentation.factors import draw_factors
from autoseg.training.augmentation.tensors.rows import (
    RANGE_EPSILON,
    SPREAD_EPSILON,
    expand_column,
    find_limits,
    measure_moments,
    view_rows,
)
from autoseg.training.augmentation.transform import DeviceTransform, Patches, Sample, SampleDraws

Exponents = Float64[np.ndarray, "batch channel"]


@dataclass(frozen=True, kw_only=True)
class Gamma(DeviceTransform[Exponents]):
    """Carries out "gamma"."""

    plan: GammaPlan

    def change_sample(self, sample: Sample) -> None:
        """Changes all channels, each by its own exponent."""
        if np.random.uniform() < self.plan.probability:
            sample.image = augment_gamma(
                sample.image,
                self.plan.exponent_range,
                invert_image=self.plan.inverted,
                per_channel=True,
                retain_stats=True,
            )

    def draw(self, draws: SampleDraws) -> Exponents:
        """Draws exponents; 1: unchanged."""
        return draw_factors(draws, self.plan.probability, self.plan.exponent_range)

    def list_arrays(self, parameters: Exponents) -> tuple[np.ndarray, ...]:
        """Lists the exponents, and which channels they change."""
        return parameters, parameters != 1

    def change_patches(self, patches: Patches, parameters: Exponents, *arrays: Tensor) -> Patches:
        """Changes the channels whose exponent is not 1."""
        image = adjust_gamma(view_rows(patches.image), *arrays, inverted=self.plan.inverted)
        return Patches(image=image.view(patches.image.shape), label_maps=patches.label_maps)


def adjust_gamma(
    rows: Float32[Tensor, " row *space"],
    exponents: Float32[Tensor, "*row"],
    is_changed: Bool[Tensor, "*row"],
    *,
    inverted: bool,
) -> Float32[Tensor, " row *space"]:
    """Raises the values, or the negative ones, to a power, then restores mean and standard deviation."""
    mean, spread = measure_moments(rows)
    lowest, highest = find_limits(rows)
    extent = highest - lowest + RANGE_EPSILON
    powers = ((highest - rows if inverted else rows - lowest) / extent) ** expand_column(exponents, rows)
    mean_power, spread_power = measure_moments(powers)
    factor = spread / spread_power.add_(extent.reciprocal_(), alpha=SPREAD_EPSILON)
    changed = torch.addcmul(mean, powers.sub_(mean_power), factor, value=-1 if inverted else 1)
    return torch.where(expand_column(is_changed, rows), changed, rows)
