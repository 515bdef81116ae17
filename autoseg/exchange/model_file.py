"""Model files: a zip with all that prediction needs, to share a trained model.

    model.json                                  description of the file; see `ModelRecord`
    README.md                                   model card; see `autoseg.exchange.model_card`
    plan.json                                   the decisions that prediction follows
    selection.json                              the averaged models and postprocessing, if they were selected
    quality_calibration.json                    the calibration of estimates of their quality, if there is one
    models/<configuration>/fold_<k>/plan.json, checkpoint_final.safetensors

Unpacked, it is a run that can predict. Its content is selected field by field, so that it never includes training data
by accident: no image, label map, name of a case, path, or name of a computer or user.
"""

import filecmp
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field

import autoseg
from autoseg.dataset.record import DatasetRecord
from autoseg.document import Document, Part, read_document
from autoseg.errors import DocumentError, ExchangeError, describe_folds
from autoseg.evaluation.crossvalidation import ConfigurationScores, Statistic
from autoseg.exchange.archives import MODE_SHIFT, unpack_archive
from autoseg.files.temporary_files import make_temporary_folder
from autoseg.inference.folds import find_trained_folds
from autoseg.labels import ClassTerms
from autoseg.plan.document import ConfigurationPlan, Plan
from autoseg.plan.values import ConfigurationName
from autoseg.quality.calibration import CALIBRATION_NAME
from autoseg.run_folder import FoldFolder, RunFolder, create_parent_folders, write_atomically
from autoseg.untrusted.json_reading import read_json
from autoseg.untrusted.names import FolderName

FORM_VERSION: Final = 1
ADVICE: Final = f"update autoseg, or ask for a file that autoseg {autoseg.__version__} wrote"
NOWHERE: Final = Path()
RECORD_NAME: Final = RunFolder(NOWHERE).model_record.name
MEMBER_NAMES: Final = frozenset(
    (
        RECORD_NAME,
        RunFolder(NOWHERE).model_card.name,
        RunFolder(NOWHERE).plan.name,
        RunFolder(NOWHERE).selection.name,
        CALIBRATION_NAME,
        FoldFolder(NOWHERE).plan.name,
        FoldFolder(NOWHERE).final_checkpoint.name,
    )
)
SHARED_PLAN_FIELDS: Final = (
    *("autoseg_version", "planner", "accelerator_memory_gb", "dataset_name", "file_ending"),
    *("orientation", "distance_unit", "axis_permutation", "labels", "channels", "instances"),
)
"""Fields of the plan that are shared: not the reasons, which may contain any text, and nothing only planning needs."""

EARLIEST_TIME: Final = (1980, 1, 1, 0, 0, 0)  # of the zip format; a fixed time makes files of equal models equal
PERMISSIONS: Final = stat.S_IFREG | 0o644
UNIX: Final = 3  # as the system that made the file, whatever it was


class SharedConfiguration(Part):
    """One configuration in the file.

    Attributes:
        weights_sha256: Checksum of the checkpoint of each fold.
        scores: Scores over the cases that the folds held out; None if they are not known.
    """

    folds: Annotated[tuple[FolderName, ...], Field(min_length=1)]
    weights_sha256: tuple[str, ...]
    scores: ConfigurationScores | None


class SelectedScores(Part):
    """Dice of the selected models over held-out cases.

    Attributes:
        configurations: One configuration, or two whose probabilities are averaged.
        foreground: Mean over classes.
        classes: Dice by class key.
        postprocessed: Mean over classes with postprocessing, on the cases that selected its rules.
    """

    configurations: tuple[str, ...]
    foreground: Statistic
    classes: dict[str, Statistic]
    postprocessed: Statistic


class ModelRecord(Document):
    """Description of a model file.

    Attributes:
        autoseg_version: The version of autoseg that wrote it.
        trained_with: Versions of autoseg and PyTorch; empty if it was trained by another tool.
        licence: The licence in dataset.json; None if there is none.
        class_names: Names of the classes by class key.
        selected: Scores of the selected models; None if nothing was selected.
        terms: Coded terms of classes, by their names, for results in DICOM; empty in files of earlier versions.
    """

    schema_version: Literal[1] = 1
    autoseg_version: str
    dataset_name: str
    trained_with: tuple[str, ...]
    licence: str | None
    class_names: dict[str, str]
    configurations: Annotated[dict[ConfigurationName, SharedConfiguration], Field(min_length=1)]
    selected: SelectedScores | None
    terms: dict[str, ClassTerms] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFileWriter:
    """Adds members to a new model file."""

    archive: zipfile.ZipFile

    def add(self, path: Path, content: bytes) -> None:
        """Adds a file; `path` is relative to the run.

        Files are not compressed: weights do not become smaller, and the results of compressors differ.
        """
        member = zipfile.ZipInfo(path.as_posix(), date_time=EARLIEST_TIME)
        member.create_system, member.external_attr = UNIX, PERMISSIONS << MODE_SHIFT
        self.archive.writestr(member, content)

    def add_document(self, path: Path, document: Document) -> None:
        """Adds a JSON document, as `write_document` writes it."""
        self.add(path, f"{document.model_dump_json(indent=2)}\n".encode())


