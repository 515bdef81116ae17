"""Keeps the history of a training in files for people: the log, event files and the progress picture.

Checkpoints hold the same history. So a training does not end because one of these files cannot be written, on a full
disk for example: that is announced, and what is missing is written with the next epoch for which there is room.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from autoseg.errors import RunError
from autoseg.run_folder import FoldFolder
from autoseg.training.monitoring.event_files import EventFile
from autoseg.training.monitoring.history import EpochRecord, append_to_training_log, write_training_log
from autoseg.training.monitoring.progress_picture import write_progress_picture
from autoseg.training.optimization.schedule import Schedule

Announce = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class HistoryFiles:
    """The log, event files and picture of one training.

    Attributes:
        output: Folder of the training.
        class_names: Names of the classes.
        title: Title of the picture.
        announce: Called with what cannot be written, in words.
        first_epoch: First epoch of this process.
    """

    output: FoldFolder
    class_names: Sequence[str]
    title: str
    announce: Announce
    first_epoch: int
    _event_file: EventFile = field(init=False)
    _epochs_with_events: int = field(init=False)
    _is_log_complete: bool = field(default=True, init=False)
    _announced: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._event_file = EventFile(self.output.tensorboard, first_epoch=self.first_epoch)
        self._epochs_with_events = self.first_epoch

    def add_epoch(self, history: Sequence[EpochRecord]) -> None:
        """Adds the last epoch of the history, and those before it that could not be written."""
        self._is_log_complete = self._try("log", lambda: self._write_log(history))
        new = history[self._epochs_with_events :]
        if self._try("events", lambda: self._event_file.append(new, self.class_names)):
            self._epochs_with_events = len(history)

    def draw(self, history: Sequence[EpochRecord], schedule: Schedule) -> None:
        """Draws the progress picture."""
        path = self.output.progress_picture
        self._try("picture", lambda: write_progress_picture(path, history, schedule, title=self.title))

    def _write_log(self, history: Sequence[EpochRecord]) -> None:
        if self._is_log_complete:
            append_to_training_log(self.output.training_log, history[-1])
        else:
            write_training_log(self.output.training_log, history)

    def _try(self, subject: str, write: Callable[[], None]) -> bool:
        """Returns whether a file was written; announces the first of several failures in a row."""
        try:
            write()
        except RunError as error:
            if subject not in self._announced:
                self.announce(f"warning: {error}; training continues, and what is missing is written later")
            self._announced.add(subject)
            return False
        self._announced.discard(subject)
        return True
