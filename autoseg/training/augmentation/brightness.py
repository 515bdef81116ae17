"""Multiplication of each channel by a factor of its own.

batchgenerators' transform draws one uniform factor, which is the same for a range that is symmetric about 1; here,
factors below and above 1 are equally likely, whatever the range.
"""

from dataclasses import dataclass

import numpy as np
from batchgenerators.augmentations.color_augmentations import augment_brightness_multiplicative
from jaxtyping import Float32, Float64
from torch import Tensor

from autoseg.plan.augmentation import BrightnessPlan
from autoseg.training.augmentation.factors import draw_around_one, draw_factors
from autoseg.training.augmentation.tensors.rows import change_some, to_column, view_rows
from autoseg.training.augmentation.transform import DeviceTransform, Patches, Sample, SampleDraws

Factors = Float64[np.ndarray, "batch channel"]


@dataclass(frozen=True, kw_only=True)
class Brightness(DeviceTransform[Factors]):
    """Carries out "brightness"."""

    plan: BrightnessPlan

    def change_sample(self, sample: Sample) -> None:
        """Multiplies all channels."""
        if np.random.uniform() < self.plan.probability:
            for channel in sample.image:
                factor = draw_around_one(self.plan.factor_range)
                augment_brightness_multiplicative(channel[None], (factor, factor), per_channel=False)

    def draw(self, draws: SampleDraws) -> Factors:
        """Draws factors; 1: unchanged."""
        return draw_factors(draws, self.plan.probability, self.plan.factor_range)

    def change_patches(self, patches: Patches, parameters: Factors) -> Patches:
        """Multiplies the channels whose factor is not 1."""
        adjust_brightness(view_rows(patches.image), parameters.ravel())
        return patches


def adjust_brightness(rows: Float32[Tensor, " row *space"], factors: Float64[np.ndarray, " row"]) -> None:
    """Multiplies each row by its factor, in place."""
    change_some(rows, factors != 1, lambda some, changed: some * to_column(factors[changed], some))
