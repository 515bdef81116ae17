"""Gain between two sets of scores of the same cases, with a confidence interval."""

from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int64

from autoseg.document import Part
from autoseg.evaluation.crossvalidation import FEWEST_CASES, INTERVAL_PERCENTILES, SEED, Table, draw_class_means

SMALLEST_SHOWN_PLAINLY: Final = 0.00005
LARGEST_DICE_LOSS: Final = 0.002
"""Mean Dice that may be lost where prediction becomes cheaper: below what another seed of training changes (guess)."""

PerClass = Float64[np.ndarray, " class"]


class Gain(Part):
    """Difference of two scores, each a mean over classes of means over cases.

    Attributes:
        lower: Lower end of the 95 % interval by the percentile bootstrap, which draws both scores of a case together;
            None with too few cases, of which such an interval would be far too narrow.
        upper: Upper end of the interval; None with too few cases.
    """

    mean: float
    lower: float | None
    upper: float | None

    @property
    def has_interval(self) -> bool:
        """Whether there are enough cases to tell a gain from chance."""
        return self.lower is not None

    def describe(self) -> str:
        """Describes the gain with its interval."""
        mean = _format_difference(self.mean)
        if self.lower is None or self.upper is None:
            return f"{mean} (too few cases to tell: fewer than {FEWEST_CASES})"
        return f"{mean} (95 % interval {_format_difference(self.lower)} to {_format_difference(self.upper)})"


def compute_gain(before: Table, after: Table) -> Gain:
    """Computes the gain between two scores of the same cases.

    Classes are compared one by one: where one is missing in all cases of a bootstrap sample, that sample's difference
    is over the other classes. The mean of a class is over the cases in which its score is defined, so a case in which
    false positives disappear (0 becomes undefined) raises it.

    Args:
        before: Scores; NaN where they are not defined. Every class has one in some case.
        after: Scores of the same cases and classes.
    """
    is_defined = ~np.isnan(before) | ~np.isnan(after)
    changed = (before != after) & is_defined
    columns = changed.any(axis=0)
    mean = float(np.mean(compute_column_means(after) - compute_column_means(before))) if columns.any() else 0.0
    if is_defined[:, columns if columns.any() else slice(None)].any(axis=1).sum() < FEWEST_CASES:
        return Gain(mean=mean, lower=None, upper=None)
    if not columns.any():
        return Gain(mean=0.0, lower=0.0, upper=0.0)
    draws = draw_class_means([table[:, columns] for table in (before, after)], np.random.default_rng(SEED))
    share = columns.mean()  # of the classes; the others have no difference in any sample
    differences = compute_column_means((draws[1] - draws[0]).T)
    lower, upper = np.percentile(differences[~np.isnan(differences)], INTERVAL_PERCENTILES) * share
    return Gain(mean=mean, lower=float(lower), upper=float(upper))


def compute_column_means(table: Table) -> PerClass:
    """Computes the mean of each column over its defined values; NaN where there are none."""
    is_defined = ~np.isnan(table)
    counts = is_defined.sum(axis=0)
    means = np.full(table.shape[1], np.nan)
    np.divide(np.where(is_defined, table, 0.0).sum(axis=0), counts, out=means, where=counts > 0)
    return means


def _format_difference(value: float) -> str:
    """Formats a difference with four decimals, or as an order of magnitude if these would round it to 0."""
    return f"{value:+.4f}" if value == 0 or abs(value) >= SMALLEST_SHOWN_PLAINLY else f"{value:+.0e}"


def find_scored_classes(reference_voxels: Int64[np.ndarray, "case class"]) -> Bool[np.ndarray, " class"]:
    """Finds classes that occur in some reference; the others have no score that could be compared.

    A class without reference has the score 0 where it is predicted and none where it is not; means with and without it
    cannot be ranked.
    """
    found: Bool[np.ndarray, " class"] = np.any(reference_voxels > 0, axis=0)
    return found
