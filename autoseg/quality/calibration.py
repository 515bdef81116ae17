"""Calibration of quality estimates on the held-out cases of a run."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Final, Literal

import numpy as np
from jaxtyping import Int64
from pydantic import Field

from autoseg.document import Document, Part
from autoseg.quality.distribution import Distribution, learn_distribution
from autoseg.quality.features import CaseFeatures, ChannelFeatures, compute_log, compute_logit
from autoseg.quality.regression import (
    FEWEST_CASES,
    FitQuality,
    Regression,
    find_conformal_quantiles,
    fit_regression,
    judge_fit,
)

CALIBRATION_NAME: Final = "quality_calibration.json"
"""File in a run; `autoseg select` writes it."""

Score = float | None


class ScoredCase(Part):
    """A held-out case: features of its prediction, and the comparison with its reference.

    Attributes:
        dice: Dice of every class; None where it is not defined.
        nsd: Normalized surface Dice of every class.
        reference_ml: Volume of every class in the reference.
    """

    features: CaseFeatures
    dice: tuple[Score, ...]
    nsd: tuple[Score, ...]
    reference_ml: tuple[float, ...]


class VolumeErrors(Part):
    """Conformal quantiles of the logarithm of true by predicted volume, at either end of an interval of 90 %."""

    low: float
    high: float


class CalibratedScore(Part):
    """The regression of one score of one class, and how well it does on cases that it was not fitted to."""

    regression: Regression
    quality: FitQuality


class ClassCalibration(Part):
    """Calibration of one class; None where too few held-out cases have the class.

    Attributes:
        dice: Regression of the Dice.
        nsd: Regression of the normalized surface Dice.
        volume: Errors of the volume.
    """

    dice: CalibratedScore | None
    nsd: CalibratedScore | None
    volume: VolumeErrors | None


class QualityCalibration(Document):
    """Everything that estimates of quality need; no name of a case is among it.

    Attributes:
        weights_sha256: Digests of the weights whose held-out predictions it was fitted to, as in the selection.
        postprocessing: Rules that were applied to these predictions, in words.
        cases: Number of held-out cases.
        class_names: Names of the classes.
        classes: Calibration of each class.
        distribution: Typical features of the held-out cases.
    """

    schema_version: Literal[1] = 1
    autoseg_version: str
    weights_sha256: tuple[str, ...]
    postprocessing: tuple[str, ...]
    cases: Annotated[int, Field(ge=0)]
    class_names: tuple[str, ...]
    classes: tuple[ClassCalibration, ...]
    distribution: Distribution

    def describe(self) -> str:
        """Describes the calibration in one sentence."""
        if self.cases < FEWEST_CASES:
            return (
                f"no Dice is estimated: {self.cases} held-out cases are too few to calibrate it, fewer than "
                f"{FEWEST_CASES}"
            )
        known = [entry.dice.quality for entry in self.classes if entry.dice is not None]
        if not known:
            return f"no Dice is estimated: no class occurs in {FEWEST_CASES} of {self.cases} held-out cases"
        error = float(np.mean([entry.mean_error for entry in known]))
        coverage = float(np.mean([entry.coverage for entry in known]))
        return (
            f"calibrated on {self.cases} held-out cases: estimates of Dice were off by {error:.3f} on average, and "
            f"{coverage:.0%} of the intervals held the true one, each case judged without its fold"
        )


def fit_calibration(
    cases: Sequence[ScoredCase],
    blocks: Int64[np.ndarray, " case"],
    *,
    channel_names: Sequence[str],
    class_names: Sequence[str],
) -> tuple[tuple[ClassCalibration, ...], Distribution]:
    """Fits the estimates of every class, and learns what usual cases look like.

    Args:
        cases: Held-out cases.
        blocks: Number of the block of each case; blocks are left out in turn.
        channel_names: Names of the channels.
        class_names: Names of the classes.
    """
    distribution = learn_distribution(
        [entry.features for entry in cases], blocks, channel_names=channel_names, class_names=class_names
    )
    classes = tuple(_fit_class(cases, blocks, index) for index in range(len(class_names)))
    return classes, distribution


def list_regressors(features: CaseFeatures, index: int) -> list[float] | None:
    """Lists the features that estimates of one class depend on; None if the class is not predicted."""
    probabilities, shape = features.network.probabilities[index], features.shapes[index]
    if probabilities is None or shape is None:
        return None
    image, predicted = features.network.image, [entry for entry in features.network.probabilities if entry is not None]
    return [
        compute_logit(probabilities.soft_dice),
        float(np.mean([compute_logit(entry.soft_dice) for entry in predicted])),
        compute_log(probabilities.border_uncertainty),
        compute_log(probabilities.class_uncertainty),
        compute_log(probabilities.expected_fraction),
        *probabilities.intensities,
        compute_log(shape.volume_ml),
        compute_log(float(shape.components)),
        compute_log(shape.compactness),
        shape.largest_fraction,
        shape.border_fraction,
        *shape.centre,
        *map(compute_log, image.extent_mm),
        *(value for channel in image.channels for value in _list_channel_regressors(channel)),
    ]


def _list_channel_regressors(channel: ChannelFeatures) -> list[float]:
    return [compute_log(channel.contrast), compute_log(channel.roughness), *channel.percentiles]


def _fit_class(cases: Sequence[ScoredCase], blocks: Int64[np.ndarray, " case"], index: int) -> ClassCalibration:
    return ClassCalibration(
        dice=_fit_score(cases, blocks, index, lambda entry: entry.dice[index]),
        nsd=_fit_score(cases, blocks, index, lambda entry: entry.nsd[index]),
        volume=_fit_volume(cases, index),
    )


def _fit_score(
    cases: Sequence[ScoredCase],
    blocks: Int64[np.ndarray, " case"],
    index: int,
    get: Callable[[ScoredCase], Score],
) -> CalibratedScore | None:
    rows = [
        (regressors, score, block)
        for entry, block in zip(cases, blocks, strict=True)
        if (regressors := list_regressors(entry.features, index)) is not None and (score := get(entry)) is not None
    ]
    if len(rows) < FEWEST_CASES or len({block for _, _, block in rows}) < 2:
        return None
    features, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], np.float64)
    own = np.array([row[2] for row in rows], np.int64)
    return CalibratedScore(regression=fit_regression(features, scores, own), quality=judge_fit(features, scores, own))


def _fit_volume(cases: Sequence[ScoredCase], index: int) -> VolumeErrors | None:
    ratios = [
        math.log(entry.reference_ml[index] / shape.volume_ml)
        for entry in cases
        if (shape := entry.features.shapes[index]) is not None and entry.reference_ml[index] > 0
    ]
    if len(ratios) < FEWEST_CASES:
        return None
    low, high = find_conformal_quantiles(np.array(ratios))
    return VolumeErrors(low=low, high=high)
