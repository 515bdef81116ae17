"""Scaling of each channel about its mean; values stay within their former range."""

from dataclasses import dataclass

import numpy as np
import torch
from batchgenerators.augmentations.color_augmentations import augment_contrast
from jaxtyping import Float32, Float64
from torch import Tensor

from autoseg.plan.augmentation import ContrastPlan
from autoseg.training.augmentation.factors import draw_factors
from autoseg.training.augmentation.tensors.rows import (
    expand_column,
    find_limits,
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

    def list_arrays(self, parameters: Factors) -> tuple[np.ndarray, ...]:
        """Lists the factors."""
        return (parameters,)

    def change_patches(self, patches: Patches, parameters: Factors, *arrays: Tensor) -> Patches:
        """Scales all channels; those whose factor is 1 stay exactly as they are."""
        adjust_contrast(view_rows(patches.image), *arrays)
        return patches


def adjust_contrast(rows: Float32[Tensor, " row *space"], factors: Float32[Tensor, "*row"]) -> None:
    """Scales the values about their mean and keeps them within their former range, in place."""
    lowest, highest = find_limits(rows)
    mean = rows.mean(tuple(range(1, rows.ndim)), keepdim=True)
    torch.lerp(mean, rows, expand_column(factors, rows), out=rows).clamp_(lowest, highest)
