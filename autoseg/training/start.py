"""The start of a training: its beginning, a checkpoint of an interrupted one, or the end of a finished one."""

import math
from dataclasses import replace
from pathlib import Path

from autoseg.document import read_document
from autoseg.errors import TrainingError
from autoseg.plan.document import Plan
from autoseg.run_folder import FoldFolder
from autoseg.training.checkpoint import CheckpointDescription, digest_plan, read_description
from autoseg.training.loop_state import Start, TrainingIdentity
from autoseg.training.optimization.schedule import Schedule
from autoseg.training.options import Length


def find_start(output: FoldFolder, identity: TrainingIdentity, length: Length) -> Start | None:
    """Finds where the training starts; None if it is finished and is not to be extended.

    Raises:
        TrainingError: What is there belongs to another training, or is shorter or longer than asked for.
    """
    final, latest = output.final_checkpoint, output.latest_checkpoint
    begun = _read_own_description(output, latest, identity)
    is_extended = begun is not None or length.more_epochs is not None
    finished = _read_own_description(
        output, final, identity, wanted_epochs=math.inf if is_extended else length.epochs or 0
    )
    if begun is not None and (finished is None or begun.reached > finished.reached):
        _check_same_length(latest, begun.schedule, length)
        return _continue_from(latest, begun, begun.schedule)
    if finished is None:
        return Start()
    latest.unlink(missing_ok=True)
    more = _count_more_epochs(final, len(finished.history), length)
    if more == 0:
        return None
    schedule = finished.schedule.extend(more, from_epoch=len(finished.history))
    return replace(_continue_from(final, finished, schedule), is_extension=True)


def _continue_from(path: Path, description: CheckpointDescription, schedule: Schedule) -> Start:
    epochs_done, iterations_done = description.reached
    return Start(checkpoint=path, schedule=schedule, epochs_done=epochs_done, iterations_done=iterations_done)


def _read_own_description(
    output: FoldFolder, path: Path, identity: TrainingIdentity, *, wanted_epochs: int | float = 0
) -> CheckpointDescription | None:
    """Reads the description; other predictions of the first stage are accepted where more epochs are wanted than are
    finished, since only the weights are restored then."""
    if not path.exists():
        return None
    description = read_description(path)
    stored, expected = description.identity, identity
    # None, or another one, by an earlier version: of the plan in another form, or without the fields of today.
    if stored.plan_digest != identity.plan_digest and output.plan.is_file() and _has_followed(output.plan, identity):
        stored = stored.model_copy(update={"plan_digest": identity.plan_digest})
    if wanted_epochs > len(description.history):
        expected = identity.model_copy(update={"previous_digest": stored.previous_digest})
    check_identity(path, stored, expected)
    return description


def check_identity(path: Path, stored: TrainingIdentity, identity: TrainingIdentity) -> None:
    """Checks that a checkpoint belongs to the requested training.

    Raises:
        TrainingError: Names everything that differs.
    """
    problems = [] if stored.seed == identity.seed else [f"seed was {stored.seed}, now {identity.seed}"]
    changed = {
        "plan_digest": "the plan",
        "fold_digest": "the cases of the fold",
        "previous_digest": "the weights of the previous stage",
        "initial_digest": "the weights to begin with (--init)",
        "synthetic_digest": "the synthetic cases (--synthetic)",
        "teacher_digest": "the teacher (--teacher)",
    }
    problems += [
        f"{subject} changed" for field, subject in changed.items() if getattr(stored, field) != getattr(identity, field)
    ]
    if problems:
        msg = (
            f"the training in {path.parent} is another one than is asked for and cannot be continued: "
            f"{'; '.join(problems)}; give what it was begun with (its plan is {path.with_name('plan.json')}), or begin "
            f"again with --restart"
        )
        raise TrainingError(msg)


def _has_followed(path: Path, identity: TrainingIdentity) -> bool:
    """Returns whether a fold's copy of the plan equals the present plan in all that affects the training."""
    plan = read_document(path, Plan)
    parts = plan.configurations.values()
    digests = {digest_plan(part, part.choose_network_labels(plan.labels), plan.channels) for part in parts}
    return identity.plan_digest in digests


def _check_same_length(path: Path, schedule: Schedule, length: Length) -> None:
    wanted = length.epochs
    if wanted is not None and schedule.end_epoch is not None and wanted != schedule.end_epoch:
        msg = (
            f"the training in {path.parent} was begun with {schedule.end_epoch} epochs and cannot be continued with "
            f"{wanted}; give the command without --epochs to finish it (then it can be extended), or begin again with "
            f"--restart"
        )
        raise TrainingError(msg)


def _count_more_epochs(path: Path, done: int, length: Length) -> int:
    if length.more_epochs is not None:
        return length.more_epochs
    if length.epochs is not None and length.epochs < done:
        msg = (
            f"the training in {path.parent} is finished after {done} epochs, more than the {length.epochs} asked for; "
            f"leave --epochs away to use it, or begin again with --restart"
        )
        raise TrainingError(msg)
    return 0 if length.epochs is None else length.epochs - done
