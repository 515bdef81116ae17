"""Writes a public dataset into the folders of autoseg, with label maps, groups and dataset.json."""

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from autoseg.dataset.cases import DESCRIPTION_NAME, GROUPS_NAME, INSTANCES
from autoseg.dataset.folder_cases import IMAGES, LABELS
from autoseg.dataset.layouts.layout import GroupTable
from autoseg.dataset.layouts.matching import LayoutMatch, SourceCase, list_tree
from autoseg.document import Document, read_document, write_document
from autoseg.errors import DatasetError, Problem, RunError, VolumeError, quote_path, shorten_names
from autoseg.processes.case_pool import compute_worker_count, list_problems, run_over_cases
from autoseg.processes.progress import Progress
from autoseg.remote.mirror import find_location
from autoseg.run_folder import check_writable, make_folder, remove_folder, write_text
from autoseg.untrusted.names import find_equal_names
from autoseg.workflows.convert.cases import (
    TEST_FOLDERS,
    ConvertedCase,
    convert_case,
    find_image_ending,
    read_source_grid,
)
from autoseg.workflows.convert.groups import find_groups
from autoseg.workflows.convert.recognition import AUTO, choose_layout

RECORD_NAME: Final = "conversion.json"
BYTES_PER_VOXEL: Final = 32  # picture, mask, label map and objects as 32-bit integers, and their comparisons
OUTPUT_NAMES: Final = (IMAGES, LABELS, INSTANCES, *TEST_FOLDERS.values(), DESCRIPTION_NAME, GROUPS_NAME)


class ConversionRecord(Document):
    """What a converted dataset was made from, so that the same call continues it.

    Attributes:
        layout: Name of the layout.
        source: Absolute path of the folder, or its URL.
    """

    schema_version: Literal[1] = 1
    layout: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionReport:
    """Result of `autoseg convert`.

    Attributes:
        layout_name: Name of the layout.
        match: The files that belong to it.
        cases: Everything that was converted.
        groups: Groups by case; empty if each case is its own.
    """

    layout_name: str
    match: LayoutMatch
    cases: tuple[ConvertedCase, ...]
    groups: Mapping[str, str]

    def list_names(self, *, held_out: bool) -> list[str]:
        """Lists the names of test or training cases."""
        cases = [case for case in self.cases if case.source.is_held_out == held_out]
        return [name for case in cases for name in case.names]

    def list_notes(self) -> tuple[str, ...]:
        """Lists what the user should know, one sentence each."""
        layout = self.match.layout
        notes = [*layout.remarks]
        if self.match.incomplete:
            names = shorten_names(self.match.incomplete)
            notes.append(f"warning: images that lack files are left out ({len(self.match.incomplete)}): {names}")
        finished = sum(case.was_there for case in self.cases)
        if finished:
            notes.append(f"{finished} of {len(self.cases)} cases were there already and are not counted below")
        if isinstance(layout.group, GroupTable) and not self.groups:
            notes.append(f"warning: no {Path(layout.group.pattern).name} tells which cases belong together")
        return (*notes, *_describe_masks(self.cases))


def convert_dataset(
    source: Path, out: Path, *, layout: str = AUTO, overwrite: bool = False, workers: int | None, progress: Progress
) -> ConversionReport:
    """Converts a dataset; repeated after an interruption, it continues.

    Args:
        source: Folder of the dataset, as its archive was unpacked.
        out: Folder to be written.
        layout: Name of the layout, or `AUTO` to recognize it.
        overwrite: Remove what an earlier conversion wrote to `out`.
        workers: Number of processes; None chooses it from cores and free memory.
        progress: Receives the progress.

    Raises:
        OptionError: There is no such layout.
        DatasetError: The files do not fit the layout, or some cannot be converted.
        RunError: `out` holds something else, or cannot be written.
    """
    root = _check_source(source, out)
    paths = list_tree(root)
    name, match = choose_layout(root, layout, paths)
    _check_names(root, match)
    _prepare(out, ConversionRecord(layout=name, source=find_location(root)), overwrite=overwrite)
    cases = _convert_cases(root, out, match, workers=workers, progress=progress)
    groups = find_groups(match.layout, [case for case in cases if not case.source.is_held_out], root, paths)
    report = ConversionReport(layout_name=name, match=match, cases=cases, groups=groups)
    if groups:
        write_text(out / GROUPS_NAME, json.dumps(groups, indent=2, ensure_ascii=False) + "\n")
    write_text(out / DESCRIPTION_NAME, describe_dataset(report, name=out.resolve().name))
    return report


