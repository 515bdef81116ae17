"""Calibration of quality estimates on the held-out cases of a run."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal

import numpy as np
from jaxtyping import Int64
from pydantic import Field, model_serializer

from autoseg.document import Document, Part
from autoseg.quality.distribution import Distribution, learn_distribution
from autoseg.quality.features import CaseFeatures, ChannelFeatures, compute_log, compute_logit
from autoseg.quality.objects import ObjectCalibration
from autoseg.quality.regression import (
    FEWEST_CASES,
    CalibratedScore,
    FitQuality,
    Score,
    find_conformal_quantiles,
    fit_score,
)

CALIBRATION_NAME: Final = "quality_calibration.json"
"""File in a run; `autoseg select` writes it."""


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
        mirroring: Whether these predictions averaged mirrored views, as always in files of earlier versions.
        step_fraction: Distance of neighbouring windows as a fraction of the patch.
        decoding: Decoding of the label maps.
        cases: Number of held-out cases.
        class_names: Names of the classes.
        classes: Calibration of each class.
        distribution: Typical features of the held-out cases.
        objects: Calibration of the objects of each class; None, and not written, where they are not told apart.
    """

    schema_version: Literal[1] = 1
    autoseg_version: str
    weights_sha256: tuple[str, ...]
    postprocessing: tuple[str, ...]
    mirroring: bool = True
    step_fraction: float = 0.5
    decoding: Literal["argmax", "dice"] = "argmax"
    cases: Annotated[int, Field(ge=0)]
    class_names: tuple[str, ...]
    classes: tuple[ClassCalibration, ...]
    distribution: Distribution
    objects: dict[str, ObjectCalibration] | None = None

    @model_serializer(mode="wrap")
    def _omit_missing(self, write: Callable[[Document], dict[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if (key, value) != ("objects", None)}

    def describe(self) -> str:
        """Describes the calibration in one sentence."""
        if self.cases < FEWEST_CASES:
            scores = "Dice" if self.objects is None else "Dice, F1 or PQ"
            return (
                f"no {scores} is estimated: {self.cases} held-out cases are too few to calibrate it, fewer than "
                f"{FEWEST_CASES}"
            )
        known = [entry.dice.quality for entry in self.classes if entry.dice is not None]
        of_objects = [entry.f1.quality for entry in (self.objects or {}).values() if entry.f1 is not None]
        lines = [
            *_describe_errors("estimates of Dice", known),
            *_describe_errors("those of the F1 of objects" if known else "estimates of the F1 of objects", of_objects),
        ]
        if not lines:
            return f"no Dice is estimated: no class occurs in {FEWEST_CASES} of {self.cases} held-out cases"
        return f"calibrated on {self.cases} held-out cases: {', '.join(lines)}, each case judged without its fold"


def _describe_errors(name: str, known: Sequence[FitQuality]) -> tuple[str, ...]:
    if not known:
        return ()
    error = float(np.mean([entry.mean_error for entry in known]))
    coverage = float(np.mean([entry.coverage for entry in known]))
    return (f"{name} were off by {error:.3f} on average, and {coverage:.0%} of the intervals held the true one",)


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
    """Lists the features that estimates of one class depend on; None if the class is not predicted.

    Further ones are added at the end: calibrations of earlier versions use those that they know.
    """
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
        *(0.0 if channel.scale is None else compute_log(channel.scale) for channel in image.channels),
        *(value for channel in image.channels for value in channel.extremes or (0.0, 0.0)),
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
    regressors = [list_regressors(entry.features, index) for entry in cases]
    return fit_score(regressors, [get(entry) for entry in cases], blocks)


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
