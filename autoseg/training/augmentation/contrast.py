"""Scaling of each channel about its mean; values stay within their former range."""

from dataclasses import dataclass

import numpy as np
from batchgenerators.augmentations.color_augmentations import augment_contrast
from jaxtyping import Float32, Float64
from torch import Tensor

from autoseg.plan.augmentation import ContrastPlan
from autoseg.training.augmentation.factors import draw_factors
from autoseg.training.augmentation.tensors.rows import (
    change_some,
    find_limits,
    measure_moments,
    to_column,
    view_rows,
)
from autoseg.training.augmentation.transform import DeviceTransform, Patches, Sample, SampleDraws

Factors = Float64[np.ndarray, "batch channel"]


@dataclass(frozen=True, kw_only=True)
class Contrast(DeviceTransform[Factors]):
    """Carries out "contrast"."""

    plan: ContrastPlan

    def change_sample(self, sample: Sample) -> None:
        """Scales all channels."""
        if np.random.uniform() < self.plan.probability:
            augment_contrast(sample.image, contrast_range=self.plan.factor_range)

    def draw(self, draws: SampleDraws) -> Factors:
        """Draws factors; 1: unchanged."""
        return draw_factors(draws, self.plan.probability, self.plan.factor_range)

    def change_patches(self, patches: Patches, parameters: Factors) -> Patches:
        """Scales the channels whose factor is not 1."""
        adjust_contrast(view_rows(patches.image), parameters.ravel())
        return patches


def adjust_contrast(rows: Float32[Tensor, " row *space"], factors: Float64[np.ndarray, " row"]) -> None:
    """Scales the values about their mean and keeps them within their former range, in place."""

    def change(some: Tensor, changed: np.ndarray) -> Tensor:
        lowest, highest = find_limits(some)
        mean, _ = measure_moments(some)
        return ((some - mean) * to_column(factors[changed], some) + mean).clamp(lowest, highest)

    change_some(rows, factors != 1, change)