def describe_dataset(report: ConversionReport, *, name: str) -> str:
    """Formats the text of dataset.json."""
    layout = report.match.layout
    labels = {key: list(value) if isinstance(value, tuple) else value for key, value in layout.labels.items()}
    content: dict[str, object] = {
        "name": name,
        "description": layout.title,
        "reference": layout.reference,
        "channel_names": {str(index): channel for index, channel in enumerate(layout.channels)},
        "labels": {"background": 0} | labels,
    }
    if any(isinstance(value, tuple) for value in layout.labels.values()):
        content["regions_class_order"] = [
            value[0] if isinstance(value, tuple) else value for value in layout.labels.values()
        ]
    content |= {
        "numTraining": len(report.list_names(held_out=False)),
        "file_ending": find_image_ending(report.match.cases[0], layout),
        "converted_by": f"autoseg convert --layout {report.layout_name}",
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _check_source(source: Path, out: Path) -> Path:
    if not source.is_dir():
        msg = f"{source} is not a folder; name the folder into which the archive of the dataset was unpacked"
        raise RunError(msg)
    root, target = source.resolve(), out.resolve()
    if root.is_relative_to(target) or target.is_relative_to(root):
        msg = f"{out} must lie outside of {source}, and not around it; choose another folder"
        raise RunError(msg)
    check_writable(out)
    return root


def _check_names(root: Path, match: LayoutMatch) -> None:
    names = Counter(match.layout.name_case(case.fields) for case in match.cases)
    equal = find_equal_names(names)
    twice = sorted(name for name, count in names.items() if count > 1)
    endings = {find_image_ending(case, match.layout) for case in match.cases}
    problems = [f"{' and '.join(group)} are one name on Windows and macOS" for group in equal]
    problems += [f"several images become the case {name}" for name in twice]
    if len(endings) > 1:
        problems.append(f"all images must have the same ending, found {', '.join(sorted(endings))}; convert some first")
    if problems:
        msg = f"{root} cannot be converted:"
        raise DatasetError(msg, [Problem(text=text) for text in problems])


def _prepare(out: Path, record: ConversionRecord, *, overwrite: bool) -> None:
    """Checks that the folder is empty or holds the same conversion, unfinished; empties it to begin again."""
    earlier = out / RECORD_NAME
    holds_files = out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir())
    if holds_files and not earlier.is_file():
        msg = f"{out} holds files that no conversion wrote; choose a new folder"
        raise RunError(msg)
    if earlier.is_file() and overwrite:
        _remove_earlier(out)
    elif (out / DESCRIPTION_NAME).exists():
        check = f"`autoseg check {quote_path(out)}`"
        msg = f"{out / DESCRIPTION_NAME} exists already; {check} checks it, --overwrite replaces it"
        raise RunError(msg)
    elif earlier.is_file() and read_document(earlier, ConversionRecord) != record:
        msg = (
            f"{out} holds an unfinished conversion of another dataset; --overwrite replaces it, or choose a new folder"
        )
        raise RunError(msg)
    write_document(make_folder(out) / RECORD_NAME, record)


def _remove_earlier(out: Path) -> None:
    for path in (out / name for name in OUTPUT_NAMES):
        if path.is_dir() and not path.is_symlink():
            remove_folder(path)
        else:
            path.unlink(missing_ok=True)


def _convert_cases(
    root: Path, out: Path, match: LayoutMatch, *, workers: int | None, progress: Progress
) -> tuple[ConvertedCase, ...]:
    convert: Callable[[SourceCase], ConvertedCase] = partial(convert_case, layout=match.layout, root=root, out=out)
    jobs = [(match.layout.name_case(case.fields), case) for case in match.cases]
    count = compute_worker_count(
        requested=workers, case_count=len(jobs), bytes_per_case=_estimate_bytes(root, match.cases)
    )
    outcome = run_over_cases(convert, jobs, workers=count, label="Converting", progress=progress)
    if outcome.failures:
        heading = (
            f"{len(outcome.failures)} of {len(jobs)} cases of {root} cannot be converted; correct the files or move "
            f"them away, then repeat the command:"
        )
        raise DatasetError(heading, list_problems(outcome.failures))
    return outcome.results


def _estimate_bytes(root: Path, cases: Sequence[SourceCase]) -> int:
    """Estimates the memory for a case from the first image, of which its conversion warns."""
    reading = logging.getLogger("autoseg.volume_io")
    level = reading.level
    reading.setLevel(logging.ERROR)
    try:
        return math.prod(read_source_grid(root / cases[0].images[0]).shape_voxels) * BYTES_PER_VOXEL
    except VolumeError:
        return 0
    finally:
        reading.setLevel(level)


def _describe_masks(cases: Sequence[ConvertedCase]) -> list[str]:
    grey, total = sum(case.grey_pixels for case in cases), sum(case.mask_pixels for case in cases)
    objects, shared = sum(case.object_count for case in cases), sum(case.shared_pixels for case in cases)
    crowds, moved = sum(case.crowd_count for case in cases), sum(case.has_moved for case in cases)
    notes = []
    if grey:
        notes.append(
            f"warning: {grey} pixels of masks ({grey / total:.2%}) are neither black nor white; those above half of "
            f"white became foreground"
        )
    if objects:
        notes.append(f"{objects} objects are numbered in {INSTANCES}")
    if empty := sum(case.empty_count for case in cases):
        notes.append(
            f"warning: {empty} objects are left out, as they have no pixel: their masks or outlines are empty (in COCO "
            f"a box alone), lie outside of the picture, or hold the centre of no pixel"
        )
    if crowds:
        notes.append(
            f"warning: {crowds} masks hold several objects each (iscrowd) and have no number: --task instances would "
            f"take each of their connected components for one object"
        )
    if shared:
        notes.append(f"warning: {shared} pixels belong to two objects and are given to the later one")
    if moved:
        notes.append(
            f"warning: by their headers {moved} label maps lie beside their images; their axes were turned to those of "
            f"the images, and they were written on the grids of the images: look at some of them"
        )
    return notes
