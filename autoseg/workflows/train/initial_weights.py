"""Finds the weights with which the training of a fold begins, where they are those of another model."""

from pathlib import Path
from typing import Final

from autoseg.dataset.folds import Splits, select_fold
from autoseg.document import read_document
from autoseg.errors import TrainingError
from autoseg.plan.document import Plan
from autoseg.run_folder import ALL_CASES, FoldFolder, RunFolder
from autoseg.workflows.train.job import FoldJob

MOST_NAMED: Final = 3
LEVELS_BELOW_RUN: Final = 3  # models/<configuration>/fold_<k>/


def find_initial_weights(source: Path, job: FoldJob) -> Path:
    """Finds the checkpoint to begin with: a file itself, or in a run the model of the same configuration and fold.

    Raises:
        TrainingError: There is none, it is the model to train, or it knows cases that the fold holds out.
    """
    path = RunFolder(source).fold(job.configuration, job.fold).final_checkpoint if source.is_dir() else source
    if not path.is_file():
        msg = (
            f"--init: expected trained weights at {path}, found none; train {job.name} of {source} first, or give a "
            f"checkpoint_final.safetensors"
        )
        raise TrainingError(msg)
    if path.resolve().parent == job.folder.root.resolve():
        msg = (
            f"--init: {path} is the model of {job.name} itself; give another run or checkpoint, or train it for more "
            f"epochs with --extend"
        )
        raise TrainingError(msg)
    _check_held_out(path.resolve(), job)
    return path


def _check_held_out(path: Path, job: FoldJob) -> None:
    """Checks that weights of the same dataset were trained on no case that the fold holds out."""
    known = set(_list_training_cases(path, job.plan.dataset_name))
    shared = [] if job.fold == ALL_CASES else sorted(known & set(job.cases.validation))
    if shared:
        more = f" and {len(shared) - MOST_NAMED} more" if len(shared) > MOST_NAMED else ""
        msg = (
            f"--init: {path} was trained on {', '.join(shared[:MOST_NAMED])}{more}, which {job.name} holds out, so its "
            f"scores would be of cases that the weights know; begin with the weights of a fold that held them out, or "
            f"plan with the same folds (--splits)"
        )
        raise TrainingError(msg)


def _list_training_cases(path: Path, dataset_name: str) -> tuple[str, ...]:
    """Lists the cases that a model of a run was trained on, if it is of the dataset; empty where nothing tells."""
    folder = FoldFolder(path.parent)
    if len(path.parents) <= LEVELS_BELOW_RUN:
        return ()
    run = RunFolder(path.parents[LEVELS_BELOW_RUN])
    if not (folder.plan.is_file() and run.splits.is_file()):
        return ()
    if read_document(folder.plan, Plan).dataset_name != dataset_name:
        return ()
    return select_fold(read_document(run.splits, Splits), folder.root.name.removeprefix("fold_")).training
