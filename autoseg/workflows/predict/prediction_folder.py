"""The folder into which a prediction writes, and its record of how the label maps were made.

Several predictions may write into one folder at the same time, such as the parts of a job array: each changes the
record under a lock, one file at a time. A finished file adds a line to a second file, as writing the whole record each
time would take most of the time in a folder of thousands of images.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, field_validator

from autoseg.document import Document, Part, parse_part, read_document, write_document
from autoseg.errors import AutosegError, DocumentError, LockError, RunError, describe_folds
from autoseg.file_endings import COMPANION_ENDINGS, WRITABLE_ENDINGS, list_parts
from autoseg.files.checksums import compute_sha256, find_version
from autoseg.files.temporary_files import name_temporary, remove_leftovers_once
from autoseg.inference.execution.preparation import Execution
from autoseg.inference.options import Decoding
from autoseg.postprocessing.instances import ObjectRule
from autoseg.postprocessing.rules import FillHoles, LargestComponent, MinimumSize, Rule
from autoseg.processes.fold_lock import wait_for_lock
from autoseg.remote.local_files import use_local
from autoseg.remote.mirror import find_location
from autoseg.run_folder import PREDICTION_RECORD, make_folder, translate_write_errors
from autoseg.runtime.precision import DtypeName
from autoseg.runtime.provenance import LibraryVersions
from autoseg.untrusted.json_reading import parse_json
from autoseg.untrusted.names import describe_name, find_name_problem
from autoseg.volume_io import PROBABILITIES_ENDING
from autoseg.volume_io.dicom import RESULT_ENDINGS

RECORD_NAME: Final = PREDICTION_RECORD
PLAN_NAME: Final = "plan.json"
QUALITY_NAME: Final = "quality.json"
LOCK_NAME: Final = ".prediction.lock"
FINISHED_NAME: Final = ".prediction.jsonl"
"""Files that were finished since the record was written, one line each; the record takes them over at the end."""
DICOM_SOURCE: Final = "DICOM"
"""Place of images that are series, which their UIDs name; paths of such files may hold the names of patients."""
LONGEST_LOCK_SECONDS: Final = 300.0  # the record is held for milliseconds; a network drive may stand still for minutes
OUTPUT_ENDINGS: Final = (*WRITABLE_ENDINGS, PROBABILITIES_ENDING, *RESULT_ENDINGS)
PART_ENDINGS: Final = (*OUTPUT_ENDINGS, *dict.fromkeys(end for ends in COMPANION_ENDINGS.values() for end in ends))
WHAT_MAKES_LABEL_MAPS: Final = (
    *("configuration", "folds", "ensemble", "weights_sha256", "pruned_depth"),
    *("mirroring", "step_fraction", "decoding", "number_type", "postprocessing", "objects"),
)

logger = logging.getLogger(__name__)


class ImageVersion(Part):
    """Identifies the content of an image.

    Attributes:
        stamp: Digest of sizes and times of modification of its files: if it is equal, no file needs to be read.
        sha256: Digest of their contents.
    """

    stamp: str
    sha256: str


class EnsembleMember(Part):
    """One of several configurations whose probabilities were averaged."""

    configuration: str
    folds: tuple[str, ...]


class PredictionRecord(Document):
    """Record of the models and options that made the label maps of a folder.

    Attributes:
        configuration: Name of the configuration; for an ensemble, all names.
        folds: Folds; for an ensemble, those of all members, each once.
        weights_sha256: Digests of every checkpoint: for each member, of every stage the folds.
        decoding: Decoding of the probabilities; that of earlier versions is argmax.
        budget_seconds, given_up: Time for an image on average, and what was left out for it; None without a budget.
        execution: Execution of the networks, one for each stage of each member; empty in records of earlier versions.
        ensemble: The members where there are several, else empty.
        pruned_depth: Depth to which the networks were pruned; None for whole ones.
        postprocessing: Rules that were applied to the label maps, in this order. Probabilities are as the networks say.
        objects: Rules by which objects were found; empty where they are not told apart.
        disagreement_of: Predictions that maps of disagreement compare, in words; empty without such maps.
            Images of which a single prediction covers each voxel have none.
        images: Folder of the images of the first call.
        outputs: Names of all files that are made in this way, also by other calls, each with that of the image (its
            first channel): its name if it lies in `images`, else its path.
        sha256: Digests of those that are finished, by name, and of the second file of formats that have one. Only a
            file that still has its digest is ever replaced or removed.
        image_versions: Images that they were made of, by name of the file; earlier versions recorded none.
    """

    schema_version: Literal[1] = 1
    autoseg_version: str
    model: str
    images: str
    configuration: str
    folds: tuple[str, ...]
    weights_sha256: tuple[str, ...]
    mirroring: bool
    step_fraction: float
    decoding: Decoding = "argmax"
    budget_seconds: float | None = None
    given_up: tuple[str, ...] = ()
    number_type: DtypeName
    execution: tuple[Execution, ...] = ()
    probabilities: bool
    ensemble: tuple[EnsembleMember, ...] = ()
    pruned_depth: int | None = None
    postprocessing: tuple[Rule, ...] = ()
    objects: tuple[ObjectRule, ...] = ()
    disagreement_of: tuple[str, ...] = ()
    outputs: dict[str, str] = Field(default_factory=dict)
    sha256: dict[str, str] = Field(default_factory=dict)
    image_versions: dict[str, ImageVersion] = Field(default_factory=dict)
    versions: LibraryVersions

    @field_validator("outputs")
    @classmethod
    def _check_outputs(cls, outputs: dict[str, str]) -> dict[str, str]:
        return _check_names(outputs, OUTPUT_ENDINGS)

    @field_validator("sha256")
    @classmethod
    def _check_parts(cls, digests: dict[str, str]) -> dict[str, str]:
        return _check_names(digests, PART_ENDINGS)


class FinishedFile(Part):
    """A line about a label map or probabilities: name, image and the digests of all parts, as in the record."""

    name: str
    image: str
    image_version: ImageVersion | None = None
    sha256: dict[str, str]

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        _check_names({name: ""}, OUTPUT_ENDINGS)
        return name

    @field_validator("sha256")
    @classmethod
    def _check_parts(cls, digests: dict[str, str]) -> dict[str, str]:
        return _check_names(digests, PART_ENDINGS)


def describe_image(image: Path, folder: str) -> str:
    """Describes an image in a record: by its name in the folder of the record's images, elsewhere by its path."""
    if folder == DICOM_SOURCE:
        return image.name
    parent = image.parent.resolve()
    return image.name if find_location(parent) == folder else find_location(parent / image.name)


