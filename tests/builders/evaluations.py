"""Results of evaluations, not computed from label maps."""

from collections.abc import Mapping, Sequence
from typing import Any

from autoseg.evaluation.case_metrics import ClassMetrics
from autoseg.evaluation.lesions import LesionCounts
from autoseg.evaluation.summary import (
    METRICS,
    CaseEvaluation,
    CaseSummary,
    CollectedScores,
    EvaluationSummary,
    MetricValues,
)
from autoseg.labels import LabelScheme


def build_class_metrics(**changes: Any) -> ClassMetrics:
    """Of a class that is found in part; keyword arguments replace fields."""
    fields = {
        "dice": 0.5,
        "iou": 0.25,
        "true_positives": 2,
        "false_positives": 1,
        "false_negatives": 3,
        "true_negatives": 94,
        "predicted_voxels": 3,
        "reference_voxels": 5,
        "hd95_mm": 4.0,
        "surface_dice": 0.75,
        "volume_difference_ml": -0.5,
        "relative_volume_difference": -0.4,
        "pixel_accuracy": 0.96,
        "volume_overlap_error": 0.75,
        "average_distance_mm": 1.5,
        "maximum_distance_mm": 6.0,
        "lesions": LesionCounts(true_positives=1, false_positives=1, false_negatives=0),
    }
    return ClassMetrics(**fields | changes)


def summarize(cases: Sequence[CaseEvaluation], *, labels: LabelScheme, tolerance_mm: float) -> EvaluationSummary:
    """The summary of cases that were predicted by no validation."""
    collected = CollectedScores(labels)
    for index, case in enumerate(cases):
        collected.add(index, case)
    return collected.summarize(tolerance_mm=tolerance_mm, validation=None)


def build_summary(
    cases: Mapping[str, Mapping[str, float | None]], *, class_names: dict[str, str] | None = None
) -> EvaluationSummary:
    """A summary of cases, each a mapping of class key to Dice; nothing but Dice is defined, nor any statistic."""
    keys = next(iter(cases.values()))
    empty = dict.fromkeys(keys, build_values(None))
    return EvaluationSummary(
        tolerance_mm=1.0,
        definitions={},
        class_names=class_names or {key: f"organ {key}" for key in keys},
        foreground_mean=build_values(None),
        mean=empty,
        std=empty,
        count=empty,
        metric_per_case=tuple(
            CaseSummary(
                case=case,
                prediction_file="",
                reference_file="",
                metrics={key: build_values(dice) for key, dice in scores.items()},
            )
            for case, scores in cases.items()
        ),
    )


def build_values(dice: float | None) -> MetricValues:
    """Metrics of which Dice alone is defined."""
    return MetricValues(**dict.fromkeys(METRICS) | {"Dice": dice})