@contextmanager
def write_model_file(path: Path, *, overwrite: bool) -> Iterator[ModelFileWriter]:
    """Yields the writer of a new model file, which is written atomically when the block succeeds.

    A file of the same content may exist already, from a call that was killed at its end.

    Raises:
        ExchangeError: The file exists with another content, and `overwrite` is False.
        RunError: The folder cannot be written or the disk is full.
    """
    with create_parent_folders(path), write_atomically(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            yield ModelFileWriter(archive=archive)
        if path.exists() and not overwrite and not filecmp.cmp(temporary, path, shallow=False):
            msg = f"{path} exists and holds another model; choose another name, or replace it with --overwrite"
            raise ExchangeError(msg)


def extract_shared_plan(plan: Plan, configurations: Mapping[str, ConfigurationPlan]) -> Plan:
    """Returns the part of a plan that prediction needs, for some configurations."""
    fields = {name: getattr(plan, name) for name in SHARED_PLAN_FIELDS}
    shared = {name: _forget_path(configuration) for name, configuration in configurations.items()}
    return Plan(**fields, budget_seconds=None, configurations=shared, reasons=())


def _forget_path(configuration: ConfigurationPlan) -> ConfigurationPlan:
    """Removes the file of pretrained weights, which only training reads."""
    return configuration.model_copy(update={"network": configuration.network.with_pretrained(None)})


def find_terms(run: RunFolder) -> dict[str, ClassTerms]:
    """Finds the coded terms of classes: those of the planned dataset, or those that a model file came with."""
    if run.dataset.is_file():
        return read_document(run.dataset, DatasetRecord).terms
    return read_document(run.model_record, ModelRecord).terms if run.model_record.is_file() else {}


def is_model_file(path: Path) -> bool:
    """Returns whether a file is a model file of any version of autoseg."""
    try:
        with zipfile.ZipFile(path) as archive:
            return RECORD_NAME in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def read_model_record(path: Path) -> ModelRecord:
    """Reads the record of a model file without unpacking the rest.

    Raises:
        ExchangeError: The file is damaged, or this autoseg is too old for it.
    """
    with make_temporary_folder() as temporary:
        return _unpack_record(path, RunFolder(temporary))


def unpack_model_file(path: Path, run_root: Path) -> ModelRecord:
    """Unpacks a model file into a run.

    Args:
        path: The model file.
        run_root: Folder of the run, which is created, or exists and is empty.

    Raises:
        ExchangeError: The file is damaged or incomplete, or this autoseg is too old for it.
    """
    run_root.mkdir(parents=True, exist_ok=True)
    run = RunFolder(run_root)
    record = _unpack_record(path, run)  # first, as a newer version may have other files
    unpack_archive(path, run_root, names=MEMBER_NAMES)
    with _translate_newer_documents(path, run):
        for plan in run_root.rglob(run.plan.name):
            read_document(plan, Plan)
    _check_complete(path, run, record)
    return record


def _unpack_record(path: Path, run: RunFolder) -> ModelRecord:
    unpack_archive(path, run.root, names=frozenset({RECORD_NAME}))
    _check_form(path, read_json(run.model_record))
    with _translate_newer_documents(path, run):
        return read_document(run.model_record, ModelRecord)


@contextmanager
def _translate_newer_documents(path: Path, run: RunFolder) -> Iterator[None]:
    try:
        yield
    except DocumentError as error:
        msg = f"{_describe_writer(path, read_json(run.model_record))}: {error}; {ADVICE}"
        raise ExchangeError(msg) from error


def _check_form(path: Path, found: Any) -> None:
    form = found.get("schema_version") if isinstance(found, dict) else None
    if form != FORM_VERSION:
        msg = f"{_describe_writer(path, found)}: it has the form {form!r:.20}, known is {FORM_VERSION}; {ADVICE}"
        raise ExchangeError(msg)


def _describe_writer(path: Path, found: Any) -> str:
    version = found.get("autoseg_version") if isinstance(found, dict) else None
    writer = f"autoseg {version:.40}" if isinstance(version, str) else "an unknown program"
    return f"{path} was written by {writer} and cannot be read by this autoseg {autoseg.__version__}"


def _check_complete(path: Path, run: RunFolder, record: ModelRecord) -> None:
    plan = read_document(run.plan, Plan) if run.plan.is_file() else None
    for name, shared in record.configurations.items():
        known = plan is not None and name in plan.configurations
        missing = [fold for fold in shared.folds if not known or fold not in find_trained_folds(run, name)]
        if missing:
            msg = f"{path} lacks {name}, {describe_folds(missing)}, which its {RECORD_NAME} names; download it again"
            raise ExchangeError(msg)
