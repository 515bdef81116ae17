"""What is kept of a training that was asked to end, and how it goes on: in words, read off its files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from autoseg.errors import Stopped, TrainingError
from autoseg.run_folder import FoldFolder
from autoseg.training.checkpoint import CheckpointDescription, read_description
from autoseg.training.history import read_last_record
from autoseg.workflows.training_request import TrainingRequest
from autoseg.workflows.training_state import read_state


@contextmanager
def interruption_described(folder: FoldFolder, request: TrainingRequest, *, name: str) -> Iterator[None]:
    """Within it, a fold is trained and validated; an interruption says what is kept and what to do.

    Raises:
        Stopped: In place of a plain KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt as interruption:
        msg = f"{name}: {describe_kept(folder)}; {advise(folder, request)}"
        raise Stopped(msg) from interruption


def describe_kept(folder: FoldFolder) -> str:
    """How far a training is that nobody continues at this moment."""
    state = read_state(folder)
    if folder.latest_checkpoint.exists():
        return _describe_latest(folder.latest_checkpoint)
    if not folder.final_checkpoint.exists():
        return "nothing is saved, as no iteration was over"
    if state is not None and state.phase == "validating":
        return f"the model is trained and saved, its validation was at case {state.cases_done} of {state.cases}"
    return "the trained model is kept"


def advise(folder: FoldFolder, request: TrainingRequest) -> str:
    """Which command goes on: the same one, but for options that mean what they say every time."""
    state = read_state(folder)
    is_validated = state is not None and state.phase == "validating"
    if request.restart and (folder.latest_checkpoint.exists() or folder.final_checkpoint.exists()):
        return "the same command without --restart continues (with it, it begins anew)"
    if request.length.more_epochs is not None and is_validated and not folder.latest_checkpoint.exists():
        return "the same command without --extend continues (with it, it trains still more epochs)"
    return "the same command continues"


def advise_queue(request: TrainingRequest, waiting: Sequence[str]) -> str:
    """The same for many trainings.

    Args:
        request: Of all of them.
        waiting: Those that were not begun.
    """
    flag = "--restart" if request.restart else "--extend" if request.length.more_epochs is not None else None
    if flag is None:
        return "the same command continues"
    advice = f"the same command without {flag} continues"
    if waiting:
        advice += f"; {flag} has not reached {'; '.join(waiting)}: name them with --configuration and --fold for that"
    return advice


def describe_reached(description: CheckpointDescription) -> str:
    """Where the state of a training stands."""
    schedule = description.schedule
    epochs_done, iterations_done = description.reached
    end = "" if schedule.end_epoch is None else f" of {schedule.end_epoch}"
    if iterations_done == 0:
        return f"after epoch {epochs_done}{end}"
    return f"in epoch {epochs_done + 1}{end}, after iteration {iterations_done} of {schedule.iterations_per_epoch}"


def describe_start(folder: FoldFolder, begun: CheckpointDescription | None) -> str | None:
    """Where a training goes on; None for one that begins, or is finished.

    Args:
        folder: Of the training.
        begun: Its newest checkpoint.
    """
    if begun is not None:
        final = folder.final_checkpoint
        is_finished = final.exists() and read_description(final).reached == begun.reached
        return None if is_finished else f"continues, {describe_reached(begun)}"
    record = read_last_record(folder.training_log)
    if record is None:
        return None
    return f"begins again with epoch 1: it was ended in epoch {record.epoch + 2}, and no state had been saved"


def _describe_latest(path: Path) -> str:
    try:
        return f"saved {describe_reached(read_description(path))}"
    except TrainingError as error:
        return str(error)
