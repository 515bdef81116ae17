"""Saturation and hue of pictures with three colour channels.

Grey is what has equal values in all three channels, so that both are linear: saturation scales the distance of a colour
from the axis of greys, hue turns colours about it. Images whose channels are normalized one by one keep the meaning:
grey is then the mean colour of the picture, brighter or darker.
"""

from dataclasses import dataclass
from math import cos, radians, sin, sqrt
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64
from torch import Tensor

from autoseg.plan.augmentation import HuePlan, SaturationPlan
from autoseg.training.augmentation.factors import draw_around_one
from autoseg.training.augmentation.tensors.rows import expand_column
from autoseg.training.augmentation.transform import DeviceTransform, Patches, Sample, SampleDraws

Matrices = Float64[np.ndarray, "batch 3 3"]

GREYS: Final = np.full((3, 3), 1 / 3)  # projection onto the axis of greys
QUARTER_TURN: Final = np.asarray([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / sqrt(3)  # about that axis


@dataclass(frozen=True, kw_only=True)
class Saturation(DeviceTransform[Matrices]):
    """Carries out "saturation"."""

    plan: SaturationPlan

    def change_sample(self, sample: Sample) -> None:
        """Makes the colours stronger or weaker."""
        if np.random.uniform() < self.plan.probability:
            sample.image = mix_sample(sample.image, compute_mixing(draw_around_one(self.plan.factor_range), 0.0))

    def draw(self, draws: SampleDraws) -> Matrices:
        """Draws a matrix for each sample; the unit matrix: unchanged."""
        return np.stack([self._draw_sample(generator) for generator in draws.generators])

    def list_arrays(self, parameters: Matrices) -> tuple[np.ndarray, ...]:
        """Lists the matrices, and which samples they change."""
        return list_mixing(parameters)

    def change_patches(self, patches: Patches, parameters: Matrices, *arrays: Tensor) -> Patches:
        """Changes the samples whose matrix is not the unit matrix."""
        return Patches(image=mix_channels(patches.image, *arrays), label_maps=patches.label_maps)

    def _draw_sample(self, generator: np.random.Generator) -> np.ndarray:
        lower, upper = self.plan.factor_range
        is_changed, is_below = generator.random(2) < (self.plan.probability, 0.5)
        if lower < 1 < upper:
            lower, upper = (lower, 1.0) if is_below else (1.0, upper)
        factor = generator.uniform(lower, upper)
        return compute_mixing(factor if is_changed else 1.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Hue(DeviceTransform[Matrices]):
    """Carries out "hue"."""

    plan: HuePlan

    def change_sample(self, sample: Sample) -> None:
        """Turns all colours by one angle."""
        if np.random.uniform() < self.plan.probability:
            degrees = np.random.uniform(-self.plan.limit_degrees, self.plan.limit_degrees)
            sample.image = mix_sample(sample.image, compute_mixing(1.0, degrees))

    def draw(self, draws: SampleDraws) -> Matrices:
        """Draws a matrix for each sample; the unit matrix: unchanged."""
        limit = self.plan.limit_degrees
        drawn = [(generator.random(), generator.uniform(-limit, limit)) for generator in draws.generators]
        return np.stack(
            [compute_mixing(1.0, degrees if chance < self.plan.probability else 0.0) for chance, degrees in drawn]
        )

    def list_arrays(self, parameters: Matrices) -> tuple[np.ndarray, ...]:
        """Lists the matrices, and which samples they change."""
        return list_mixing(parameters)

    def change_patches(self, patches: Patches, parameters: Matrices, *arrays: Tensor) -> Patches:
        """Changes the samples whose matrix is not the unit matrix."""
        return Patches(image=mix_channels(patches.image, *arrays), label_maps=patches.label_maps)


def compute_mixing(saturation: float, hue_degrees: float) -> Float64[np.ndarray, "3 3"]:
    """Computes the matrix by which the channels of every voxel are multiplied; the unit matrix exactly for (1, 0)."""
    if (saturation, hue_degrees) == (1.0, 0.0):
        return np.eye(3)
    angle = radians(hue_degrees)
    matrix: Float64[np.ndarray, "3 3"]
    matrix = GREYS + saturation * (cos(angle) * (np.eye(3) - GREYS) + sin(angle) * QUARTER_TURN)
    return matrix


def mix_sample(
    image: Float32[np.ndarray, " channel *space"], matrix: Float64[np.ndarray, "3 3"]
) -> Float32[np.ndarray, " channel *space"]:
    """Multiplies the channels of every voxel of one image by a matrix."""
    mixed: Float32[np.ndarray, " channel *space"] = np.tensordot(matrix.astype(np.float32), image, axes=1)
    return mixed


def list_mixing(matrices: Matrices) -> tuple[np.ndarray, ...]:
    """Lists what `mix_channels` needs: the matrices, and which of them are not the unit matrix."""
    return matrices, (matrices != np.eye(3)).any(axis=(1, 2))


def mix_channels(
    image: Float32[Tensor, "batch 3 *space"],
    matrices: Float32[Tensor, "batch 3 3"],
    is_changed: Bool[Tensor, " batch"],
) -> Float32[Tensor, "batch 3 *space"]:
    """Multiplies the channels of every voxel of some samples by a matrix."""
    mixed = torch.bmm(matrices, image.flatten(2)).view_as(image)
    return torch.where(expand_column(is_changed, image), mixed, image)
