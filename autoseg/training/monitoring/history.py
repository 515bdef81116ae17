"""Records of the epochs of a training, and the log file that holds them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from autoseg.document import Part
from autoseg.errors import RunError
from autoseg.run_folder import make_folder, write_text

TAIL_BYTES: Final = 1 << 16  # dozens of lines, so that only the end of a long log is read


class EpochRecord(Part):
    """Record of one epoch.

    Attributes:
        epoch: Index of the epoch, counted from 0.
        train_loss: Mean over the iterations; None if it was never finite (likewise for the validation loss).
        pseudo_dice: Pseudo Dice per class; None for a class that is in no reference and no prediction.
        mean_pseudo_dice: Mean over the classes whose pseudo Dice is defined.
        moving_average: Moving average of the mean: 0.9 old + 0.1 new.
        volume_dice: Mean Dice of held-out cases as whole volumes; None if it was not measured after this epoch.
        discriminator_accuracy: Share of a discriminator's decisions in training that were right; None without one.
        learning_rate: Learning rate of the first iteration.
        seconds: Duration of the epoch with validation, without saving.
        data_wait_seconds: The part of `seconds` in which the network waited for patches.
    """

    epoch: int
    learning_rate: float
    train_loss: float | None
    validation_loss: float | None
    pseudo_dice: tuple[float | None, ...]
    mean_pseudo_dice: float | None
    moving_average: float | None
    volume_dice: float | None = None
    discriminator_accuracy: float | None = None
    seconds: float
    seconds_per_iteration: float
    data_wait_seconds: float


class PartialEpoch(Part):
    """The training iterations of an unfinished epoch.

    Attributes:
        train_losses: Loss of each iteration; None if it was not finite.
        seconds: Duration of the iterations, without saving.
        data_wait_seconds: The part of `seconds` in which the network waited for patches.
    """

    train_losses: tuple[float | None, ...]
    seconds: float
    data_wait_seconds: float


def write_training_log(path: Path, records: Sequence[EpochRecord]) -> None:
    """Rewrites training_log.jsonl atomically; after an interruption it may hold epochs that will be repeated."""
    write_text(path, "".join(record.model_dump_json() + "\n" for record in records))


def append_to_training_log(path: Path, record: EpochRecord) -> None:
    """Appends one line.

    Raises:
        RunError: The folder cannot be written or the disk is full.
    """
    make_folder(path.parent)
    try:
        with path.open("a", encoding="utf-8") as handle:
            handle.write(record.model_dump_json() + "\n")
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror or error}; free space"
        raise RunError(msg) from error


def read_last_record(path: Path) -> EpochRecord | None:
    """Reads the last complete line of the log, which may be written meanwhile; None if there is none."""
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, handle.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = handle.read().splitlines()
    except OSError:
        return None
    records = (_parse_record(line) for line in reversed(lines))
    return next((record for record in records if record is not None), None)


def read_training_log(path: Path) -> tuple[EpochRecord, ...]:
    """Reads all complete lines of the log, which may be written meanwhile; empty if there is none."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return ()
    return tuple(record for record in map(_parse_record, lines) if record is not None)


def _parse_record(line: bytes) -> EpochRecord | None:
    try:
        return EpochRecord.model_validate_json(line)
    except ValidationError:
        return None
