"""Finds the models of other trainings that a fold needs: weights with which it begins, and a teacher."""

import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from autoseg.dataset.folds import Splits, select_fold
from autoseg.document import read_document
from autoseg.errors import RemoteError, TrainingError, shorten_names
from autoseg.fingerprint import Fingerprint
from autoseg.networks.weights import hash_weights
from autoseg.plan.document import Plan
from autoseg.remote.address import hide_secrets, is_url
from autoseg.run_folder import ALL_CASES, FoldFolder, RunFolder
from autoseg.runtime.provenance import TrainingRecord
from autoseg.stages.out_of_fold import StageLink
from autoseg.training.checkpoint import CheckpointDescription
from autoseg.training.teacher import Teacher
from autoseg.workflows.plan.preprocessing import extract_recipe
from autoseg.workflows.train.job import FoldJob

LEVELS_BELOW_RUN: Final = 3  # models/<configuration>/fold_<k>/

logger = logging.getLogger(__name__)


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
    check_held_out(path.resolve(), job, flag="--init")
    return path


def find_stage_weights(link: StageLink, fold: str) -> Path:
    """Finds the weights of the previous stage for a fold: of the same one, which holds out the same cases.

    The fold "all" holds nothing out, so any fold will do; of the previous stage it is often not trained.

    Raises:
        TrainingError: That fold is not trained, and others know cases that this one holds out.
    """
    same = link.run.fold(link.previous, fold).final_checkpoint
    if same.is_file():
        return same
    if fold != ALL_CASES:
        msg = (
            f"{link.configuration}, fold {fold} begins with the weights of {link.previous}, fold {fold}, which is not "
            f"trained; train it first, or set first_weights to random in plan.json"
        )
        raise TrainingError(msg)
    return next(iter(link.folds.values())).final_checkpoint


def find_teacher(source: Path, job: FoldJob) -> Teacher:
    """Finds the teacher in a run.

    Raises:
        TrainingError: There is none, it is the model to train, it sees other images, its answers cannot be compared, or
            it knows cases that the fold holds out.
        RunError: Its weights cannot be read.
    """
    run = RunFolder(source)
    folder = run.fold(job.configuration, job.fold)
    missing = [path for path in (folder.final_checkpoint, folder.plan, run.splits) if not path.is_file()]
    if missing:
        msg = (
            f"--teacher: expected a run in which {job.name} is trained, but {missing[0]} is missing; train it there "
            f"first, or name another run"
        )
        raise TrainingError(msg)
    if folder.root.resolve() == job.folder.root.resolve():
        msg = (
            f"--teacher: {folder.final_checkpoint} is the model of {job.name} itself, which the training replaces; "
            f"plan another run (autoseg plan DATASET --run NAME), and train that one with this run as teacher"
        )
        raise TrainingError(msg)
    same_images = _list_cases_of_same_images(run, job)
    check_held_out(folder.final_checkpoint.resolve(), job, flag="--teacher", further=same_images)
    return _build_teacher(folder, job)


def find_recorded_teacher(job: FoldJob, checkpoint: CheckpointDescription | None) -> Teacher | None:
    """Finds the teacher of a training that is continued; None if it has none, or if it is no longer where it was.

    A finished training needs it no more, so that whatever has become of it is no error here.

    Raises:
        TrainingError: Its answers can no longer be compared.
        RunError: Its weights cannot be read.
    """
    if checkpoint is None or checkpoint.identity.teacher_digest is None or not job.folder.training_record.is_file():
        return None
    recorded = read_document(job.folder.training_record, TrainingRecord).teacher
    path = None if recorded is None else _find_local_model(recorded)
    if path is None or not path.is_file() or hash_weights(path) != checkpoint.identity.teacher_digest:
        return None
    return _build_teacher(FoldFolder(path.parent), job)


def _find_local_model(location: str) -> Path | None:
    """Finds the model of a run, which may lie at a URL; None, with a warning, where that cannot be read."""
    if not is_url(location):
        return Path(location)
    from autoseg.remote.syncing import refresh_mirror

    url, *names = location.rsplit("/", LEVELS_BELOW_RUN + 1)
    try:
        return refresh_mirror(url).joinpath(*names)
    except RemoteError as error:
        logger.warning("the teacher at %s is not found: %s", hide_secrets(location), error)
        return None


