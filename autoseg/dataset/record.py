"""The record of the dataset in a run: enough to find the images again, and nothing of their content."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from autoseg.dataset.cases import (
    GROUPS_NAME,
    SPLITS_NAME,
    Case,
    Dataset,
    allow_geometry_fixes,
    find_optional_file,
    learn_targets,
    pack_cases,
)
from autoseg.dataset.folder_cases import attach_instances, list_object_files
from autoseg.dicom_files import is_series_folder
from autoseg.document import MOST_RESULT_BYTES, CasePart, Document, Packed, pack_parts
from autoseg.errors import DatasetError, Problem, shorten_names
from autoseg.labels import ClassTerms, InstanceTargets, LabelScheme
from autoseg.remote.address import is_url
from autoseg.remote.mirror import find_location
from autoseg.remote.syncing import refresh_mirror
from autoseg.untrusted.names import FileStem


class RecordedCase(CasePart):
    """The files of a case; paths inside the dataset's folder are relative to it.

    Attributes:
        stamps: Size in bytes and modification time (ns) of the images, then of the label map and, where objects are
            told apart, of their numbers; they distinguish corrected files from those that were measured.
    """

    name: FileStem
    images: tuple[str, ...]
    label: str | None
    stamps: tuple[tuple[int, int], ...]


class DatasetRecord(Document):
    """A dataset as its run stores it.

    Attributes:
        source: Absolute path of the dataset's folder, or its URL.
        fix_geometry: Whether files on another grid than their case's first channel are resampled onto it.
        terms: Coded terms of classes, by their names, for results in DICOM.
        groups: Group of every case that a fold does not split; empty without groups.
        split_options: Options of `autoseg plan` that chose the folds.
        plan_calls: Options of every call of `autoseg plan` that made or extended the plan, in their order; none of
            Python, and of earlier versions.
        targets: Core and border of objects that are learned, and of which `labels` are; None for the labels themselves.
    """

    most_bytes: ClassVar[int] = MOST_RESULT_BYTES

    schema_version: Literal[1] = 1
    name: str
    source: str
    channel_names: tuple[str, ...]
    labels: LabelScheme
    file_ending: str
    cases: Annotated[Sequence[RecordedCase], Packed(RecordedCase)]
    fix_geometry: bool = False
    terms: dict[str, ClassTerms] = Field(default_factory=dict)
    groups: dict[str, str] = Field(default_factory=dict)
    split_options: tuple[str, ...] = ()
    plan_calls: tuple[tuple[str, ...], ...] = ()
    targets: InstanceTargets | None = None

    def drop_division(self) -> "DatasetRecord":
        """Returns the record of the dataset alone, without how it was planned and divided into folds."""
        return self.model_copy(update={"groups": {}, "split_options": (), "plan_calls": ()})

    def add_plan_call(self, call: tuple[str, ...] | None) -> "DatasetRecord":
        """Returns the record with the options of a call, if there was one; those of an earlier call are not added."""
        known = call is None or call in self.plan_calls
        return self if known else self.model_copy(update={"plan_calls": (*self.plan_calls, call)})


def record_dataset(dataset: Dataset) -> DatasetRecord:
    """Describes a dataset for the run folder."""
    root = dataset.root.absolute()
    return DatasetRecord(
        name=dataset.name,
        source=find_location(root),
        channel_names=dataset.channel_names,
        labels=dataset.labels,
        file_ending=dataset.file_ending,
        cases=pack_parts(RecordedCase, (_record_case(case, root) for case in dataset.cases)),
        fix_geometry=dataset.fixes_geometry,
        terms=dataset.terms,
        targets=dataset.targets,
    )


def restore_dataset(record: DatasetRecord) -> Dataset:
    """Finds the files of a recorded dataset again; a note names cases whose files have changed since.

    Raises:
        DatasetError: The folder or some files no longer exist.
    """
    root = find_source(record)
    advice = "put it back, write its new place into 'source' of the run's dataset.json, or plan a new run"
    if not root.is_dir():
        heading = f"the dataset {record.name} of this run cannot be found:"
        raise DatasetError(heading, [Problem(text=f"{record.source} has gone; {advice}")])
    cases = attach_instances(root, pack_cases(root, (_restore_case(case, root) for case in record.cases)))
    missing = [
        Problem(text=f"{path} has gone", cases=(case.name,))
        for case in cases
        for path in _list_files(case)
        if not (path.is_file() or is_series_folder(path))
    ]
    if missing:
        heading = f"files of the dataset {record.name} cannot be found; {advice}:"
        raise DatasetError(heading, missing)
    dataset = Dataset(
        name=record.name,
        root=root,
        channel_names=record.channel_names,
        labels=record.labels,
        file_ending=record.file_ending,
        cases=cases,
        splits_file=find_optional_file(root, SPLITS_NAME),
        groups_file=find_optional_file(root, GROUPS_NAME),
        notes=(),
        terms=record.terms,
    )
    if record.targets is not None:
        dataset = learn_targets(dataset, record.targets)
    dataset = replace(dataset, notes=_note_changes(record, dataset.cases))
    return allow_geometry_fixes(dataset) if record.fix_geometry else dataset


def _note_changes(record: DatasetRecord, cases: Sequence[Case]) -> tuple[str, ...]:
    stamps = [
        (planned.name, planned.stamps, _stamp_all(case)) for planned, case in zip(record.cases, cases, strict=True)
    ]
    changed = [name for name, before, now in stamps if now != before]
    resized = [name for name, before, now in stamps if [size for size, _ in now] != [size for size, _ in before]]
    if not changed:
        return ()
    found = f"files of {len(changed)} cases ({shorten_names(changed)}) have another size or time"
    if len(changed) == len(stamps) > len(resized):  # every time differs where a copy did not keep them
        sizes = f"those of {shorten_names(resized)} also another size" if resized else "but no other size"
        found = f"files of all {len(changed)} cases have another time, as in a copy, {sizes},"
    return (
        f"warning: {found} than when they were planned; if their content is another one, the plan, and arrays and "
        f"references that are there already, are still those of the earlier one: plan again with autoseg plan ... "
        f"--overwrite, or in another --run",
    )


def find_source(record: DatasetRecord) -> Path:
    """Returns the folder of a recorded dataset; of one by URL, the local folder that stands for it, brought up to date.

    Raises:
        RemoteError: The URL cannot be read.
    """
    return refresh_mirror(record.source) if is_url(record.source) else Path(record.source)


def _record_case(case: Case, root: Path) -> RecordedCase:
    return RecordedCase(
        name=case.name,
        images=tuple(_shorten(path, root) for path in case.image_paths),
        label=None if case.label_path is None else _shorten(case.label_path, root),
        stamps=_stamp_all(case),
    )


def _list_files(case: Case) -> list[Path]:
    instances = None if case.targets is None else case.instances_path
    objects = list_object_files(instances) if instances is not None and instances.is_dir() else [instances]
    return [path for path in (*case.image_paths, case.label_path, *objects) if path is not None]


def _stamp_all(case: Case) -> tuple[tuple[int, int], ...]:
    found = [path.stat() for path in _list_files(case)]
    return tuple((status.st_size, status.st_mtime_ns) for status in found)


def _shorten(path: Path, root: Path) -> str:
    path = path.absolute()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _restore_case(case: RecordedCase, root: Path) -> Case:
    return Case.from_paths(
        case.name,
        images=(root / image for image in case.images),
        label=None if case.label is None else root / case.label,
    )
