"""A transform: one number is added to all intensities."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from autoseg.plan.augmentation import TransformPlan
from autoseg.plan.values import Fraction, NonNegative
from autoseg.training.augmentation.tensors.rows import expand_column
from autoseg.training.augmentation.transform import DeviceTransform, Patches, Sample, SampleDraws


class OffsetPlan(TransformPlan):
    name: Literal["offset"] = "offset"
    probability: Fraction
    limit: NonNegative


@dataclass(frozen=True, kw_only=True)
class Offset(DeviceTransform[Float64[np.ndarray, " batch"]]):
    plan: OffsetPlan

    def change_sample(self, sample: Sample) -> None:
        if np.random.uniform() < self.plan.probability:
            sample.image += np.float32(np.random.uniform(-self.plan.limit, self.plan.limit))

    def draw(self, draws: SampleDraws) -> Float64[np.ndarray, " batch"]:
        return np.array([self._draw_sample(generator) for generator in draws.generators])

    def list_arrays(self, parameters: Float64[np.ndarray, " batch"]) -> tuple[np.ndarray, ...]:
        return (parameters,)

    def change_patches(self, patches: Patches, parameters: Float64[np.ndarray, " batch"], *arrays: Tensor) -> Patches:
        patches.image.add_(expand_column(*arrays, patches.image))
        return patches

    def _draw_sample(self, generator: np.random.Generator) -> float:
        is_changed = generator.random() < self.plan.probability
        return is_changed * generator.uniform(-self.plan.limit, self.plan.limit)
