"""The state of a training, of which a checkpoint is made."""

from dataclasses import dataclass, field
from pathlib import Path

from autoseg.document import Part
from autoseg.training.learner import Learner
from autoseg.training.monitoring.history import EpochRecord, PartialEpoch
from autoseg.training.optimization.schedule import Schedule


class TrainingIdentity(Part):
    """Values that must not change between the parts of an interrupted training.

    Attributes:
        plan_digest: Digest of the configuration's plan, labels and channels; None in a checkpoint whose digest was of
            the plan as an earlier version wrote it, so that the plan in the folder of the fold tells.
        fold_digest: Digest of the names of the training and validation cases.
        previous_digest: Digest of the weights of the previous stage of a cascade; None without one.
        initial_digest: Digest of the checkpoint whose weights the training began with; None: those that were drawn.
        synthetic_digest: Digest of the record of the synthetic cases that take part; None without them.
        teacher_digest: Digest of the checkpoint of the teacher; None without one.
    """

    plan_digest: str | None
    fold_digest: str
    seed: int
    previous_digest: str | None = None
    initial_digest: str | None = None
    synthetic_digest: str | None = None
    teacher_digest: str | None = None


@dataclass(slots=True, kw_only=True)
class LoopState:
    """A training between two iterations.

    Attributes:
        schedule: The schedule, with what is left of it.
        history: Records of all finished epochs.
        partial_epoch: The finished part of the epoch after them; None between two epochs.
    """

    learner: Learner
    identity: TrainingIdentity
    schedule: Schedule
    history: list[EpochRecord] = field(default_factory=list)
    partial_epoch: PartialEpoch | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The start of a training in this call.

    Attributes:
        checkpoint: Checkpoint to continue from; None: training starts from the beginning.
        is_extension: The checkpoint is that of a finished training, of which only the weights are restored.
        schedule: Schedule to follow; None: the plan decides, or a budget.
        epochs_done: Number of epochs finished before this call.
        iterations_done: Training iterations finished in the epoch after them.
    """

    checkpoint: Path | None = None
    is_extension: bool = False
    schedule: Schedule | None = None
    epochs_done: int = 0
    iterations_done: int = 0
