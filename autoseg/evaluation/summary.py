"""Summary of an evaluation over all cases: summary.json and summary.csv.

The JSON file has nnU-Net's keys ("metric_per_case", "mean", "foreground_mean" with Dice, IoU, TP, ...), so that scripts
that read nnU-Net's summary.json read this one; undefined values are null instead of NaN, which is no JSON.
"""

import csv
import statistics
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TextIO

from autoseg.document import MOST_RESULT_BYTES, CasePart, Document, Packed, PackedResults, PartCodec, write_document
from autoseg.errors import EvaluationError
from autoseg.evaluation.case_metrics import ClassMetrics
from autoseg.geometry import DistanceUnit
from autoseg.labels import LabelScheme
from autoseg.run_folder import write_atomically
from autoseg.validation_conditions import ValidationConditions

SUMMARY_JSON: Final = "summary.json"
SUMMARY_CSV: Final = "summary.csv"

DEFINITIONS: Final = {
    "Dice": "2 TP / (2 TP + FP + FN); null if the class is in neither prediction nor reference",
    "IoU": "TP / (TP + FP + FN); null like Dice",
    "TP": "voxels of the class in prediction and reference; ignored voxels count nowhere",
    "FP": "voxels of the class in the prediction only",
    "FN": "voxels of the class in the reference only",
    "TN": "voxels of the class in neither",
    "n_pred": "voxels of the class in the prediction",
    "n_ref": "voxels of the class in the reference",
    "distance_unit": "of HD95, ASD, HD and tolerance_mm: mm, or pixel where no file tells a spacing",
    "HD95": "larger of the two directed 95th percentiles of the distances between the surfaces, in distance_unit; "
    "surface elements weigh by area (contour elements by length); null if the class is missing in prediction or "
    "reference",
    "NSD": "normalized surface Dice: share of the area of both surfaces within tolerance_mm of the other surface; "
    "0 if the class is missing in one of prediction and reference, null if in both",
    "volume_difference_ml": "volume of the prediction minus that of the reference (thousands of voxels where "
    "distance_unit is pixel); null for images of one slice",
    "relative_volume_difference": "volume difference divided by the reference's volume; null if that is 0",
    "PA": "pixel accuracy: share of all voxels of the case whose label is right, the same for every class of a case; "
    "ignored voxels count nowhere; null if all are ignored",
    "VOE": "volumetric overlap error 1 - IoU; null like IoU",
    "ASD": "average symmetric surface distance: mean of the distances of both surfaces to the other one, weighted as "
    "for HD95, in distance_unit; null like HD95",
    "HD": "maximum symmetric surface distance (Hausdorff distance), in distance_unit; null like HD95",
    "lesion_f1": "2 TP / (2 TP + FP + FN) with TP lesions_found, FP lesions_false and FN lesions_missed; null if the "
    "class is in neither prediction nor reference",
    "lesions_found": "lesions of the reference of which at least one voxel is predicted; a lesion is a connected "
    "component (neighbours through faces, edges and corners)",
    "lesions_false": "connected components of the prediction that share no voxel with the class in the reference",
    "lesions_missed": "lesions of the reference of which no voxel is predicted",
    "mean": "over the cases in which the metric is not null; 'count' says how many these are",
    "std": "sample standard deviation over the same cases; null for fewer than two",
    "foreground_mean": "mean over the classes of their means, without classes whose mean is null",
}


class MetricValues(CasePart):
    """One value per metric; None where it is undefined. The names are those in the file.

    From PA on, metrics are missing in files of earlier versions.
    """

    Dice: float | None
    IoU: float | None
    TP: int | float | None
    FP: int | float | None
    FN: int | float | None
    TN: int | float | None
    n_pred: int | float | None
    n_ref: int | float | None
    HD95: float | None
    NSD: float | None
    volume_difference_ml: float | None
    relative_volume_difference: float | None
    PA: float | None = None
    VOE: float | None = None
    ASD: float | None = None
    HD: float | None = None
    lesion_f1: float | None = None
    lesions_found: int | float | None = None
    lesions_false: int | float | None = None
    lesions_missed: int | float | None = None


