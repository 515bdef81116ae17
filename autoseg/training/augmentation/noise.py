"""Additive Gaussian noise, independent in every voxel and channel."""

from dataclasses import dataclass

import numpy as np
from batchgenerators.augmentations.noise_augmentations import augment_gaussian_noise
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from autoseg.plan.augmentation import NoisePlan
from autoseg.training.augmentation.tensors.counter_random import KEY_WORDS, WORD, draw_normal
from autoseg.training.augmentation.tensors.rows import change_some, to_column
from autoseg.training.augmentation.tensors.transfer import copy_to_device
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

    def change_patches(self, patches: Patches, parameters: NoiseParameters) -> Patches:
        """Adds noise to the samples that have a standard deviation above 0."""
        add_gaussian_noise(patches.image, parameters)
        return patches

    def _draw_sample(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        is_noisy = np.asarray(generator.random() < self.plan.probability)
        std = np.where(is_noisy, generator.uniform(*self.plan.std_range), 0)
        return std, generator.integers(WORD, size=KEY_WORDS, endpoint=True)


def add_gaussian_noise(image: Float32[Tensor, "batch channel *space"], parameters: NoiseParameters) -> None:
    """Adds independent normal noise to every voxel and channel, of one standard deviation per sample, in place."""

    def change(samples: Tensor, changed: np.ndarray) -> Tensor:
        keys = copy_to_device(parameters.key[changed], image.device)
        noise = draw_normal(keys, samples[0].numel()).view_as(samples)
        return samples + noise * to_column(parameters.std[changed], samples)

    change_some(image, parameters.std > 0, change)
