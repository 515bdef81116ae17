"""Cross-validation scores of each configuration over the held-out cases of all folds."""

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Float64

from autoseg.document import Document, Part, write_document
from autoseg.errors import EvaluationError, merge_by_fold
from autoseg.evaluation.summary import EvaluationSummary
from autoseg.geometry import DistanceUnit
from autoseg.run_folder import write_text

Score = Literal["Dice", "IoU", "HD95", "NSD"]
SCORES: Final[tuple[Score, ...]] = ("Dice", "IoU", "HD95", "NSD")
RESAMPLES: Final = 10_000
RESAMPLES_AT_ONCE: Final = 500
WEIGHTS_AT_ONCE: Final = 2**21  # bounds memory at 16 MiB: with more than 4,194 cases, fewer resamples at once
DRAWN_AT_ONCE: Final = 20  # rows of integers, before they become weights
SEED: Final = 12345
INTERVAL_PERCENTILES: Final = (2.5, 97.5)
FEWEST_CASES: Final = 5  # guess: the bootstrap of two cases is the range between them, that of one a single point

DEFINITIONS: Final = {
    "mean": "over the cases in which the score is defined; of 'foreground': mean of the means of the classes",
    "std": "sample standard deviation over the same cases; of 'foreground': of the means of each case over its classes",
    "lower, upper": "95 % interval of the mean by the percentile bootstrap: cases are drawn with replacement, all "
    f"scores of a case together; not defined for fewer than {FEWEST_CASES} cases",
    "count": "cases in which the score is defined; a case that several folds hold out counts once, with its mean",
}

Table = Float64[np.ndarray, "case class"]


class Statistic(Part):
    """Statistics of one score over cases; None where they are not defined."""

    mean: float | None
    std: float | None
    lower: float | None
    upper: float | None
    count: int


class ConfigurationScores(Part):
    """Scores of one configuration.

    Attributes:
        folds: The folds whose held-out cases were scored.
        cases: Number of different cases.
        classes: Statistics by class key, then by name of the score.
        warnings: Limitations of the scores: folds that were trained briefly or validated in part.
    """

    folds: tuple[str, ...]
    cases: int
    foreground: dict[Score, Statistic]
    classes: dict[str, dict[Score, Statistic]]
    warnings: tuple[str, ...] = ()


class CrossValidation(Document):
    """Scores of all configurations that are trained and validated in every fold.

    Attributes:
        definitions: Definition of each statistic.
        class_names: Names of the classes by class key.
        seed: Seed of the bootstrap.
        distance_unit: Unit of HD95 and of the tolerance of NSD.
    """

    schema_version: Literal[1] = 1
    definitions: dict[str, str] = DEFINITIONS
    seed: int = SEED
    resamples: int = RESAMPLES
    distance_unit: DistanceUnit = "mm"
    class_names: dict[str, str]
    configurations: dict[str, ConfigurationScores]


def score_configuration(summaries: Mapping[str, EvaluationSummary]) -> ConfigurationScores:
    """Pools the held-out cases of all folds.

    Args:
        summaries: The summary of each fold.

    Raises:
        EvaluationError: There is none, or they have different classes.
    """
    keys = _find_class_keys(summaries)
    held_out = [entry.case for summary in summaries.values() for entry in summary.metric_per_case]
    places = {case: place for place, case in enumerate(sorted(set(held_out)))}  # as `select` sorts them
    tables = _tabulate(summaries.values(), places, keys)
    by_score = dict(zip(SCORES, compute_all_statistics(tables), strict=True))
    return ConfigurationScores(
        folds=tuple(summaries),
        cases=len(places),
        foreground={score: foreground for score, (_, foreground) in by_score.items()},
        classes={key: {score: by_score[score][0][index] for score in SCORES} for index, key in enumerate(keys)},
        warnings=tuple(merge_by_fold((fold, text) for fold, found in summaries.items() for text in found.warnings)),
    )


def write_crossvalidation(json_path: Path, csv_path: Path, result: CrossValidation) -> None:
    """Writes the scores as JSON and CSV.

    Raises:
        RunError: The folder cannot be written.
    """
    write_document(json_path, result)
    write_text(csv_path, _format_table(result))


def compute_statistics(table: Table) -> tuple[tuple[Statistic, ...], Statistic]:
    """Computes the statistics of each class, and of the foreground.

    Args:
        table: Scores; NaN where they are not defined.
    """
    (statistics,) = compute_all_statistics([table])
    return statistics


def compute_all_statistics(tables: Sequence[Table]) -> list[tuple[tuple[Statistic, ...], Statistic]]:
    """Computes the statistics of several tables of the same cases, for which the cases are drawn once."""
    drawn = draw_class_means(tables, np.random.default_rng(SEED))
    return [_compute_statistics(table, means) for table, means in zip(tables, drawn, strict=True)]


