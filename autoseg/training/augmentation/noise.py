"""Additive Gaussian noise, independent in every voxel and channel."""

from dataclasses import dataclass

import numpy as np
from batchgenerators.augmentations.noise_augmentations import augment_gaussian_noise
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from autoseg.plan.augmentation import NoisePlan
from autoseg.training.augmentation.factors import scale_to
from autoseg.training.augmentation.tensors.counter_random import KEY_WORDS, draw_normal, join_words
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
        numbers = draws.random(2)
        std = np.where(numbers[:, 0] < self.plan.probability, scale_to(numbers[:, 1], self.plan.std_range), 0)
        return NoiseParameters(std=std, key=draws.words(KEY_WORDS))

    def list_arrays(self, parameters: NoiseParameters) -> tuple[np.ndarray, ...]:
        """Lists standard deviations and keys."""
        return parameters.std, join_words(parameters.key)

    def change_patches(self, patches: Patches, parameters: NoiseParameters, *arrays: Tensor) -> Patches:
        """Adds noise to the samples that have a standard deviation above 0."""
        std, key = arrays
        return Patches(image=add_gaussian_noise(patches.image, std, key), label_maps=patches.label_maps)


def add_gaussian_noise(
    image: Float32[Tensor, "batch channel *space"], std: Float32[Tensor, " batch"], key: Int64[Tensor, " batch"]
) -> Float32[Tensor, "batch channel *space"]:
    """Adds independent normal noise to every voxel and channel, of one standard deviation per sample."""
    return image + draw_normal(key, image[0].numel(), std).reshape(image.shape)
