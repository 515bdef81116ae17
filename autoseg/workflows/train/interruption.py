"""Keeps a training until another one begins, and describes, from its files, how to continue an interrupted one."""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from autoseg.errors import RunError, Stopped, TrainingError
from autoseg.files.temporary_files import name_temporary
from autoseg.remote.mirror import name_aside
from autoseg.run_folder import FoldFolder, remove_folder
from autoseg.training.checkpoint import CheckpointDescription, read_description
from autoseg.training.monitoring.history import read_last_record
from autoseg.workflows.folds.state import find_restart_mark, read_state
from autoseg.workflows.folds.status import has_final_model
from autoseg.workflows.train.request import TrainingRequest

logger = logging.getLogger(__name__)


@contextmanager
def describe_interruptions(folder: FoldFolder, request: TrainingRequest, *, name: str) -> Iterator[None]:
    """Context manager around the training of a fold that explains interruptions.

    Raises:
        Stopped: Instead of a plain KeyboardInterrupt; says what is kept and how to continue.
    """
    try:
        yield
    except KeyboardInterrupt as interruption:
        told = str(interruption) or f"{describe_kept(folder)}; {describe_continuation(folder, request)}"
        msg = f"{name}: {told}"
        raise Stopped(msg) from interruption


def describe_kept(folder: FoldFolder) -> str:
    """Describes how far a training is that no process continues now."""
    state = read_state(folder)
    if folder.latest_checkpoint.exists():
        return _describe_latest(folder.latest_checkpoint)
    if not folder.final_checkpoint.exists():
        return "nothing is saved, as no iteration was finished"
    if state is not None and state.phase == "validating":
        return f"the model is trained and saved, its validation was at case {state.cases_done} of {state.cases}"
    return "the trained model is kept"


def is_earlier_one(folder: FoldFolder) -> bool:
    """Whether a training that was interrupted in a restart is, for all that its files tell, the earlier one."""
    state = read_state(folder)
    return has_final_model(folder) and (state is None or state.phase != "validating")


def describe_continuation(folder: FoldFolder, request: TrainingRequest) -> str:
    """Names the command that continues: the same one, without options that would discard or extend again."""
    state = read_state(folder)
    is_validated = state is not None and state.phase == "validating"
    if request.restart and (folder.latest_checkpoint.exists() or folder.final_checkpoint.exists()):
        return "the same command without --restart continues (with it, it begins anew)"
    if request.length.more_epochs is not None and is_validated and not folder.latest_checkpoint.exists():
        return "the same command without --extend continues (with it, it trains still more epochs)"
    return "the same command continues"


def describe_queue_continuation(request: TrainingRequest, waiting: Sequence[str]) -> str:
    """Names the command that continues many trainings.

    Args:
        request: Options of all trainings.
        waiting: Names of the trainings that were not started.
    """
    flag = "--restart" if request.restart else "--extend" if request.length.more_epochs is not None else None
    if flag is None:
        return "the same command continues"
    advice = f"the same command without {flag} continues"
    if waiting:
        advice += f"; {flag} has not reached {'; '.join(waiting)}: name them with --configuration and --fold for that"
    return advice


def describe_reached(description: CheckpointDescription) -> str:
    """Describes the epoch and iteration of a checkpoint."""
    schedule = description.schedule
    epochs_done, iterations_done = description.reached
    end = "" if schedule.end_epoch is None else f" of {schedule.end_epoch}"
    if iterations_done == 0:
        return f"after epoch {epochs_done}{end}"
    return f"in epoch {epochs_done + 1}{end}, after iteration {iterations_done} of {schedule.iterations_per_epoch}"


def describe_start(folder: FoldFolder, checkpoint: CheckpointDescription | None) -> str | None:
    """Describes where a training continues; None for a training that is new or finished.

    Args:
        folder: Folder of the training.
        checkpoint: Its newest checkpoint.
    """
    if checkpoint is not None:
        final = folder.final_checkpoint
        is_finished = final.exists() and read_description(final).reached == checkpoint.reached
        return None if is_finished else f"continues, {describe_reached(checkpoint)}"
    record = read_last_record(folder.training_log)
    if record is None:
        return None
    return f"begins again with epoch 1: it was ended in epoch {record.epoch + 2}, and no state had been saved"


def _describe_latest(path: Path) -> str:
    try:
        return f"saved {describe_reached(read_description(path))}"
    except TrainingError as error:
        return str(error)


@contextmanager
def set_aside(
    folder: FoldFolder, *, is_restart: bool, announce: Callable[[str], None] = logger.info
) -> Iterator[Callable[[], None]]:
    """Context manager that sets the earlier training of a fold aside, if it is to begin again, and yields what removes
    it.

    It comes back where the block fails or is interrupted before that is called, as where options are refused. After a
    kill, the next call gives it back. The caller holds the lock of the fold.

    Args:
        folder: Folder of the training.
        is_restart: Whether it is to begin again; it also is where it was marked for jobs.
        announce: Receives a line where it begins again because of such a mark.

    Raises:
        RunError: The folder cannot be moved or removed.
        Stopped: Instead of a plain KeyboardInterrupt, where the earlier training comes back.
    """
    _give_back(folder)
    begins_again = (is_restart or find_restart_mark(folder).exists()) and folder.root.exists()
    if begins_again and not is_restart:
        announce("begins again, as --restart asked of jobs that have not begun it")
    if begins_again:
        _move(folder.root, name_aside(folder.root))
    discard = partial(_discard, folder)
    try:
        yield discard
        discard()
    except KeyboardInterrupt as interruption:
        if not name_aside(folder.root).exists():
            raise
        msg = "the earlier state is kept, as the new one had not begun; the same command begins it"
        raise Stopped(msg) from interruption
    finally:
        _give_back(folder)


def _give_back(folder: FoldFolder) -> None:
    earlier = name_aside(folder.root)
    if earlier.exists():
        remove_folder(folder.root)
        _move(earlier, folder.root)


def _discard(folder: FoldFolder) -> None:
    """Removes an earlier training and the mark that asked for it; first its name, so that what a kill leaves, or cannot
    be removed, does not come back, and later commands remove it.
    """
    earlier = name_aside(folder.root)
    if earlier.exists():
        removed = name_temporary(folder.root)
        _move(earlier, removed)
        shutil.rmtree(removed, ignore_errors=True)
    find_restart_mark(folder).unlink(missing_ok=True)


def _move(path: Path, target: Path) -> None:
    try:
        path.rename(target)
    except OSError as error:
        msg = f"cannot move {path}: {error.strerror or error}; remove it yourself and repeat the command"
        raise RunError(msg) from error
