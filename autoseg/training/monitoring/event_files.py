"""Writes the training history as TensorBoard event files.

The calling thread writes them. The writers of TensorBoard and PyTorch leave this to a thread of their own, which ends
at the first error, such as a full disk, with a traceback on the terminal, and writes nothing from then on.
"""

import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from io import BytesIO, FileIO
from pathlib import Path
from typing import Final

from tensorboard.compat.proto.event_pb2 import Event as EventMessage
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from autoseg.errors import RunError
from autoseg.run_folder import make_folder
from autoseg.training.monitoring.history import EpochRecord

FILE_VERSION: Final = "brain.Event:2"


class EventFile:
    """A new event file; TensorBoard discards events of older files from its first epoch on."""

    def __init__(self, folder: Path, *, first_epoch: int) -> None:
        self._folder = folder
        self._first_epoch = first_epoch
        self._path: Path | None = None

    def append(self, records: Sequence[EpochRecord], class_names: Sequence[str]) -> None:
        """Appends epochs: all of them, or none where one cannot be written.

        Raises:
            RunError: The folder cannot be written or the disk is full.
        """
        make_folder(self._folder)
        try:
            if self._path is None:
                self._path = self._create()
            _append_whole(self._path, _encode(_list_events(records, class_names)))
        except OSError as error:
            msg = f"cannot write event files to {self._folder}: {error.strerror or error}; free space"
            raise RunError(msg) from error

    def _create(self) -> Path:
        moment = time.time_ns()
        seconds, rest = divmod(moment, 10**9)
        path = self._folder / f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{os.getpid()}.{rest:09d}"
        start = SessionLog(status=SessionLog.START)
        first = (
            EventMessage(wall_time=moment / 1e9, file_version=FILE_VERSION),
            EventMessage(wall_time=moment / 1e9, step=self._first_epoch, session_log=start),
        )
        _append_whole(path, _encode(first))
        return path


def _append_whole(path: Path, content: bytes) -> None:
    """Appends to a file, or leaves it as it was: TensorBoard reads nothing behind a part of an event."""
    with FileIO(path, "a") as file:
        begin = file.tell()
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[file.write(rest) :]  # on a disk that is almost full, only a part at first
        except OSError:
            with suppress(OSError):
                file.truncate(begin)
            raise


def _encode(events: Iterable[EventMessage]) -> bytes:
    content = BytesIO()
    writer = RecordWriter(content)
    for event in events:
        writer.write(event.SerializeToString())
    return content.getvalue()


def _list_events(records: Sequence[EpochRecord], class_names: Sequence[str]) -> Iterator[EventMessage]:
    for record in records:
        for tag, value in list_scalars(record, class_names).items():
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            yield EventMessage(wall_time=time.time(), step=record.epoch, summary=summary)


def list_scalars(record: EpochRecord, class_names: Sequence[str]) -> dict[str, float]:
    """Lists the defined metrics of an epoch by their tags."""
    values: dict[str, float | None] = {
        "loss/training": record.train_loss,
        "loss/validation": record.validation_loss,
        "pseudo_dice/mean": record.mean_pseudo_dice,
        "pseudo_dice/moving_average": record.moving_average,
        "discriminator_accuracy": record.discriminator_accuracy,
        "learning_rate": record.learning_rate,
        "seconds/epoch": record.seconds,
        "seconds/data_wait": record.data_wait_seconds,
    }
    names = (f"pseudo_dice_of_class/{name}" for name in class_names)
    values.update(zip(names, record.pseudo_dice, strict=True))
    return {name: value for name, value in values.items() if value is not None}
