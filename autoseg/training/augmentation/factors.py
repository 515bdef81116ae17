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
    numbers, (lower, upper) = draws.random(1 + 2 * draws.channels), limits
    is_changed = numbers[:, :1] < probability
    is_below, position = numbers[:, 1 : 1 + draws.channels] < 0.5, numbers[:, 1 + draws.channels :]
    if not lower < 1 < upper:
        return np.where(is_changed, scale_to(position, limits), 1)
    factors = np.where(is_below, scale_to(position, (lower, 1.0)), scale_to(position, (1.0, upper)))
    return np.where(is_changed, factors, 1)


def scale_to(numbers: Float64[np.ndarray, "*number"], limits: tuple[float, float]) -> Float64[np.ndarray, "*number"]:
    """Scales numbers between 0 and 1 to a range."""
    lower, upper = limits
    scaled: Float64[np.ndarray, "*number"] = lower + numbers * (upper - lower)
    return scaled
