"""The folder into which a prediction writes, and its record of how the label maps were made.

Several predictions may write into one folder at the same time, such as the parts of a job array: each changes the
record under a lock, one file at a time. A finished file adds a line to a second file, as writing the whole record each
time would take most of the time in a folder of thousands of images.
"""

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, field_validator

from autoseg.document import Document, Part, parse_part, read_document, write_document
from autoseg.errors import AutosegError, DocumentError, LockError, RunError, shorten_names
from autoseg.file_endings import COMPANION_ENDINGS, WRITABLE_ENDINGS, list_parts
from autoseg.files.checksums import compute_sha256
from autoseg.files.temporary_files import name_temporary, remove_leftovers_once
from autoseg.inference.execution.preparation import Execution
from autoseg.inference.options import Decoding
from autoseg.postprocessing.rules import FillHoles, LargestComponent, MinimumSize, Rule
from autoseg.processes.fold_lock import wait_for_lock
from autoseg.remote.address import is_url, join_url
from autoseg.remote.local_files import use_local
from autoseg.remote.mirror import find_location
from autoseg.run_folder import make_folder, translate_write_errors
from autoseg.runtime.precision import DtypeName
from autoseg.runtime.provenance import LibraryVersions
from autoseg.untrusted.json_reading import parse_json
from autoseg.untrusted.names import describe_name, find_name_problem
from autoseg.volume_io import PROBABILITIES_ENDING
from autoseg.volume_io.dicom import RESULT_ENDINGS

RECORD_NAME: Final = "prediction.json"
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
    *("mirroring", "step_fraction", "decoding", "number_type", "postprocessing"),
)

