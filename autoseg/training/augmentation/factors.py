"""Random factors and exponents around 1, one per channel."""

import numpy as np
from jaxtyping import Float64

from autoseg.training.augmentation.transform import SampleDraws


def draw_around_one(limits: tuple[float, float]) -> float:
    """Draws below 1 or above 1 with equal probability where the limits allow both, else uniformly between them; from
    numpy's global generator."""
    lower, upper = limits
    if lower < 1 < upper:
        lower, upper = (lower, 1.0) if np.random.uniform() < 0.5 else (1.0, upper)
    return float(np.random.uniform(lower, upper))


def draw_factors(
    draws: SampleDraws, probability: float, limits: tuple[float, float]
) -> Float64[np.ndarray, "batch channel"]:
    """Draws from the distribution of `draw_around_one` for the samples of a batch; 1: the sample is unchanged."""
    drawn = [_draw_sample(generator, probability, limits, channels=draws.channels) for generator in draws.generators]
    return np.stack(drawn)


def _draw_sample(
    generator: np.random.Generator, probability: float, limits: tuple[float, float], *, channels: int
) -> Float64[np.ndarray, " channel"]:
    is_changed = np.asarray(generator.random() < probability)
    lower, upper = limits
    is_below, position = generator.random(channels) < 0.5, generator.random(channels)
    if not lower < 1 < upper:
        return np.where(is_changed, lower + position * (upper - lower), 1)
    factors = np.where(is_below, lower + position * (1 - lower), 1 + position * (upper - 1))
    return np.where(is_changed, factors, 1)
