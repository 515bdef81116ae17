"""Scores of held-out cases for `benchmarks.variants`, of classes, after clicks and of objects, and their table."""

import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from autoseg.document import read_document
from autoseg.evaluation.case_metrics import evaluate_case
from autoseg.evaluation.gain import compute_gain
from autoseg.inference.model import load_model
from autoseg.plan import Plan
from autoseg.run_folder import FoldFolder, RunFolder
from autoseg.workflows.evaluate.objects import SCORES_JSON, ObjectSource
from autoseg.workflows.select.selection_document import read_selection
from benchmarks.refine import correct_by_clicks, group_by_fold, list_cases, read_case

CLASS_SCORES: Final = {"Dice": ("Dice", "dice"), "NSD at 1 mm": ("NSD", "surface_dice")}
"""Heading of a column, and the name of the score in `summary.json` and of the attribute of `ClassMetrics`."""
OBJECT_SCORES: Final = ("AP50", "AP", "PQ")
OBJECT_SOURCES: Final[tuple[ObjectSource, ...]] = get_args(ObjectSource)
CLICKS: Final = (1, 3)
HEADING: Final = ("run", "configuration", "iterations", "s per step", "CPU min in all", "CPU s per image")

Scores = dict[str, dict[str, list[float | None]]]
"""Scores of the classes by heading, then by case."""
Row = dict[str, Any]


def read_class_scores(fold: FoldFolder) -> Scores:
    """Reads the scores of the held-out cases of a fold."""
    cases = json.loads(fold.summary.read_text(encoding="utf-8"))["metric_per_case"]
    return {
        heading: {case["case"]: [values[score] for values in case["metrics"].values()] for case in cases}
        for heading, (score, _) in CLASS_SCORES.items()
    }


def join_scores(parts: Sequence[Scores]) -> Scores:
    """Joins the scores of different cases."""
    return {heading: {case: values for part in parts for case, values in part[heading].items()} for heading in parts[0]}


def score_clicks(run: RunFolder, configuration: str) -> Iterator[tuple[int, Scores, float]]:
    """Yields numbers of clicks, the scores of the held-out cases after them, and the CPU seconds of a correction."""
    plan = read_document(run.plan, Plan)
    scores: dict[int, Scores] = {count: {heading: {} for heading in CLASS_SCORES} for count in CLICKS}
    seconds = []
    for fold, cases in group_by_fold(list_cases(run, plan, configuration)).items():
        model = load_model(run, configuration=configuration, folds=(fold,), with_previous=False)
        for case in cases:
            volume, begin = read_case(run, case.name), time.process_time()
            corrected = list(correct_by_clicks(model, volume, case, max(CLICKS)))
            seconds.append((time.process_time() - begin) / len(corrected))
            reference = plan.labels.encode(case.reference)
            for count in CLICKS:
                label_map = plan.labels.encode(corrected[count])
                found = evaluate_case(label_map, reference, spacing_mm=volume.grid.spacing_mm, labels=plan.labels)
                for heading, (_, score) in CLASS_SCORES.items():
                    scores[count][heading][case.name] = [getattr(of_class, score) for of_class in found]
    for count, of_count in scores.items():
        yield count, of_count, sum(seconds) / len(seconds)


def read_object_scores(folder: Path, source: ObjectSource) -> Scores:
    """Reads the scores of the objects of evaluated label maps."""
    cases = json.loads((folder / SCORES_JSON).read_text(encoding="utf-8"))["cases"]
    return {
        score: {case: [of_class[score] for of_class in found[source].values()] for case, found in cases.items()}
        for score in OBJECT_SCORES
    }


def read_learned_gain(run: RunFolder) -> str:
    """Reads what learned rules gain in AP on cases that were left out while they were learned."""
    selection = read_selection(run)
    gain = None if selection is None or selection.objects is None else selection.objects.gain
    return "" if gain is None else f"AP {gain.describe()}"


def format_table(rows: list[Row]) -> Iterator[str]:
    """Yields the lines of the table; gains are those over the first row, case by case."""
    plain = rows[0]
    further = ["learned rule"] if any("learned rule" in row for row in rows) else []
    heading = [*HEADING, *(cell for score in plain["scores"] for cell in (score, "gain")), *further]
    yield f"| {' | '.join(heading)} |"
    yield f"|{'---|' * len(heading)}"
    for row in rows:
        cells = [*format_row(row, plain), *(str(row.get(name, "")) for name in further)]
        yield f"| {' | '.join(cells)} |"


def format_row(row: Row, plain: Row) -> Iterator[str]:
    """Yields the cells of a row."""
    yield from (row["run"], row["configuration"], str(row["iterations"]), f"{row['pace']:.3f}")
    image_seconds = "" if math.isnan(row["image_seconds"]) else f"{row['image_seconds']:.2f}"
    yield from (f"{row['cpu_minutes']:.1f}", image_seconds)
    for score, values in row["scores"].items():
        cases = sorted(values)
        after = np.array([values[case] for case in cases], dtype=float)
        yield f"{np.nanmean(after):.4f}" if np.isfinite(after).any() else ""
        if row == plain:
            yield ""
            continue
        before = np.array([plain["scores"][score][case] for case in cases], dtype=float)
        is_defined = ~np.isnan(before).all(axis=0) & ~np.isnan(after).all(axis=0)
        yield compute_gain(before[:, is_defined], after[:, is_defined]).describe() if is_defined.any() else ""
