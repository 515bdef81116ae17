"""Records of the epochs of a training, and the log file that holds them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from autoseg.document import Part
from autoseg.errors import RunError
from autoseg.run_folder import make_folder, write_text

TAIL_BYTES: Final = 1 << 16  # dozens of lines, so that a long log is not read whole for its last one


class EpochRecord(Part):
    """One epoch.

    Attributes:
        epoch: Counted from 0.
        train_loss: Mean over the iterations; None if it was not finite in any (so for the validation loss).
        pseudo_dice: Per class; None for a class that no validation patch held and none was predicted to hold.
        mean_pseudo_dice: Over the classes that have one.
        moving_average: Of the mean: 0.9 old + 0.1 new.
        volume_dice: Mean Dice of held-out cases as whole volumes; None if it was not measured after this epoch.
        learning_rate: In the first iteration.
        seconds: Whole epoch, with validation, without saving.
        data_wait_seconds: Of those, how long the network waited for patches.
    """

    epoch: int
    learning_rate: float
    train_loss: float | None
    validation_loss: float | None
    pseudo_dice: tuple[float | None, ...]
    mean_pseudo_dice: float | None
    moving_average: float | None
    volume_dice: float | None = None
    seconds: float
    seconds_per_iteration: float
    data_wait_seconds: float


class PartialEpoch(Part):
    """The training iterations of an epoch that is not over.

    Attributes:
        train_losses: Of each; None for one that was not finite.
        seconds: They took, without saving.
        data_wait_seconds: Of those, how long the network waited for patches.
    """

    train_losses: tuple[float | None, ...]
    seconds: float
    data_wait_seconds: float


def write_training_log(path: Path, records: Sequence[EpochRecord]) -> None:
    """Writes training_log.jsonl anew, atomically: after an interruption it may hold epochs that will be repeated."""
    write_text(path, "".join(record.model_dump_json() + "\n" for record in records))


def append_to_training_log(path: Path, record: EpochRecord) -> None:
    """Adds one line.

    Raises:
        RunError: The folder cannot be written or the disk is full.
    """
    make_folder(path.parent)
    try:
        with path.open("a", encoding="utf-8") as handle:
            handle.write(record.model_dump_json() + "\n")
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror or error}; free space, then give the same command to continue"
        raise RunError(msg) from error


def read_last_record(path: Path) -> EpochRecord | None:
    """The last whole line of the log, which may be growing meanwhile; None if there is none that can be read."""
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, handle.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = handle.read().splitlines()
    except OSError:
        return None
    records = (_parse_record(line) for line in reversed(lines))
    return next((record for record in records if record is not None), None)


def _parse_record(line: bytes) -> EpochRecord | None:
    try:
        return EpochRecord.model_validate_json(line)
    except ValidationError:
        return None
