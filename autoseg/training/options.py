"""Options of a training: everything but its plan and its data."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from autoseg.processes.signals import StopRequest
from autoseg.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from autoseg.runtime.precision import DtypeName
from autoseg.training.budget.pace import Budget
from autoseg.training.teacher import Teacher

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """Requested length of a training; by default the planned one, or that with which the training was begun.

    Attributes:
        epochs: Number of epochs in place of the plan's. More than a finished training has had extend it to that number.
        more_epochs: Extend a finished training by so many.
        until_plateau: Train until the validation on whole volumes no longer improves; then the learning rate falls.
    """

    epochs: int | None = None
    more_epochs: int | None = None
    until_plateau: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """Options that say where and how long to train.

    Attributes:
        seed: 0 or more; with the plan and the fold it decides about everything random.
        initial_weights: Checkpoint whose weights a new training begins with; None: they are drawn.
        initial_digest: Digest of that checkpoint, also where a training is resumed without it.
        teacher: Trained network whose answers are learnt, too; None: the labels alone are.
        teacher_digest: Digest of its weights, also where they are not at hand, as for a training that is finished.
        label_autoencoder: Checkpoint of the label autoencoder that was trained before; None: the plan has none.
        workers: Processes that prepare patches; 0 prepares them between the steps.
        budget: Time within which epochs are laid out; None: without a limit.
        dtype: The dtype in which the network computes.
        is_dtype_free: Whether a GPU may compute in another dtype of 16 bits, where that is measured to be faster.
        measure_dice: Mean Dice of held-out cases as whole volumes, predicted by the network as it is; needed to train
            until a plateau.
        seconds_between_checkpoints: The state is saved after an epoch if the last time is longer ago, so that an
            interruption costs little, and short epochs are not spent on saving.
        seconds_between_partial_checkpoints: The same within an epoch.
        largest_saving_share: Largest share of the time for saving; if the disk is slow, the state is saved less often.
        process_group: The processes that train together.
        announce: Called with each decision made on the way, in words.
        deterministic: The same result every time: on a GPU, too, at some cost, and beside other programs.
        title: Title of the progress picture: which training it is.
        stop: Whether the training is asked to end; it then saves its state before.
    """

    device: torch.device
    seed: int
    workers: int
    initial_weights: Path | None = None
    initial_digest: str | None = None
    teacher: Teacher | None = None
    teacher_digest: str | None = None
    label_autoencoder: Path | None = None
    length: Length = field(default_factory=Length)
    budget: Budget | None = None
    dtype: DtypeName = "float32"
    is_dtype_free: bool = False
    measure_dice: Callable[[nn.Module], float] | None = None
    seconds_between_checkpoints: float = 10.0
    seconds_between_partial_checkpoints: float = 60.0
    largest_saving_share: float = 0.03
    process_group: ProcessGroup = SINGLE_PROCESS
    announce: Callable[[str], None] = logger.info
    deterministic: bool = False
    title: str = ""
    stop: StopRequest = field(default_factory=StopRequest)