logger = logging.getLogger(__name__)


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
        images: Folder of the images of the first call.
        outputs: Names of all files that are made in this way, also by other calls, each with that of the image (its
            first channel): its name if it lies in `images`, else its path.
        sha256: Digests of those that are finished, by name, and of the second file of formats that have one. Only a
            file that still has its digest is ever replaced or removed.
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
    outputs: dict[str, str] = Field(default_factory=dict)
    sha256: dict[str, str] = Field(default_factory=dict)
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
def write_recorded(path: Path, record: PredictionRecord) -> Iterator[Path]:
    """Yields a path of the same name in a temporary folder; all files written there are recorded and moved beside.

    Formats of two files name one in the other, so both must be written under their final names. The file `path` itself
    is moved last: where it exists, all do.

    Args:
        path: A label map or probabilities in the folder.
        record: The record of this prediction.

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
                _enter(path, digests, record)
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


def _enter(path: Path, digests: Mapping[str, str], record: PredictionRecord) -> None:
    out = path.parent
    present = _read_record(out)
    if present is None:
        write_document(out / RECORD_NAME, record)
    else:
        _refuse_changes(out, _list_changes(present, record))
    finished = FinishedFile(name=path.name, image=record.outputs[path.name], sha256=dict(digests))
    with (out / FINISHED_NAME).open("a", encoding="utf-8") as lines:
        lines.write(f"\n{finished.model_dump_json()}\n")  # begins a line of its own, even after one that was cut off
        lines.flush()
        os.fsync(lines.fileno())


def complete_record(out: Path) -> None:
    """Takes all finished files over into the record of a folder; to be called under `lock_record`.

    Raises:
        RunError: The folder cannot be written.
    """
    record, lines = _read_record(out), out / FINISHED_NAME
    if record is None or not lines.exists():
        return
    finished = _read_finished(lines)
    outputs = record.outputs | {file.name: file.image for file in finished}
    digests = {name: digest for file in finished for name, digest in file.sha256.items()}
    changed = record.model_copy(update={"outputs": outputs, "sha256": record.sha256 | digests})
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


def prepare_folder(out: Path, record: PredictionRecord, *, overwrite: bool) -> PredictionRecord:
    """Keeps what the same model and options made; what anything else made needs permission to be replaced.

    One folder never holds the label maps of two models: those that another one made are all removed. An interruption
    leaves either the earlier record or the new one, and with it a folder that the same call continues. To be called
    under `lock_record`.

    Args:
        out: The folder.
        record: The model and options that are to make its label maps. Its outputs come with the names of images in
            its own folder, or their paths.
        overwrite: Permission to replace label maps of this and of other models; files that no prediction wrote, or
            that were changed since, are never replaced.

    Returns:
        The record with everything that the folder is to hold.
    """
    if (out / PLAN_NAME).exists() and not (out / RECORD_NAME).exists():
        msg = f"{out} holds a plan.json that is not of a prediction, perhaps it is a run; choose another folder"
        raise RunError(msg)
    _refuse_unusable_names(out, record.outputs)
    complete_record(out)
    earlier = _read_record(out)
    made, digests = ({}, {}) if earlier is None else (earlier.outputs, earlier.sha256)
    changes = [] if earlier is None else _list_changes(earlier, record)
    if earlier is not None and not changes:
        record = _describe_images_alike(record, earlier)
    if overwrite:
        removed = _remove_verified(out, (*record.outputs, *(made if changes else ())), digests)
        digests = {name: digest for name, digest in digests.items() if name not in removed}
    else:
        _refuse_changes(out, changes)
        _refuse_strangers(out, record.outputs, made, digests)
    if changes:
        return record
    return record.model_copy(update={"outputs": made | record.outputs, "sha256": digests})


def _describe_images_alike(record: PredictionRecord, earlier: PredictionRecord) -> PredictionRecord:
    if record.images in (DICOM_SOURCE, earlier.images):  # images of series have identifiers, not paths
        return record.model_copy(update={"images": earlier.images})
    folder, old = record.images, earlier.images
    outputs = {
        name: join_url(folder, image) if is_url(folder) else describe_image(Path(folder) / image, old)
        for name, image in record.outputs.items()
    }
    return record.model_copy(update={"images": earlier.images, "outputs": outputs})


def _read_record(out: Path) -> PredictionRecord | None:
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
        if _find_name_problem(name, endings) is not None:
            msg = f"must name label maps in the folder itself (got {describe_name(name)})"
            raise ValueError(msg)
    return named


@lru_cache(maxsize=2**18)
def _find_name_problem(name: str, endings: tuple[str, ...]) -> str | None:
    """Returns why a name cannot be that of a file of a prediction, by the same rule as the names of cases."""
    ending = max((end for end in endings if name.lower().endswith(end)), key=len, default=None)
    if ending is None:
        return "it has no ending of a label map"
    taken = next((part for part in list_parts(name) if part in (RECORD_NAME, PLAN_NAME, QUALITY_NAME)), None)
    return find_name_problem(name[: -len(ending)]) if taken is None else f"{taken} has another meaning there"


def _refuse_unusable_names(out: Path, outputs: Iterable[str]) -> None:
    for name in outputs:
        problem = _find_name_problem(name, OUTPUT_ENDINGS)
        if problem is not None:
            msg = f"{out} cannot hold a label map {describe_name(name)}: {problem}; rename the image"
            raise RunError(msg)


def _remove_verified(out: Path, names: Iterable[str], digests: Mapping[str, str]) -> set[str]:
    """Removes files that predictions made; refuses, before anything is removed, if others are among them or some were
    changed since, such as corrected label maps."""
    parts = dict.fromkeys(part for name in names for part in list_parts(name))
    existing = [name for name in parts if (out / name).exists()]
    with use_local(*(out / name for name in existing)):
        others = [name for name in existing if digests.get(name) != compute_sha256(out / name)]
    if others:
        msg = (
            f"{out} holds files that label maps would replace, and --overwrite leaves {shorten_names(others)} as they "
            f"are not known to be made by a prediction, or were changed since; move them away or remove them, or "
            f"choose another folder"
        )
        raise RunError(msg)
    for name in existing:
        (out / name).unlink(missing_ok=True)
    return set(existing)


def _refuse_strangers(
    out: Path, outputs: Mapping[str, str], made: Mapping[str, str], digests: Mapping[str, str]
) -> None:
    """Files that no prediction of this kind made, or made of another image of the same name, such as x.mha of x.nii."""
    others = [name for name in outputs if name in made and made[name] != outputs[name]]
    if others:
        msg = (
            f"{out / others[0]} was made of {made[others[0]]}, not of {outputs[others[0]]} ({len(others)} in all); "
            f"choose another folder, or replace it with --overwrite"
        )
        raise RunError(msg)
    parts = dict.fromkeys(part for name in outputs for part in list_parts(name) if name not in made)
    existing = [name for name in parts if name not in digests and (out / name).exists()]
    if existing:
        msg = (
            f"{out} holds files that label maps would replace, such as {existing[0]} ({len(existing)} in all); "
            f"move them away, or choose another folder"
        )
        raise RunError(msg)


def _list_changes(earlier: PredictionRecord, record: PredictionRecord) -> list[str]:
    return [
        f"{field}: {_format(getattr(earlier, field))} there, {_format(getattr(record, field))} now"
        for field in WHAT_MAKES_LABEL_MAPS
        if getattr(earlier, field) != getattr(record, field)
    ]


def _refuse_changes(out: Path, changes: Sequence[str]) -> None:
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
        return f"{part.configuration} (folds {', '.join(part.folds)})"
    assert isinstance(part, LargestComponent | MinimumSize | FillHoles), "no other parts are compared"
    return part.describe()
