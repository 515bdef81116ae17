"""What is drawn for each patch: always on the processor, from the sample's own counter-based generator.

So the decisions do not depend on the device, and which samples of a batch a transform changes is known without asking
the device. The distributions are those of `autoseg.training.augmentation`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import radians
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int64

from autoseg.plan import AugmentationPlan
from autoseg.training.device.counter_random import KEY_WORDS, WORD

# Distinguishes these draws from those of the place of the patch, which has the same seeds.
SPAWN_KEY: Final = (1,)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchParameters:
    """How the patches of a batch are changed.

    Attributes:
        angles_radians: About each moved axis; one angle in a plane. All zero: no rotation.
        scale: Above 1 objects become smaller. 1: no scaling.
        is_moved: Whether the patch is rotated or scaled.
        noise_std: 0: no noise.
        noise_key: 32-bit words from which the noise follows.
        blur_sigma_voxels: All zero: no blur.
        brightness: Factor; 1: unchanged.
        contrast: Factor; 1: unchanged.
        zoom: Of the simulated low resolution; 1: unchanged.
        inverted_gamma: Exponent for the inverted image; 1: unchanged.
        gamma: Exponent; 1: unchanged.
        is_flipped: Which axes are mirrored.
    """

    angles_radians: Float64[np.ndarray, "batch angle"]
    scale: Float64[np.ndarray, " batch"]
    is_moved: Bool[np.ndarray, " batch"]
    noise_std: Float64[np.ndarray, " batch"]
    noise_key: Int64[np.ndarray, "batch 4"]
    blur_sigma_voxels: Float64[np.ndarray, "batch channel axis"]
    brightness: Float64[np.ndarray, "batch channel"]
    contrast: Float64[np.ndarray, "batch channel"]
    zoom: Float64[np.ndarray, "batch channel"]
    inverted_gamma: Float64[np.ndarray, "batch channel"]
    gamma: Float64[np.ndarray, "batch channel"]
    is_flipped: Bool[np.ndarray, "batch axis"]


def draw_parameters(
    plan: AugmentationPlan, seeds: Sequence[np.random.SeedSequence], *, channels: int, dimensions: int
) -> PatchParameters:
    """Draws for every sample of a batch from its own seeds."""
    drawn = [
        _draw_sample(plan, build_generator(sample, SPAWN_KEY), channels=channels, dimensions=dimensions)
        for sample in seeds
    ]
    names = [field.name for field in fields(PatchParameters)]
    return PatchParameters(**{name: np.stack([values[name] for values in drawn]) for name in names})


def build_generator(seeds: np.random.SeedSequence, spawn_key: tuple[int, ...]) -> np.random.Generator:
    """A generator of one sample's own; each kind of draws has a key, so that they are independent."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seeds.entropy, spawn_key=spawn_key)))


def _draw_sample(
    plan: AugmentationPlan, generator: np.random.Generator, *, channels: int, dimensions: int
) -> dict[str, np.ndarray]:
    """Draws everything, used or not, so that no value depends on another decision."""
    return {
        **_draw_spatial(plan, generator, moved_axes=dimensions - is_slice_wise(plan, dimensions)),
        "noise_std": np.where(_decide(generator, plan.noise_probability), generator.uniform(*plan.noise_std_range), 0),
        "noise_key": generator.integers(WORD, size=KEY_WORDS, endpoint=True),
        "blur_sigma_voxels": _draw_blur(plan, generator, channels=channels, dimensions=dimensions),
        "brightness": _draw_factors(generator, plan.brightness_probability, plan.brightness_range, channels),
        "contrast": _draw_factors(generator, plan.contrast_probability, plan.contrast_range, channels),
        "zoom": _draw_zoom(plan, generator, channels),
        "inverted_gamma": _draw_factors(generator, plan.inverted_gamma_probability, plan.gamma_range, channels),
        "gamma": _draw_factors(generator, plan.gamma_probability, plan.gamma_range, channels),
        "is_flipped": (generator.random(dimensions) < 0.5) & np.isin(np.arange(dimensions), plan.mirror_axes),
    }


def is_slice_wise(plan: AugmentationPlan, dimensions: int) -> bool:
    """Whether the first axis of the patch is neither rotated, scaled nor coarsened."""
    return plan.in_plane_only and dimensions == 3


def _draw_spatial(plan: AugmentationPlan, generator: np.random.Generator, *, moved_axes: int) -> dict[str, np.ndarray]:
    is_rotated = _decide(generator, plan.rotation_probability)
    limit = radians(plan.rotation_limit_degrees)
    angles = generator.uniform(-limit, limit, size=1 if moved_axes == 2 else 3)
    is_scaled = _decide(generator, plan.scaling_probability)
    scale = generator.uniform(*plan.scaling_range)
    return {
        "angles_radians": np.where(is_rotated, angles, 0),
        "scale": np.where(is_scaled, scale, 1),
        "is_moved": np.asarray(is_rotated | is_scaled),
    }


def _draw_blur(
    plan: AugmentationPlan, generator: np.random.Generator, *, channels: int, dimensions: int
) -> Float64[np.ndarray, "channel axis"]:
    is_blurred = _decide(generator, plan.blur_probability) & (
        generator.random((channels, 1)) < plan.blur_channel_probability
    )
    return np.where(is_blurred, generator.uniform(*plan.blur_sigma_range_voxels, size=(channels, dimensions)), 0)


def _draw_zoom(
    plan: AugmentationPlan, generator: np.random.Generator, channels: int
) -> Float64[np.ndarray, " channel"]:
    is_coarse = _decide(generator, plan.low_resolution_probability) & (
        generator.random(channels) < plan.low_resolution_channel_probability
    )
    return np.where(is_coarse, generator.uniform(*plan.low_resolution_range, size=channels), 1)


def _draw_factors(
    generator: np.random.Generator, probability: float, limits: tuple[float, float], channels: int
) -> Float64[np.ndarray, " channel"]:
    """One factor a channel: below 1 or above 1 with equal probability where the limits allow both."""
    is_changed = _decide(generator, probability)
    lower, upper = limits
    is_below, position = generator.random(channels) < 0.5, generator.random(channels)
    if not lower < 1 < upper:
        return np.where(is_changed, lower + position * (upper - lower), 1)
    factors = np.where(is_below, lower + position * (1 - lower), 1 + position * (upper - 1))
    return np.where(is_changed, factors, 1)


def _decide(generator: np.random.Generator, probability: float) -> np.ndarray:
    return np.asarray(generator.random() < probability)