def _build_teacher(folder: FoldFolder, job: FoldJob) -> Teacher:
    plan, path = read_document(folder.plan, Plan), folder.final_checkpoint
    if extract_recipe(plan, job.configuration) != extract_recipe(job.plan, job.configuration):
        msg = (
            f"--teacher: {path} was trained by a plan with other channels, labels, normalization, orientation or "
            f"spacing ({folder.plan}), so it sees other images; give a run of the same dataset with the same spacing"
        )
        raise TrainingError(msg)
    network = plan.configurations[job.configuration].network
    teacher = Teacher(checkpoint=path, digest=hash_weights(path), plan=network)
    problem = teacher.find_problem(job.configuration_plan)
    if problem is not None:
        msg = f"--teacher: {job.name} cannot learn from {path}: {problem}; train without it, or plan one that fits"
        raise TrainingError(msg)
    return teacher


def list_differences(path: Path, plan: Plan) -> Iterator[str]:
    """Compares the channels and classes of the model that weights are of with those of a plan.

    Args:
        path: The checkpoint.
        plan: Plan of the run that begins with it.

    Yields:
        A sentence for each difference; one if nothing beside the checkpoint tells what it was trained on.

    Raises:
        TrainingError: They are the same in another order, which the shapes of the weights do not show.
    """
    stored = FoldFolder(path.resolve().parent).plan
    if not stored.is_file():
        yield (
            f"--init: {path} has no {stored.name} beside it, which would tell its channels and classes; they must be "
            f"those of this plan, in its order"
        )
        return
    source = read_document(stored, Plan)
    yield from _compare_names(path, "channels", [one.name for one in source.channels], [c.name for c in plan.channels])
    yield from _compare_names(path, "classes", _name_outputs(source), _name_outputs(plan))


def _name_outputs(plan: Plan) -> list[str]:
    """Names the outputs of the network of a plan, so that labels (softmax) differ from regions (sigmoid)."""
    names = plan.labels.class_names
    return [f"{name} (region)" for name in names] if plan.labels.has_regions else list(names)


def _compare_names(path: Path, what: str, found: list[str], expected: list[str]) -> Iterator[str]:
    if found == expected:
        return
    trained = f"--init: {path} was trained with the {what} {shorten_names(found)}"
    if sorted(found) == sorted(expected):
        msg = (
            f"{trained}, expected the order {shorten_names(expected)} of this plan: each would begin with the weights "
            f"of another one; plan with the order of the weights in dataset.json, or give other weights"
        )
        raise TrainingError(msg)
    yield f"{trained}, this plan has {shorten_names(expected)}: each begins with the weights of the one in its place"


def _list_cases_of_same_images(run: RunFolder, job: FoldJob) -> set[str]:
    """Lists the cases whose images the same fold of another run is trained on, also of a dataset with another name."""
    if not (run.fingerprint.is_file() and job.run.fingerprint.is_file()):
        return set()
    training = set(select_fold(read_document(run.splits, Splits), job.fold).training)
    other, own = (read_document(one.fingerprint, Fingerprint).cases for one in (run, job.run))
    digests = {case.image_digest for case in other if case.name in training} - {""}
    return {case.name for case in own if case.image_digest in digests}


def check_held_out(path: Path, job: FoldJob, *, flag: str, further: Collection[str] = ()) -> None:
    """Checks that weights of the same dataset were trained on no case that the fold holds out.

    Args:
        path: Checkpoint in a run.
        job: The training that uses them.
        flag: Option that named them.
        further: Cases that they know beside those of a dataset of the same name.

    Raises:
        TrainingError: They were.
    """
    known = {*_list_training_cases(path, job.plan.dataset_name), *further}
    shared = [] if job.fold == ALL_CASES else sorted(known & set(job.cases.validation))
    if shared:
        msg = (
            f"{flag}: {path} was trained on {shorten_names(shared)}, which {job.name} holds out, so its "
            f"scores would be of cases that the weights know; give the weights of a fold that held them out, or "
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
