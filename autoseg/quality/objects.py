"""Quality of the objects of a predicted case: their expected F1 and PQ, and how many there are.

As for the scores of classes: features of what is found, and regressions and intervals fitted to held-out cases.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
from jaxtyping import Float, Int64
from pydantic import Field

from autoseg.document import Part
from autoseg.quality.features import NetworkFeatures, compute_log, compute_logit
from autoseg.quality.regression import (
    FEWEST_CASES,
    CalibratedScore,
    Estimate,
    Regression,
    Score,
    find_conformal_quantiles,
    fit_score,
)

SHOWN_DIGITS = 4  # of the probability of an object, as in its table
LOW_PERCENTILE = 10.0
ROUNDING = 1e-9


class ObjectFeatures(Part):
    """The objects of one class that are found in a case.

    Attributes:
        count: Their number.
        mean_probability: Mean over them of the mean probability of the class in each.
        low_probability: 10th percentile of these.
        median_size: Median size, in mm3 (mm2, pixels).
        size_ratio: 90th percentile of the sizes divided by the 10th.
    """

    count: Annotated[int, Field(ge=1)]
    mean_probability: float
    low_probability: float
    median_size: float
    size_ratio: float


class ScoredObjects(Part):
    """The objects of a held-out case, one entry for each class.

    Attributes:
        features: Features of the objects that are found; None where none are.
        f1: F1 at an IoU of 0.5; None where neither prediction nor reference has an object.
        pq: Panoptic quality.
        expected: Number of objects of the reference.
    """

    features: tuple[ObjectFeatures | None, ...]
    f1: tuple[Score, ...]
    pq: tuple[Score, ...]
    expected: tuple[int, ...]


class CountErrors(Part):
    """Conformal quantiles of the logarithm of the true number plus 1, divided by the found one plus 1."""

    low: float
    high: float


class ObjectCalibration(Part):
    """Calibration of the objects of one class; None where they are found in too few held-out cases.

    Attributes:
        f1: Regression of F1.
        pq: Regression of the panoptic quality.
        count: Errors of the number.
    """

    f1: CalibratedScore | None
    pq: CalibratedScore | None
    count: CountErrors | None


class CountEstimate(Part):
    """A number of objects with the interval of 90 % of the true one; None where that is not calibrated."""

    value: int
    low: int | None
    high: int | None


class ObjectQuality(Part):
    """Estimated quality of the objects of one class.

    Attributes:
        count: Their number.
        f1: Expected F1 at an IoU of 0.5; None where it is not calibrated or no object is found.
        pq: Expected panoptic quality.
    """

    count: CountEstimate
    f1: Estimate | None
    pq: Estimate | None


def measure_objects(
    sizes: Float[np.ndarray, " object"], probabilities: Float[np.ndarray, " object"]
) -> ObjectFeatures | None:
    """Measures the objects of a class, by the size and the mean probability of the class of each; None without any."""
    if not len(sizes):
        return None
    rounded = np.round(probabilities.astype(np.float64), SHOWN_DIGITS)
    small, median, large = np.percentile(sizes, (LOW_PERCENTILE, 50.0, 100.0 - LOW_PERCENTILE))
    return ObjectFeatures(
        count=len(sizes),
        mean_probability=float(rounded.mean()),
        low_probability=float(np.percentile(rounded, LOW_PERCENTILE)),
        median_size=float(median),
        size_ratio=float(large / small),
    )


def fit_objects(
    networks: Sequence[NetworkFeatures],
    scored: Sequence[ScoredObjects],
    blocks: Int64[np.ndarray, " case"],
    *,
    class_names: Sequence[str],
) -> dict[str, ObjectCalibration]:
    """Fits the estimates of the objects of every class.

    Args:
        networks: Features of the probabilities of each held-out case: of all parts of the classes, part by part.
        scored: Objects of each held-out case.
        blocks: Number of the block of each case; blocks are left out in turn.
        class_names: Names of the classes.
    """
    return {
        name: _fit_class(networks, scored, blocks, index, class_count=len(class_names))
        for index, name in enumerate(class_names)
    }


def _fit_class(
    networks: Sequence[NetworkFeatures],
    scored: Sequence[ScoredObjects],
    blocks: Int64[np.ndarray, " case"],
    index: int,
    *,
    class_count: int,
) -> ObjectCalibration:
    regressors = [
        _list_regressors(network, entry.features[index], index, class_count=class_count)
        for network, entry in zip(networks, scored, strict=True)
    ]

    def fit(get: Callable[[ScoredObjects], Score]) -> CalibratedScore | None:
        return fit_score(regressors, [get(entry) for entry in scored], blocks)

    return ObjectCalibration(
        f1=fit(lambda entry: entry.f1[index]), pq=fit(lambda entry: entry.pq[index]), count=_fit_count(scored, index)
    )


def _fit_count(scored: Sequence[ScoredObjects], index: int) -> CountErrors | None:
    ratios = [
        math.log((entry.expected[index] + 1) / (found.count + 1))
        for entry in scored
        if (found := entry.features[index]) is not None
    ]
    if len(ratios) < FEWEST_CASES:
        return None
    low, high = find_conformal_quantiles(np.array(ratios))
    return CountErrors(low=low, high=high)


def estimate_objects(
    network: NetworkFeatures,
    found: Sequence[ObjectFeatures | None],
    *,
    calibration: dict[str, ObjectCalibration] | None,
    class_names: Sequence[str],
) -> dict[str, ObjectQuality]:
    """Estimates the quality of the objects of every class of a predicted case.

    Args:
        network: Features of the probabilities.
        found: Objects of each class; None where nothing is found.
        calibration: Calibration by class; None if the model has none.
        class_names: Names of the classes.
    """
    estimates = {}
    for index, name in enumerate(class_names):
        fitted = None if calibration is None else calibration.get(name)
        own = found[index]
        regressors = _list_regressors(network, own, index, class_count=len(class_names))
        estimates[name] = ObjectQuality(
            count=_estimate_count(own, None if fitted is None else fitted.count),
            f1=_estimate(None if fitted is None or fitted.f1 is None else fitted.f1.regression, regressors),
            pq=_estimate(None if fitted is None or fitted.pq is None else fitted.pq.regression, regressors),
        )
    return estimates


def _estimate(regression: Regression | None, regressors: list[float] | None) -> Estimate | None:
    return None if regression is None or regressors is None else regression.estimate(regressors)


def _estimate_count(found: ObjectFeatures | None, errors: CountErrors | None) -> CountEstimate:
    """Estimates the true number: whole numbers between the ends, and the found one always among them."""
    if found is None or errors is None:
        return CountEstimate(value=0 if found is None else found.count, low=None, high=None)
    low, high = ((found.count + 1) * math.exp(end) - 1 for end in (min(0.0, errors.low), max(0.0, errors.high)))
    return CountEstimate(value=found.count, low=max(0, math.ceil(low - ROUNDING)), high=math.floor(high + ROUNDING))


def _list_regressors(
    network: NetworkFeatures, found: ObjectFeatures | None, index: int, *, class_count: int
) -> list[float] | None:
    """Lists the features that estimates of the objects of a class depend on; None if none are found."""
    parts = [part for part in network.probabilities[index::class_count] if part is not None]
    if found is None or not parts:
        return None
    return [
        compute_log(float(found.count)),
        compute_logit(found.mean_probability),
        compute_logit(found.low_probability),
        compute_log(found.median_size),
        compute_log(found.size_ratio),
        float(np.mean([compute_logit(part.soft_dice) for part in parts])),
        float(np.mean([compute_log(part.border_uncertainty) for part in parts])),
        float(np.mean([compute_log(part.class_uncertainty) for part in parts])),
    ]
