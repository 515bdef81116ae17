"""What clicks are worth: python -m benchmarks.refine RUN [--cases N] [--clicks N].

Of the held-out cases of all trained folds of the configuration that corrects by clicks, those are taken whose label map
of the previous stage has the lowest Dice. A simulated user clicks the centre of the largest error, sees the corrected
label map, clicks its largest error, and so on; the network always gets the first label map with all clicks.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.dataset.folds import Splits
from autoseg.dataset.record import DatasetRecord, find_source
from autoseg.document import read_document
from autoseg.inference.folds import find_trained_folds
from autoseg.inference.model import SegmentationModel, load_model
from autoseg.plan.document import Plan
from autoseg.run_folder import RunFolder, open_run
from autoseg.training.augmentation.simulated_clicks import find_centre, number_errors
from autoseg.volume_io import Volume, read_image, read_label_map
from autoseg.workflows.cases.references import find_reference
from autoseg.workflows.refine.clicks import Click
from autoseg.workflows.refine.refining import find_refinement, refine_volume


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectedCase:
    """A held-out case.

    Attributes:
        before: Label map of the previous stage, values of the files.
        reference: Label map of the dataset.
        score: Mean Dice over the classes, of the label map before.
    """

    name: str
    fold: str
    before: np.ndarray
    reference: np.ndarray
    score: float


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--cases", type=int, default=10, help="cases with the lowest Dice")
    parser.add_argument("--clicks", type=int, default=3, help="clicks in each case")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    run = open_run(arguments.run)
    name = find_refinement(run, None)
    plan = read_document(run.plan, Plan)
    cases = sorted(list_cases(run, plan, name), key=lambda case: case.score)
    if not cases:
        sys.exit(f"no fold of {name} is trained in {run.root}; run: autoseg train {run.root} --configuration {name}")
    worst = cases[: arguments.cases]
    rows: dict[str, list[float]] = {}
    for fold, held_out in group_by_fold(worst).items():
        model = load_model(run, configuration=name, folds=(fold,), with_previous=False)
        for case in held_out:
            rows[case.name] = [case.score, *click_errors(run, model, case, arguments.clicks)]
    print(f"{name}: mean Dice of the {len(worst)} worst of {len(cases)} held-out cases\n")
    heads = ["label map", *(f"{count} clicks" for count in range(arguments.clicks + 1))]
    print("  ".join(f"{head:>10}" for head in ("case", *heads)))
    for case, scores in rows.items():
        print("  ".join((f"{case[-10:]:>10}", *(f"{score:10.3f}" for score in scores))))
    means = np.mean(list(rows.values()), axis=0)
    print("  ".join((f"{'mean':>10}", *(f"{score:10.3f}" for score in means))))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def list_cases(run: RunFolder, plan: Plan, name: str) -> list[CorrectedCase]:
    """Lists the held-out cases of the trained folds with the label maps of their previous stage."""
    previous = plan.configurations[name].previous_configuration
    assert previous is not None, "clicks correct a previous stage"
    splits = read_document(run.splits, Splits)
    cases = []
    for fold in find_trained_folds(run, name):
        for case in splits.folds[int(fold)].validation:
            (path,) = run.fold(previous, fold).root.glob(f"validation/{case}{plan.file_ending}")
            before, reference = read_label_map(path).array, read_label_map(find_reference(run, case)).array
            score = compute_mean_dice(before, reference, plan)
            cases.append(CorrectedCase(name=case, fold=fold, before=before, reference=reference, score=score))
    return cases


def group_by_fold(cases: Sequence[CorrectedCase]) -> dict[str, list[CorrectedCase]]:
    """Groups cases by the fold that holds them out."""
    return {fold: [case for case in cases if case.fold == fold] for fold in sorted({case.fold for case in cases})}


def click_errors(run: RunFolder, model: SegmentationModel, case: CorrectedCase, count: int) -> list[float]:
    """Returns the mean Dice after 0, 1, ... clicks."""
    corrected = correct_by_clicks(model, read_case(run, case.name), case, count)
    return [compute_mean_dice(label_map, case.reference, model.plan) for label_map in corrected]


def correct_by_clicks(
    model: SegmentationModel, volume: Volume, case: CorrectedCase, count: int
) -> Iterator[np.ndarray]:
    """Yields the label map after 0, 1, ... clicks."""
    shown = case.before
    clicks: list[Click] = []
    for given in range(count + 1):
        if given > 0:
            clicks += find_click(shown, case.reference, model.plan)
        corrected = refine_volume(model, volume, case.before, clicks=clicks)
        shown = corrected if given > 0 else shown  # the first click is placed on what the user has
        yield corrected


def find_click(shown: np.ndarray, reference: np.ndarray, plan: Plan) -> Sequence[Click]:
    """Finds the centre of the largest error; nothing where there is none."""
    labels = plan.labels
    wanted = labels.encode(reference)
    errors = number_errors(labels.encode(shown), wanted, label_count=len(labels.foreground_labels) + 1)
    sizes = np.bincount(errors.ravel())[1:]
    if sizes.size == 0:
        return ()
    z, y, x = find_centre(errors == 1 + int(np.argmax(sizes)))
    return (Click(voxel=(z, y, x), label=int(wanted[z, y, x])),)


def read_case(run: RunFolder, name: str) -> Volume:
    """Reads the image of a case."""
    record = read_document(run.dataset, DatasetRecord)
    (case,) = [case for case in record.cases if case.name == name]
    return read_image([find_source(record) / path for path in case.images])


def compute_mean_dice(predicted: np.ndarray, reference: np.ndarray, plan: Plan) -> float:
    """Computes the mean Dice over the classes of a case."""
    scores = []
    for entry in plan.labels.classes:
        first, second = np.isin(predicted, entry.values), np.isin(reference, entry.values)
        total = int(first.sum() + second.sum())
        scores.append(2 * int((first & second).sum()) / total if total else 1.0)
    return float(np.mean(scores))


if __name__ == "__main__":
    main()