def identify_image(files: Sequence[Path]) -> ImageVersion:
    """Identifies the present content of an image by all its files, in their order.

    Raises:
        OSError: One is missing or cannot be read.
    """
    stamp = _compute_stamp(files)
    with use_local(*files):
        digests = "".join(map(compute_sha256, files))
    return ImageVersion(stamp=stamp, sha256=hashlib.sha256(digests.encode()).hexdigest())


def is_image_changed(files: Sequence[Path], version: ImageVersion | None) -> bool:
    """Whether an image has another content than the one that was recorded; None, of earlier versions, tells nothing.

    Raises:
        OSError: One of its files is missing or cannot be read.
    """
    if version is None or version.stamp == _compute_stamp(files):
        return False
    return identify_image(files).sha256 != version.sha256


def _compute_stamp(files: Sequence[Path]) -> str:
    text = ",".join(f"{version.size_bytes}:{version.modified_ns}" for version in map(find_version, files))
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def lock_record(out: Path) -> Iterator[None]:
    """Context manager that keeps other predictions from changing the record of the folder meanwhile.

    Where the file system has no locks, this is a warning in the log.

    Raises:
        RunError: The folder cannot be written, or another process keeps the lock.
    """
    with ExitStack() as locks:
        try:
            lock = wait_for_lock(
                out / LOCK_NAME, on_wait=lambda: None, longest_seconds=LONGEST_LOCK_SECONDS, is_kept=False
            )
            locks.enter_context(lock)
        except LockError as error:
            logger.warning("%s: only one prediction at a time may write into this folder", error)
        yield