def _compute_statistics(
    table: Table, drawn: Float64[np.ndarray, "resample class"]
) -> tuple[tuple[Statistic, ...], Statistic]:
    classes = tuple(
        _describe(table[:, index], drawn[:, index], mean=_mean(table[:, index])) for index in range(table.shape[1])
    )
    of_cases = np.array([_mean(row) for row in table])
    foreground = _mean(np.array([_mean(column) for column in table.T]))
    return classes, _describe(of_cases, average_classes(drawn), mean=foreground)


def draw_class_means(
    tables: Sequence[Table], generator: np.random.Generator
) -> list[Float64[np.ndarray, "resample class"]]:
    """Draws bootstrap samples of the cases (Efron 1979), and computes the mean of every class in each sample.

    Drawing takes most of the time, so several tables of the same cases are computed together.
    """
    count = len(tables[0])
    defined = [(~np.isnan(table)).astype(float) for table in tables]  # of the weights' type, or these are copied
    filled = [np.where(np.isnan(table), 0.0, table) for table in tables]
    means = [np.empty((RESAMPLES, table.shape[1])) for table in tables]
    at_once = max(1, min(RESAMPLES_AT_ONCE, WEIGHTS_AT_ONCE // count))
    buffer = np.empty((at_once, count))
    for first in range(0, RESAMPLES, at_once):
        rows = min(at_once, RESAMPLES - first)
        weights = buffer[:rows]
        for part in np.array_split(weights, range(DRAWN_AT_ONCE, rows, DRAWN_AT_ONCE)):
            part[:] = generator.multinomial(count, np.full(count, 1 / count), size=len(part))
        for of_table, values, known in zip(means, filled, defined, strict=True):
            of_table[first : first + rows] = _divide(weights @ values, weights @ known)
    return means


def average_classes(means: Float64[np.ndarray, "resample class"]) -> Float64[np.ndarray, " resample"]:
    """Averages over the classes whose mean is defined."""
    present = ~np.isnan(means)
    return _divide(np.where(present, means, 0.0).sum(1), present.sum(1))


def _divide(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Divides elementwise; NaN where the count is 0."""
    quotient = np.full(np.shape(total), np.nan)
    np.divide(total, count, out=quotient, where=count > 0)
    return quotient


def _mean(values: Float64[np.ndarray, " _"]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _describe(values: Float64[np.ndarray, " _"], means: Float64[np.ndarray, " _"], *, mean: float) -> Statistic:
    known, drawn = values[~np.isnan(values)], means[~np.isnan(means)]
    if not len(known):
        return Statistic(mean=None, std=None, lower=None, upper=None, count=0)
    std = float(known.std(ddof=1)) if len(known) > 1 else None
    if len(known) < FEWEST_CASES:
        return Statistic(mean=mean, std=std, lower=None, upper=None, count=len(known))
    lower, upper = np.percentile(drawn, INTERVAL_PERCENTILES)
    return Statistic(mean=mean, std=std, lower=float(lower), upper=float(upper), count=len(known))


def _find_class_keys(summaries: Mapping[str, EvaluationSummary]) -> tuple[str, ...]:
    kinds = {tuple(summary.class_names.items()) for summary in summaries.values()}
    if len(kinds) != 1:
        found = "none" if not kinds else f"{len(kinds)} different sets"
        msg = f"a cross-validation needs summaries of folds with the same classes, found {found}; validate them anew"
        raise EvaluationError(msg)
    return tuple(key for key, _ in kinds.pop())


def _tabulate(summaries: Collection[EvaluationSummary], places: Mapping[str, int], keys: Sequence[str]) -> list[Table]:
    """Builds a table for each score, with one row per case: its score for every class, averaged over the folds that
    hold it out."""
    totals = np.zeros((len(SCORES), len(places), len(keys)))
    counts = np.zeros(totals.shape, np.int32)
    for summary in summaries:
        for entry in summary.metric_per_case:
            row = places[entry.case]
            for column, key in enumerate(keys):
                for index, score in enumerate(SCORES):
                    value = getattr(entry.metrics[key], score)
                    if value is not None and not math.isnan(value):
                        totals[index, row, column] += value
                        counts[index, row, column] += 1
    return list(_divide(totals, counts))


def _format_table(result: CrossValidation) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ["configuration", "label", "class", "score", *Statistic.model_fields, "distance_unit", "warnings"]
    writer.writerow(columns)
    for name, scores in result.configurations.items():
        rows = {("", "foreground"): scores.foreground}
        rows = {(key, result.class_names[key]): values for key, values in scores.classes.items()} | rows
        for (key, class_name), values in rows.items():
            for score, statistic in values.items():
                numbers = (*statistic.model_dump().values(), result.distance_unit)
                writer.writerow([name, key, class_name, score, *numbers, "; ".join(scores.warnings)])
    return text.getvalue()
