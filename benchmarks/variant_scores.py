"""Scores of held-out cases for the table of `benchmarks.variants`: of classes, after clicks, and of objects."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, get_args

from autoseg.document import read_document
from autoseg.evaluation.case_metrics import evaluate_case
from autoseg.inference.model import load_model
from autoseg.plan import Plan
from autoseg.run_folder import FoldFolder, RunFolder
from autoseg.workflows.evaluate.objects import SCORES_JSON, ObjectSource
from autoseg.workflows.select.selection_document import read_selection
from benchmarks.refine import correct_by_clicks, group_by_fold, list_cases, read_case

CLASS_SCORES: Final = {"Dice": "Dice", "NSD at 1 mm": "NSD"}
"""Heading of a column, and the name of the score in `summary.json`."""
OBJECT_SCORES: Final = ("AP50", "AP", "PQ")
OBJECT_SOURCES: Final[tuple[ObjectSource, ...]] = get_args(ObjectSource)
CLICKS: Final = (1, 3)

Scores = dict[str, dict[str, list[float | None]]]
"""Scores of the classes by heading, then by case."""


def read_class_scores(fold: FoldFolder) -> Scores:
    """Reads the scores of the held-out cases of a fold."""
    cases = json.loads(fold.summary.read_text(encoding="utf-8"))["metric_per_case"]
    return {
        heading: {case["case"]: [values[score] for values in case["metrics"].values()] for case in cases}
        for heading, score in CLASS_SCORES.items()
    }


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
                scores[count]["Dice"][case.name] = [of_class.dice for of_class in found]
                scores[count]["NSD at 1 mm"][case.name] = [of_class.surface_dice for of_class in found]
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
