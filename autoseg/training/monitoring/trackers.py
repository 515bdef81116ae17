"""Logs the training history to experiment trackers: MLflow or Weights & Biases.

Neither is a dependency: they are imported only when they are used.
"""

import importlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from autoseg.document import Document, read_document, write_document
from autoseg.errors import TrainingError
from autoseg.training.monitoring.event_files import list_scalars
from autoseg.training.monitoring.events import EpochDone, Event

TrackerName = Literal["mlflow", "wandb"]
FORBIDDEN_CHARACTERS: Final = re.compile(r"[^\w\-./ :]")
"""Not allowed in names of MLflow's metrics, but in names of classes."""

logger = logging.getLogger(__name__)


class TrackerIdentifiers(Document):
    """trackers.json: the identifiers under which each tracker resumes a training."""

    schema_version: Literal[1] = 1
    identifiers: dict[TrackerName, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """The description of a training in a tracker.

    Attributes:
        experiment: Name of the experiment that groups trainings.
        folder: Folder for files of the tracker.
    """

    experiment: str
    name: str
    parameters: Mapping[str, str | int | float]
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTracker:
    """A training that is open in one tracker.

    Attributes:
        identifier: The identifier to resume it.
        log: Logs metrics of an epoch.
    """

    identifier: str
    log: Callable[[Mapping[str, float], int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trackers:
    """All trackers of a training, possibly none."""

    opened: Mapping[TrackerName, OpenTracker]

    def follow(self, events: Iterable[Event], class_names: Sequence[str]) -> Iterator[Event]:
        """Logs the epochs of a training, and passes its events on."""
        for event in events:
            if isinstance(event, EpochDone):
                self.log(list_scalars(event.record, class_names), epoch=event.record.epoch)
            yield event

    def log(self, values: Mapping[str, float], *, epoch: int) -> None:
        """Logs metrics to all trackers; the failure of a server does not end the training."""
        allowed = {FORBIDDEN_CHARACTERS.sub("_", name): value for name, value in values.items()}
        for name, tracker in self.opened.items():
            try:
                tracker.log(allowed, epoch)
            except Exception as error:
                logger.warning("%s did not log the metrics of epoch %d: %s", name, epoch + 1, error)


def check_trackers(names: Iterable[TrackerName]) -> None:
    """Checks that these trackers are installed.

    Raises:
        TrainingError: One is not.
    """
    for name in names:
        _import_library(name)


@contextmanager
def open_trackers(names: Sequence[TrackerName], path: Path, run: TrackedRun) -> Iterator[Trackers]:
    """Opens trackers, and resumes an interrupted training of the same fold in them.

    Args:
        path: The file of the identifiers.

    Raises:
        TrainingError: A tracker is not installed.
    """
    known = read_document(path, TrackerIdentifiers).identifiers if path.is_file() else {}
    with ExitStack() as stack:
        opened = {name: stack.enter_context(TRACKERS[name](run, known.get(name))) for name in names}
        if opened:
            identifiers = known | {name: tracker.identifier for name, tracker in opened.items()}
            write_document(path, TrackerIdentifiers(identifiers=identifiers))
        yield Trackers(opened=opened)


@contextmanager
def _open_mlflow(run: TrackedRun, identifier: str | None) -> Iterator[OpenTracker]:
    mlflow = _import_library("mlflow")
    mlflow.set_experiment(run.experiment)
    name = run.name if identifier is None else None
    with mlflow.start_run(run_id=identifier, run_name=name) as active:
        if identifier is None:
            mlflow.log_params(dict(run.parameters))
        yield OpenTracker(
            identifier=active.info.run_id, log=lambda values, epoch: mlflow.log_metrics(dict(values), step=epoch)
        )


@contextmanager
def _open_wandb(run: TrackedRun, identifier: str | None) -> Iterator[OpenTracker]:
    wandb = _import_library("wandb")
    active = wandb.init(
        project=run.experiment,
        name=run.name,
        config=dict(run.parameters),
        dir=str(run.folder),
        id=identifier,
        resume="allow",
    )
    exit_code = 1
    try:
        yield OpenTracker(identifier=active.id, log=lambda values, epoch: active.log(dict(values), step=epoch))
        exit_code = 0
    finally:
        active.finish(exit_code=exit_code)


TRACKERS: Final[dict[TrackerName, Callable[[TrackedRun, str | None], AbstractContextManager[OpenTracker]]]] = {
    "mlflow": _open_mlflow,
    "wandb": _open_wandb,
}


def _import_library(name: TrackerName) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        msg = f"--log-to {name} needs the package {name}, which is not installed: pip install 'autoseg[{name}]'"
        raise TrainingError(msg) from error