METRICS: Final = tuple(MetricValues.model_fields)
Columns = dict[str, "array[float]"]
"""The defined values of each metric."""
VALUES_AT_ONCE: Final = 2**19  # 4 MiB of metrics, from which statistics are computed
COLUMN_NAMES: Final[Mapping[DistanceUnit, Mapping[str, str]]] = {
    "mm": {"HD95": "HD95 (mm)", "NSD": "NSD (1 mm)", "volume_difference_ml": "volume difference (ml)"},
    "pixel": {
        "HD95": "HD95 (pixels)",
        "NSD": "NSD (1 pixel)",
        "volume_difference_ml": "volume difference (1000 voxels)",
    },
}
SHOWN_METRICS: Final = ("Dice", "IoU", "HD95", "NSD")


class CaseSummary(CasePart):
    """Metrics of one case, by class key."""

    case: str
    prediction_file: str
    reference_file: str
    metrics: dict[str, MetricValues]


class EvaluationSummary(Document):
    """All metrics of all cases, and their means.

    Attributes:
        definitions: Definition of each metric.
        class_names: Names of the classes by class key: the value in the user's label files ("1"), or all values of a
            region ("(1, 2, 3)").
        distance_unit: Unit of HD95, ASD, HD and the tolerance; missing in files of earlier versions.
        std: Sample standard deviation over cases.
        count: Number of cases in which each metric is defined.
        validation: Conditions of the validation; None if it was no validation, or one by an earlier version.
    """

    most_bytes: ClassVar[int] = MOST_RESULT_BYTES

    schema_version: Literal[1] = 1
    tolerance_mm: float
    distance_unit: DistanceUnit = "mm"
    definitions: dict[str, str]
    class_names: dict[str, str]
    foreground_mean: MetricValues
    mean: dict[str, MetricValues]
    std: dict[str, MetricValues]
    count: dict[str, MetricValues]
    metric_per_case: Annotated[Sequence[CaseSummary], Packed(CaseSummary)]
    validation: ValidationConditions | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Limitations of the scores."""
        return () if self.validation is None else self.validation.list_warnings()

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Shows the number of cases and classes, and the means over the foreground."""
        yield "cases", len(self.metric_per_case)
        yield "classes", len(self.class_names)
        for name in SHOWN_METRICS:
            value = getattr(self.foreground_mean, name)
            yield name, None if value is None else round(value, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseEvaluation:
    """The metrics of one case, in the order of `LabelScheme.class_labels`, and its files.

    Attributes:
        distance_unit: Unit of the distances in the metrics.
    """

    case: str
    prediction_file: str
    reference_file: str
    metrics: tuple[ClassMetrics, ...]
    distance_unit: DistanceUnit = "mm"


class CollectedScores:
    """Collects the metrics of all cases, of which little is kept in memory.

    Attributes:
        labels: Labels of the cases.
    """

    def __init__(self, labels: LabelScheme) -> None:
        self.labels = labels
        self._keys = list_class_keys(labels)
        self._cases = PackedResults(PartCodec(CaseSummary))
        self._units: set[DistanceUnit] = set()

    def add(self, index: int, case: CaseEvaluation) -> None:
        """Adds the metrics of the case with this index."""
        self._units.add(case.distance_unit)
        self._cases.add(index, _summarize_case(case, self._keys))

    def summarize(self, *, tolerance_mm: float, validation: ValidationConditions | None) -> EvaluationSummary:
        """Summarizes them.

        Args:
            tolerance_mm: The tolerance with which the cases were evaluated.
            validation: Conditions of the validation, if the cases were predicted by one.

        Raises:
            EvaluationError: There is no case.
        """
        if not self._units:
            msg = "there is no case to summarize; expected at least one prediction that has a reference"
            raise EvaluationError(msg)
        per_case = self._cases.sort()
        reduced = dict(_reduce_classes(per_case, self._keys))
        mean, std, count = ({key: values[place] for key, values in reduced.items()} for place in range(3))
        return EvaluationSummary(
            tolerance_mm=tolerance_mm,
            distance_unit=combine_distance_units(self._units),
            definitions=DEFINITIONS,
            class_names=dict(zip(self._keys, self.labels.class_names, strict=True)),
            foreground_mean=_reduce(_list_columns(mean.values()), _mean),
            mean=mean,
            std=std,
            count=count,
            metric_per_case=per_case,
            validation=validation,
        )


def combine_distance_units(units: Iterable[DistanceUnit]) -> DistanceUnit:
    """Returns pixels if all units are pixels, else millimetres, like `find_distance_unit`."""
    return "mm" if "mm" in set(units) else "pixel"


def format_metric_name(metric: str, unit: DistanceUnit) -> str:
    """Returns the name of a metric with its unit: millimetres, or pixels where the files have no spacing."""
    return COLUMN_NAMES[unit].get(metric, metric)


def list_class_keys(labels: LabelScheme) -> tuple[str, ...]:
    """Returns the class keys of nnU-Net: the file value of a label, the tuple of a region's values."""
    values = [tuple(labels.file_values[label] for label in members) for members in labels.class_labels]
    return tuple(str(members[0]) if len(members) == 1 else str(members) for members in values)


def write_summary(folder: Path, summary: EvaluationSummary) -> None:
    """Writes summary.json, and summary.csv with one row per case and class and the statistics below.

    Raises:
        RunError: The folder cannot be written.
    """
    write_document(folder / SUMMARY_JSON, summary)
    with write_atomically(folder / SUMMARY_CSV) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        _write_table(file, summary)


def _summarize_case(case: CaseEvaluation, keys: Sequence[str]) -> CaseSummary:
    return CaseSummary(
        case=case.case,
        prediction_file=case.prediction_file,
        reference_file=case.reference_file,
        metrics={key: _name_values(metrics) for key, metrics in zip(keys, case.metrics, strict=True)},
    )


def _name_values(metrics: ClassMetrics) -> MetricValues:
    return MetricValues(
        Dice=metrics.dice,
        IoU=metrics.iou,
        TP=metrics.true_positives,
        FP=metrics.false_positives,
        FN=metrics.false_negatives,
        TN=metrics.true_negatives,
        n_pred=metrics.predicted_voxels,
        n_ref=metrics.reference_voxels,
        HD95=metrics.hd95_mm,
        NSD=metrics.surface_dice,
        volume_difference_ml=metrics.volume_difference_ml,
        relative_volume_difference=metrics.relative_volume_difference,
        PA=metrics.pixel_accuracy,
        VOE=metrics.volume_overlap_error,
        ASD=metrics.average_distance_mm,
        HD=metrics.maximum_distance_mm,
        lesion_f1=metrics.lesions.f1,
        lesions_found=metrics.lesions.true_positives,
        lesions_false=metrics.lesions.false_positives,
        lesions_missed=metrics.lesions.false_negatives,
    )


def _reduce_classes(
    cases: Sequence[CaseSummary], keys: Sequence[str]
) -> Iterator[tuple[str, tuple[MetricValues, MetricValues, MetricValues]]]:
    """Yields mean, standard deviation and count of each class; the columns of a few classes are in memory at a time."""
    at_once = max(1, VALUES_AT_ONCE // (len(METRICS) * len(cases)))
    for first in range(0, len(keys), at_once):
        columns = {key: _list_columns(()) for key in keys[first : first + at_once]}
        for case in cases:
            for key, of_class in columns.items():
                _add_to_columns(of_class, case.metrics[key])
        for key, of_class in columns.items():
            yield key, (_reduce(of_class, _mean), _reduce(of_class, _sample_std), _reduce(of_class, len))


def _list_columns(values: Iterable[MetricValues]) -> Columns:
    """Lists the defined values of each metric."""
    columns = {name: array("d") for name in METRICS}
    for entry in values:
        _add_to_columns(columns, entry)
    return columns


def _add_to_columns(columns: Columns, entry: MetricValues) -> None:
    for name, column in columns.items():
        value = getattr(entry, name)
        if value is not None:
            column.append(value)


def _reduce(columns: Columns, statistic: Callable[[Sequence[float]], float | None]) -> MetricValues:
    return MetricValues(**{name: statistic(column) for name, column in columns.items()})


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _sample_std(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _write_table(file: TextIO, summary: EvaluationSummary) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["row", "case", "label", "class", *METRICS, "distance_unit"])
    for entry in summary.metric_per_case:
        writer.writerows(_list_rows("case", entry.case, entry.metrics, summary))
    statistics_by_name = {"mean": summary.mean, "std": summary.std, "count": summary.count}
    for name, values in statistics_by_name.items():
        writer.writerows(_list_rows(name, "", values, summary))
    means = summary.foreground_mean.model_dump().values()
    writer.writerow(["foreground_mean", "", "", "", *means, summary.distance_unit])


def _list_rows(
    row: str, case: str, metrics: Mapping[str, MetricValues], summary: EvaluationSummary
) -> Iterator[list[Any]]:
    for key, values in metrics.items():
        yield [row, case, key, summary.class_names[key], *values.model_dump().values(), summary.distance_unit]
