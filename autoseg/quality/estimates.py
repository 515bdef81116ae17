"""Quality of predicted cases: expected scores, volumes and flags, as quality.json holds them."""

import math
from collections.abc import Sequence
from typing import ClassVar, Final, Literal

from autoseg.document import MOST_RESULT_BYTES, Document, Part
from autoseg.plan.values import Fraction
from autoseg.quality.calibration import ClassCalibration, list_regressors
from autoseg.quality.distribution import Distribution, Flag, list_values
from autoseg.quality.features import CaseFeatures, PlausiblePart
from autoseg.quality.objects import ObjectQuality
from autoseg.quality.regression import Estimate
from autoseg.quality.shown_units import USUAL_UNITS, ShownUnits, VolumeUnit

NO_FLAGS: Final = "nor are there any flags"
"""End of the sentence about estimates where images were compared with nothing."""


class VolumeEstimate(Part):
    """A predicted volume with the interval of 90 % of the true one; None where that is not calibrated."""

    value: float
    low: float | None
    high: float | None


class ClassQuality(Part):
    """Estimated quality of one class.

    Attributes:
        volume: Volume in the unit of the document; 0 where the class is not predicted.
        dice: Expected Dice; None where it is not calibrated or the class is not predicted.
        nsd: Expected normalized surface Dice with a tolerance of 1 mm.
    """

    volume: VolumeEstimate
    dice: Estimate | None
    nsd: Estimate | None


class CaseQuality(PlausiblePart):
    """Estimated quality of one predicted case.

    Attributes:
        name: Name of the case.
        label_map: Name of its label map in the folder.
        flags: Everything unusual, the most unusual first.
        classes: Quality by name of the class.
        plausibility: Mean Dice with which the label autoencoders of the networks reconstruct the label map; None, and
            not written, where there is none.
        objects: Quality of the objects by name of their class; None, and not written, where they are not told apart.
    """

    name: str
    label_map: str
    flags: tuple[Flag, ...]
    classes: dict[str, ClassQuality]
    plausibility: Fraction | None = None
    objects: dict[str, ObjectQuality] | None = None

    @property
    def expected_dice(self) -> float | None:
        """The mean of the expected Dice of the classes; None where there is none."""
        known = [entry.dice.value for entry in self.classes.values() if entry.dice is not None]
        return sum(known) / len(known) if known else None

    @property
    def urgency(self) -> tuple[float, float]:
        """Returns a key that sorts cases: the most unusual first, then those with the lowest expected Dice."""
        unusual = max((math.inf if flag.deviation is None else flag.deviation for flag in self.flags), default=0.0)
        expected = self.expected_dice
        return -unusual, 1.0 if expected is None else expected


class QualityReport(Document):
    """Content of quality.json.

    Attributes:
        model: Name of the run.
        calibration: Sentence about the basis of the estimates, or the reason for their lack.
        volume_unit: Unit of the volumes.
        compared: Whether images were compared with the training cases, so that it means something if there is no flag;
            None in files of earlier versions.
        cases: Quality of every case that was predicted, sorted by name.
    """

    most_bytes: ClassVar[int] = MOST_RESULT_BYTES

    schema_version: Literal[1] = 1
    autoseg_version: str
    model: str
    calibration: str
    volume_unit: VolumeUnit
    compared: bool | None = None
    cases: tuple[CaseQuality, ...] = ()

    @property
    def is_compared(self) -> bool:
        """Returns whether images were compared with the training cases."""
        return NO_FLAGS not in self.calibration if self.compared is None else self.compared


def estimate_case(
    name: str,
    label_map: str,
    features: CaseFeatures,
    *,
    classes: Sequence[ClassCalibration] | None,
    distribution: Distribution | None,
    channel_names: Sequence[str],
    class_names: Sequence[str],
    units: ShownUnits = USUAL_UNITS,
) -> CaseQuality:
    """Estimates the quality of a predicted case.

    Args:
        name: Name of the case.
        label_map: Name of its label map.
        features: Features of the prediction.
        classes: Calibration of each class; None if the model has none.
        distribution: Typical features of the training cases; None if nothing is known of them.
        channel_names: Names of the channels.
        class_names: Names of the classes.
        units: Units in which volumes and flags are told.
    """
    flags: tuple[Flag, ...] = ()
    if distribution is not None:
        values = list_values(features, distribution.thumbnails, channel_names=channel_names, class_names=class_names)
        flags = distribution.find_flags(values, units)
    of_classes = [None] * len(class_names) if classes is None else classes
    return CaseQuality(
        name=name,
        label_map=label_map,
        flags=flags,
        classes={
            class_name: _estimate_class(features, index, fitted, units)
            for index, (class_name, fitted) in enumerate(zip(class_names, of_classes, strict=True))
        },
        plausibility=features.network.plausibility,
    )


def _estimate_class(
    features: CaseFeatures, index: int, fitted: ClassCalibration | None, units: ShownUnits
) -> ClassQuality:
    shape, regressors = features.shapes[index], list_regressors(features, index)
    volume = 0.0 if shape is None else units.show_volume(shape.volume_ml)
    errors = None if fitted is None or shape is None else fitted.volume
    dice = None if fitted is None or fitted.dice is None or regressors is None else fitted.dice.regression
    nsd = None if fitted is None or fitted.nsd is None or regressors is None else fitted.nsd.regression
    return ClassQuality(
        volume=VolumeEstimate(
            value=volume,
            low=None if errors is None else volume * math.exp(min(0.0, errors.low)),
            high=None if errors is None else volume * math.exp(max(0.0, errors.high)),
        ),
        dice=None if dice is None or regressors is None else dice.estimate(regressors),
        nsd=None if nsd is None or regressors is None else nsd.estimate(regressors),
    )
