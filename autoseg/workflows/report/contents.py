"""Reads what a run holds at whatever stage it is: after planning, while folds train, with a cross-validation."""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from autoseg.dataset import DatasetRecord, find_source
from autoseg.dataset.folds import Splits
from autoseg.document import Document, read_document
from autoseg.errors import RemoteError
from autoseg.evaluation.crossvalidation import CrossValidation, score_configuration
from autoseg.evaluation.summary import EvaluationSummary
from autoseg.fingerprint import Fingerprint
from autoseg.plan import PREFERRED_CONFIGURATIONS, Plan
from autoseg.quality.calibration import CALIBRATION_NAME, QualityCalibration
from autoseg.run_folder import ALL_CASES, RunFolder, open_run
from autoseg.runtime.provenance import TrainingRecord
from autoseg.training.monitoring.history import EpochRecord, read_training_log
from autoseg.workflows.cases.references import OBJECTS_FOLDER
from autoseg.workflows.folds.status import FoldStatus, read_run_status
from autoseg.workflows.select.selection_document import Selection, read_selection

logger = logging.getLogger(__name__)

Content = TypeVar("Content", bound=Document)
Fold = tuple[str, str]
"""Configuration and fold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContents:
    """The documents of a run; None, or no entry, for those that do not exist yet.

    Attributes:
        images: Images of every case of the dataset, relative to its folder.
        statuses: State of every fold.
        histories: Epochs of every fold that was begun.
        summaries: Scores of every fold that was validated, without the fold "all", which holds no case out.
        trainings: Records of every fold that was begun.
        calibration: Calibration of the estimates of quality of what was selected.
    """

    run: RunFolder
    plan: Plan
    dataset: DatasetRecord | None
    images: Mapping[str, tuple[str, ...]]
    fingerprint: Fingerprint | None
    splits: Splits | None
    statuses: tuple[FoldStatus, ...]
    histories: Mapping[Fold, tuple[EpochRecord, ...]]
    summaries: Mapping[Fold, EvaluationSummary]
    trainings: Mapping[Fold, TrainingRecord]
    selection: Selection | None
    calibration: QualityCalibration | None = None

    @property
    def scored(self) -> tuple[str, ...]:
        """Returns the configurations with scores, the one that predicts by default first."""
        names = dict.fromkeys(configuration for configuration, _ in self.summaries)
        selected = [] if self.selection is None else [member.configuration for member in self.selection.members]
        order = [*selected, *PREFERRED_CONFIGURATIONS, *names]
        return tuple(sorted(names, key=order.index))

    def select_folds(self, configuration: str) -> dict[str, EvaluationSummary]:
        """Returns the scores of the folds of a configuration."""
        return {fold: summary for (name, fold), summary in self.summaries.items() if name == configuration}

    def score(self) -> CrossValidation | None:
        """Scores every configuration over the folds that are validated so far; None if there is none."""
        if not self.summaries:
            return None
        first = next(iter(self.summaries.values()))
        return CrossValidation(
            class_names=first.class_names,
            distance_unit=first.distance_unit,
            configurations={name: score_configuration(self.select_folds(name)) for name in self.scored},
        )


def read_contents(root: Path) -> RunContents:
    """Reads a run.

    Raises:
        RunError: There is no run.
        DocumentError: One of its documents cannot be read.
    """
    run = open_run(root)
    statuses = read_run_status(root)
    folds = {(status.configuration, status.fold): run.fold(status.configuration, status.fold) for status in statuses}
    histories = {fold: read_training_log(folder.training_log) for fold, folder in folds.items()}
    dataset = _find_images(_read(run.dataset, DatasetRecord))
    return RunContents(
        run=run,
        plan=read_document(run.plan, Plan),
        dataset=dataset,
        images={} if dataset is None else {case.name: case.images for case in dataset.cases},
        fingerprint=_read(run.fingerprint, Fingerprint),
        splits=_read(run.splits, Splits),
        statuses=statuses,
        histories={fold: records for fold, records in histories.items() if records},
        summaries={
            fold: read_document(folder.summary, EvaluationSummary)
            for fold, folder in folds.items()
            if fold[1] != ALL_CASES and folder.summary.is_file()
        },
        trainings={
            fold: read_document(folder.training_record, TrainingRecord)
            for fold, folder in folds.items()
            if folder.training_record.is_file()
        },
        selection=read_selection(run),
        calibration=_read(run.root / CALIBRATION_NAME, QualityCalibration),
    )


def compute_digest(contents: RunContents, predictions: Path | None = None, images: Path | None = None) -> str:
    """Computes a digest of all documents of a run, and of the names, sizes and times of the files of predictions."""
    objects = None if predictions is None else predictions / OBJECTS_FOLDER
    files = (_list_files(predictions), _list_files(objects))
    states = [(status.configuration, status.fold, status.state) for status in contents.statuses]
    has_images = contents.dataset is not None and Path(contents.dataset.source).is_dir()
    digest = hashlib.sha256(repr((states, has_images, files, images)).encode())
    for path in _list_documents(contents):
        digest.update(path.name.encode() + b"\0")
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _list_files(folder: Path | None) -> list[tuple[str, int, int]]:
    paths = sorted(folder.iterdir()) if folder is not None and folder.is_dir() else []
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.is_file()]


def _list_documents(contents: RunContents) -> Iterator[Path]:
    run = contents.run
    yield from (run.dataset, run.fingerprint, run.plan, run.splits, run.selection, run.root / CALIBRATION_NAME)
    for configuration, fold in sorted(contents.histories.keys() | contents.summaries.keys()):
        folder = run.fold(configuration, fold)
        yield from (folder.training_log, folder.summary, folder.training_record)


def _find_images(record: DatasetRecord | None) -> DatasetRecord | None:
    """Names the local folder that stands for a dataset by URL, if that can be reached."""
    if record is None:
        return None
    try:
        return record.model_copy(update={"source": str(find_source(record))})
    except RemoteError as error:
        logger.warning("the report has no images: %s", error)
        return record


def _read(path: Path, kind: type[Content]) -> Content | None:
    return read_document(path, kind) if path.is_file() else None
