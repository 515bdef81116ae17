"""Runs the whole pipeline on a small synthetic dataset."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autoseg.document import read_document, write_document
from autoseg.errors import RunError
from autoseg.evaluation.summary import EvaluationSummary
from autoseg.fingerprint import Machine
from autoseg.inference.options import PredictionOptions
from autoseg.plan.decisions import Reason
from autoseg.plan.document import Plan
from autoseg.processes.progress import Progress
from autoseg.run_folder import FoldFolder, RunFolder
from autoseg.workflows.evaluate.evaluation import evaluate_folder
from autoseg.workflows.plan.planner import PlanRule
from autoseg.workflows.plan.planning import PlanRequest, plan_dataset
from autoseg.workflows.predict.prediction import PredictionRequest, predict_images
from autoseg.workflows.synthetic import write_synthetic_dataset
from autoseg.workflows.train.request import TrainingRequest
from autoseg.workflows.train.training import train_run

CONFIGURATION: Final = "3d_fullres"
FOLD: Final = "0"
TRAINING_CASES: Final = 10
TEST_CASES: Final = 3
# 60 iterations are enough for organs as plain as these (measured: a mean Dice of 0.956), and short enough for a laptop.
EPOCHS: Final = 3
ITERATIONS_PER_EPOCH: Final = 20
VALIDATION_ITERATIONS_PER_EPOCH: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOutcome:
    """Result of the demo: scores of the test images, and pairs of description and path."""

    summary: EvaluationSummary
    paths: tuple[tuple[str, Path], ...]


def run_demo(
    folder: Path, rule: PlanRule, *, report: Callable[[Plan], None], overwrite: bool, progress: Progress
) -> DemoOutcome:
    """Writes a dataset, plans, trains one fold on a shortened schedule, predicts unseen images and evaluates.

    Raises:
        RunError: The folder holds an earlier demo that may not be overwritten.
    """
    dataset, run, predictions = folder / "dataset", RunFolder(folder / "run.autoseg"), folder / "predictions"
    _clear(folder, (dataset, run.root, predictions), overwrite=overwrite)
    progress.note(f"making {TRAINING_CASES} training and {TEST_CASES} test cases in {dataset}")
    write_synthetic_dataset(dataset, training_cases=TRAINING_CASES, test_cases=TEST_CASES, seed=0)
    request = PlanRequest(
        planner="default", machine=Machine(accelerator_memory_gb=None), configurations=(CONFIGURATION,)
    )
    plan_dataset(dataset, run.root, rule, request=request, report=report, progress=progress)
    _shorten_schedule(run, progress)
    for _ in train_run(run.root, TrainingRequest(configuration=CONFIGURATION, folds=(FOLD,)), progress=progress):
        pass
    predict_images(
        run.root,
        dataset / "imagesTs",
        predictions,
        request=PredictionRequest(options=PredictionOptions()),
        progress=progress,
    )
    summary = evaluate_folder(predictions, dataset / "labelsTs", run_root=run.root, progress=progress)
    return DemoOutcome(summary=summary, paths=_list_paths(dataset, run, predictions))


def _clear(folder: Path, parts: tuple[Path, ...], *, overwrite: bool) -> None:
    """Removes the folders of an earlier demo, and nothing else."""
    existing = [part for part in parts if part.exists()]
    if existing and not overwrite:
        msg = f"{folder} holds an earlier demo; replace it with --overwrite or choose another folder"
        raise RunError(msg)
    for part in existing:
        shutil.rmtree(part)


def _shorten_schedule(run: RunFolder, progress: Progress) -> None:
    """Edits the plan as a user might do by hand."""
    plan = read_document(run.plan, Plan)
    configuration = plan.configurations[CONFIGURATION]
    training = configuration.training.model_copy(
        update={
            "epochs": EPOCHS,
            "iterations_per_epoch": ITERATIONS_PER_EPOCH,
            "validation_iterations_per_epoch": VALIDATION_ITERATIONS_PER_EPOCH,
            "sufficient_iterations": EPOCHS * ITERATIONS_PER_EPOCH,
        }
    )
    total = EPOCHS * ITERATIONS_PER_EPOCH
    reason = Reason(
        subject=f"{CONFIGURATION}: schedule of the demo",
        value=f"{EPOCHS} epochs of {ITERATIONS_PER_EPOCH} iterations",
        because=f"{total} iterations are enough for two synthetic organs; real data needs the planned schedule",
    )
    shortened = configuration.model_copy(update={"training": training})
    configurations = {**plan.configurations, CONFIGURATION: shortened}
    write_document(
        run.plan, plan.model_copy(update={"configurations": configurations, "reasons": (*plan.reasons, reason)})
    )
    progress.note(f"\nplan.json edited for the demo: {reason.value}, because {reason.because}\n")


def _list_paths(dataset: Path, run: RunFolder, predictions: Path) -> tuple[tuple[str, Path], ...]:
    fold: FoldFolder = run.fold(CONFIGURATION, FOLD)
    return (
        ("dataset", dataset),
        ("plan with reasons", run.plan),
        ("model", fold.final_checkpoint),
        ("training curves", fold.progress_picture),
        ("validation", fold.validation),
        ("predictions", predictions),
        ("scores", predictions / "summary.csv"),
    )
