"""Detects a plateau: the validation on whole volumes no longer improves."""

from collections.abc import Sequence
from typing import Final

EPOCHS_BETWEEN_MEASUREMENTS: Final = 5
SMOOTHING: Final = 0.5  # share of the new measurement in the moving average
PATIENCE: Final = 6  # measurements without an improvement
SMALLEST_IMPROVEMENT: Final = 0.001  # of a mean Dice
ANNEALED_SHARE: Final = 0.25
"""Epochs over which the learning rate then falls, as a share of those before (compare the cool-down of Zhai et al.
2022, arXiv:2106.04560, of a fifth of the whole)."""


def is_measurement_due(epoch: int) -> bool:
    """Returns whether whole volumes are predicted after an epoch (counted from 0)."""
    return (epoch + 1) % EPOCHS_BETWEEN_MEASUREMENTS == 0


def has_reached_plateau(measurements: Sequence[float]) -> bool:
    """Returns whether the moving average of the mean Dice has not improved for `PATIENCE` measurements."""
    averages = smooth(measurements)
    best, best_at = -1.0, 0
    for index, average in enumerate(averages):
        if average > best + SMALLEST_IMPROVEMENT:
            best, best_at = average, index
    return len(averages) - 1 - best_at >= PATIENCE


def smooth(measurements: Sequence[float]) -> list[float]:
    """Computes the exponential moving average, which starts with the first value."""
    averages: list[float] = []
    for value in measurements:
        averages.append(value if not averages else (1 - SMOOTHING) * averages[-1] + SMOOTHING * value)
    return averages


def compute_annealing_epochs(epochs_done: int) -> int:
    """Computes the number of epochs over which the learning rate falls after a plateau."""
    return max(1, round(ANNEALED_SHARE * epochs_done))