@contextmanager
def write_recorded(path: Path, record: PredictionRecord, image: ImageVersion | None = None) -> Iterator[Path]:
    """Yields a path of the same name in a temporary folder; all files written there are recorded and moved beside.

    Formats of two files name one in the other, so both must be written under their final names. The file `path` itself
    is moved last: where it exists, all do.

    Args:
        path: A label map or probabilities in the folder.
        record: The record of this prediction.
        image: The content of the image that the file is made of.

    Raises:
        RunError: The folder cannot be written, or holds the results of another model since.
    """
    remove_leftovers_once(make_folder(path.parent))
    folder = make_folder(name_temporary(path))
    try:
        with translate_write_errors(path), _name_final_folder(folder):
            yield folder / path.name  # its writer has flushed it
            written = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
            digests = {file.name: compute_sha256(file) for file in written}
            with lock_record(path.parent):
                _enter(path, digests, record, image)
                for file in written:
                    file.replace(path.parent / file.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _name_final_folder(temporary: Path) -> Iterator[None]:
    """Lets errors name the place where files were to be, not that where they were written first."""
    try:
        yield
    except AutosegError as error:
        if str(temporary) not in str(error):
            raise
        raise type(error)(str(error).replace(str(temporary), str(temporary.parent))) from error


def _enter(path: Path, digests: Mapping[str, str], record: PredictionRecord, image: ImageVersion | None) -> None:
    out = path.parent
    present = read_record(out)
    if present is None:
        write_document(out / RECORD_NAME, record)
    else:
        refuse_changes(out, list_changes(present, record))
    finished = FinishedFile(name=path.name, image=record.outputs[path.name], image_version=image, sha256=dict(digests))
    with (out / FINISHED_NAME).open("a", encoding="utf-8") as lines:
        lines.write(f"\n{finished.model_dump_json()}\n")  # begins a line of its own, even after one that was cut off
        lines.flush()
        os.fsync(lines.fileno())


def complete_record(out: Path) -> None:
    """Takes all finished files over into the record of a folder; to be called under `lock_record`.

    Raises:
        RunError: The folder cannot be written.
    """
    record, lines = read_record(out), out / FINISHED_NAME
    if record is None or not lines.exists():
        return
    finished = _read_finished(lines)
    outputs = record.outputs | {file.name: file.image for file in finished}
    digests = {name: digest for file in finished for name, digest in file.sha256.items()}
    images = {file.name: file.image_version for file in finished if file.image_version is not None}
    changed = record.model_copy(
        update={
            "outputs": outputs,
            "sha256": record.sha256 | digests,
            "image_versions": record.image_versions | images,
        }
    )
    write_document(out / RECORD_NAME, changed)
    with translate_write_errors(lines):
        lines.unlink(missing_ok=True)


def _read_finished(path: Path) -> list[FinishedFile]:
    """Reads the lines; one that was cut off with its process belongs to a file that never got its name."""
    finished = []
    for line in filter(str.strip, path.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            finished.append(parse_part(parse_json(line, where=str(path)), FinishedFile, where=str(path)))
        except DocumentError:
            logger.warning("%s: a line is damaged; --overwrite will leave its file", path)
    return finished


def read_record(out: Path) -> PredictionRecord | None:
    """Reads the record, unless it is the same file as before."""
    path = out / RECORD_NAME
    if not path.exists():
        return None
    status = path.stat()
    return _read_version(path, (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@lru_cache(maxsize=1)
def _read_version(path: Path, version: tuple[int, ...]) -> PredictionRecord:
    """Reads a version of the record: every change gives it another number, size or time."""
    del version
    return read_document(path, PredictionRecord)


def _check_names(named: dict[str, str], endings: tuple[str, ...]) -> dict[str, str]:
    for name in named:
        if find_output_problem(name, endings) is not None:
            msg = f"must name label maps in the folder itself (got {describe_name(name)})"
            raise ValueError(msg)
    return named


@lru_cache(maxsize=2**18)
def find_output_problem(name: str, endings: tuple[str, ...]) -> str | None:
    """Returns why a name cannot be that of a file of a prediction, by the same rule as the names of cases."""
    ending = max((end for end in endings if name.lower().endswith(end)), key=len, default=None)
    if ending is None:
        return "it has no ending of a label map"
    taken = next((part for part in list_parts(name) if part in (RECORD_NAME, PLAN_NAME, QUALITY_NAME)), None)
    return find_name_problem(name[: -len(ending)]) if taken is None else f"{taken} has another meaning there"


def list_changes(earlier: PredictionRecord, record: PredictionRecord) -> list[str]:
    """Lists in words what makes the label maps of two records different."""
    return [
        f"{field}: {_format(getattr(earlier, field))} there, {_format(getattr(record, field))} now"
        for field in WHAT_MAKES_LABEL_MAPS
        if getattr(earlier, field) != getattr(record, field)
    ]


def refuse_changes(out: Path, changes: Sequence[str]) -> None:
    """Refuses to mix label maps that were made in different ways.

    Raises:
        RunError: There are changes.
    """
    if changes:
        msg = (
            f"{out} holds predictions made in another way ({'; '.join(changes)}); "
            f"choose another folder, or replace them with --overwrite"
        )
        raise RunError(msg)


def _format(value: object) -> str:
    """Rules and members in words; anything else as it is."""
    if isinstance(value, tuple) and value and isinstance(value[0], Part):
        return "; ".join(_describe_part(part) for part in value)
    return "none" if value == () else str(value)


def _describe_part(part: Part) -> str:
    if isinstance(part, EnsembleMember):
        return f"{part.configuration} ({describe_folds(part.folds)})"
    assert isinstance(part, LargestComponent | MinimumSize | FillHoles | ObjectRule), "no other parts are compared"
    return part.describe()
