"""Gamma correction: values scaled to 0 to 1 are raised to a power; mean and standard deviation are restored."""

from dataclasses import dataclass

import numpy as np
from batchgenerators.augmentations.color_augmentations import augment_gamma
from jaxtyping import Float32, Float64
from torch import Tensor

from autoseg.plan.augmentation import GammaPlan
from autoseg.training.augmentation.factors import draw_factors
from autoseg.training.augmentation.tensors.rows import (
    RANGE_EPSILON,
    SPREAD_EPSILON,
    change_some,
    find_limits,
    measure_moments,
    to_column,
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

    def change_patches(self, patches: Patches, parameters: Exponents) -> Patches:
        """Changes the channels whose exponent is not 1."""
        adjust_gamma(view_rows(patches.image), parameters.ravel(), inverted=self.plan.inverted)
        return patches


def adjust_gamma(
    rows: Float32[Tensor, " row *space"], exponents: Float64[np.ndarray, " row"], *, inverted: bool
) -> None:
    """Raises the values, or the negative ones, to a power, then restores mean and standard deviation, in place."""

    def change(some: Tensor, changed: np.ndarray) -> Tensor:
        column = to_column(exponents[changed], some)
        return -_raise_to_power(-some, column) if inverted else _raise_to_power(some, column)

    change_some(rows, exponents != 1, change)


def _raise_to_power(rows: Tensor, exponents: Tensor) -> Tensor:
    mean, spread = measure_moments(rows)
    lowest, highest = find_limits(rows)
    extent = highest - lowest + RANGE_EPSILON
    changed = ((rows - lowest) / extent) ** exponents * extent + lowest
    changed_mean, changed_spread = measure_moments(changed)
    return (changed - changed_mean) / (changed_spread + SPREAD_EPSILON) * spread + mean
