"""Additive Gaussian noise, independent in every voxel and channel."""

from dataclasses import dataclass

import numpy as np
from batchgenerators.augmentations.noise_augmentations import augment_gaussian_noise
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from autoseg.plan.augmentation import NoisePlan
from autoseg.training.augmentation.tensors.counter_random import draw_key, draw_normal, join_words
from autoseg.training.augmentation.transform import DeviceTransform, Patches, Sample, SampleDraws


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseParameters:
    """Random parameters of a batch.

    Attributes:
        std: 0: no noise.
        key: 32-bit words from which the noise follows.
    """

    std: Float64[np.ndarray, " batch"]
    key: Int64[np.ndarray, "batch 4"]


@dataclass(frozen=True, kw_only=True)
class Noise(DeviceTransform[NoiseParameters]):
    """Carries out "noise"."""

    plan: NoisePlan

    def change_sample(self, sample: Sample) -> None:
        """Adds noise of one standard deviation to all channels."""
        if np.random.uniform() < self.plan.probability:
            augment_gaussian_noise(sample.image, self.plan.std_range)

    def draw(self, draws: SampleDraws) -> NoiseParameters:
        """Draws a standard deviation and a key for each sample."""
        drawn = [self._draw_sample(generator) for generator in draws.generators]
        return NoiseParameters(std=np.stack([std for std, _ in drawn]), key=np.stack([key for _, key in drawn]))

    def list_arrays(self, parameters: NoiseParameters) -> tuple[np.ndarray, ...]:
        """Lists standard deviations and keys."""
        return parameters.std, join_words(parameters.key)

    def change_patches(self, patches: Patches, parameters: NoiseParameters, *arrays: Tensor) -> Patches:
        """Adds noise to the samples that have a standard deviation above 0."""
        std, key = arrays
        return Patches(image=add_gaussian_noise(patches.image, std, key), label_maps=patches.label_maps)

    def _draw_sample(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        is_noisy = np.asarray(generator.random() < self.plan.probability)
        std = np.where(is_noisy, generator.uniform(*self.plan.std_range), 0)
        return std, draw_key(generator)


def add_gaussian_noise(
    image: Float32[Tensor, "batch channel *space"], std: Float32[Tensor, " batch"], key: Int64[Tensor, " batch"]
) -> Float32[Tensor, "batch channel *space"]:
    """Adds independent normal noise to every voxel and channel, of one standard deviation per sample."""
    return image + draw_normal(key, image[0].numel(), std).reshape(image.shape)
