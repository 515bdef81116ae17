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
from autoseg.training.augmentation.tensors.rows import expand_column, view_rows
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

    def list_arrays(self, parameters: Factors) -> tuple[np.ndarray, ...]:
        """Lists the factors."""
        return (parameters,)

    def change_patches(self, patches: Patches, parameters: Factors, *arrays: Tensor) -> Patches:
        """Multiplies all channels."""
        adjust_brightness(view_rows(patches.image), *arrays)
        return patches


def adjust_brightness(rows: Float32[Tensor, " row *space"], factors: Float32[Tensor, "*row"]) -> None:
    """Multiplies each row by its factor, in place."""
    rows.mul_(expand_column(factors, rows))
