"""Writes the training history as TensorBoard event files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from autoseg.errors import RunError
from autoseg.training.monitoring.history import EpochRecord


@contextmanager
def open_event_files(folder: Path, *, first_epoch: int) -> Iterator[SummaryWriter]:
    """Opens a new event file; TensorBoard discards events of older files from `first_epoch` on."""
    writer = SummaryWriter(str(folder), purge_step=first_epoch)
    try:
        yield writer
    finally:
        with suppress(OSError):  # every epoch was flushed by itself, where a full disk was reported
            writer.close()


def write_events(writer: SummaryWriter, record: EpochRecord, class_names: Sequence[str]) -> None:
    """Writes one epoch.

    Raises:
        RunError: The folder cannot be written or the disk is full.
    """
    try:
        for name, value in list_scalars(record, class_names).items():
            writer.add_scalar(name, value, global_step=record.epoch)
        writer.flush()
    except OSError as error:
        msg = (
            f"cannot write event files to {writer.log_dir}: {error.strerror or error}; "
            f"free space, then give the same command to continue"
        )
        raise RunError(msg) from error


def list_scalars(record: EpochRecord, class_names: Sequence[str]) -> dict[str, float]:
    """Lists the defined metrics of an epoch by their tags."""
    values: dict[str, float | None] = {
        "loss/training": record.train_loss,
        "loss/validation": record.validation_loss,
        "pseudo_dice/mean": record.mean_pseudo_dice,
        "pseudo_dice/moving_average": record.moving_average,
        "learning_rate": record.learning_rate,
        "seconds/epoch": record.seconds,
        "seconds/data_wait": record.data_wait_seconds,
    }
    names = (f"pseudo_dice_of_class/{name}" for name in class_names)
    values.update(zip(names, record.pseudo_dice, strict=True))
    return {name: value for name, value in values.items() if value is not None}
