"""Writes dataset.json for a folder: pairs files, and finds labels, channels and patients."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autoseg.dataset.cases import DESCRIPTION_NAME, GROUPS_NAME, SPLITS_NAME
from autoseg.dataset.drafting.draft import Draft, DraftCase, draft_cases, name_channels, suggest_group_pattern
from autoseg.dataset.drafting.image_tree import JOINED_FOLDER, find_reading_problem
from autoseg.dataset.files import find_endings
from autoseg.errors import RunError, VolumeError, quote_path, shorten_names
from autoseg.file_endings import PICTURE_ENDINGS, TIFF_ENDINGS, find_ending
from autoseg.processes.progress import Progress
from autoseg.run_folder import check_writable, write_text
from autoseg.volume_io import read_image
from autoseg.workflows.init.file_pairing import FilePatterns, pair_tree, refuse, refuse_uncertain
from autoseg.workflows.init.label_survey import LabelsFound, survey_label_maps
from autoseg.workflows.init.mask_survey import survey_masks

HOUNSFIELD_OF_AIR: Final = -500  # no other modality stores air as strongly negative numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRequest:
    """Options that the user chose.

    Attributes:
        patterns: Patterns of images and label maps; None recognizes them by their names.
        overwrite: Replace dataset.json, groups.json and joined label maps.
        workers: Number of processes; None chooses it from cores and free memory.
    """

    patterns: FilePatterns | None = None
    overwrite: bool = False
    workers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRow:
    """A proposed label or region.

    Attributes:
        name: Proposed name.
        values: Values in the label maps.
        cases: Number of cases in which it occurs.
        voxel_fraction: Its fraction of all voxels of all cases.
    """

    name: str
    values: tuple[int, ...]
    cases: int
    voxel_fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class InitReport:
    """Result of `autoseg init`.

    Attributes:
        dataset: Folder of the dataset.
        cases: Cases of the dataset.
        channels: Names of the channels.
        ways: Ways in which label files were assigned to images, with the number of files.
        labels: Background first.
        region_order: `regions_class_order`, where labels are regions.
        groups: Names of cases by patient; empty if each patient has one case.
        joined: Folder of the label maps joined from masks; None if there were no masks.
        left_out: Paths of ignored files by reason.
        notes: Remarks for the user, one sentence each.
    """

    dataset: Path
    cases: tuple[DraftCase, ...]
    channels: tuple[str, ...]
    ways: Mapping[str, int]
    labels: tuple[LabelRow, ...]
    region_order: tuple[int, ...]
    groups: Mapping[str, tuple[str, ...]]
    joined: Path | None
    left_out: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]


def init_dataset(folder: Path, request: InitRequest, *, progress: Progress) -> InitReport:
    """Writes dataset.json, groups.json if patients have several images, and label maps joined from masks.

    Raises:
        DatasetError: Files cannot be paired with certainty, or no label file holds labels.
        RunError: A file exists already, or the folder cannot be written.
    """
    root = _check_folder(folder, overwrite=request.overwrite)
    pairing, files = pair_tree(root, request.patterns)
    draft = draft_cases(pairing.cases, is_explicit=request.patterns is not None)
    if pairing.problems or draft.problems or not draft.cases:
        refuse_uncertain(root, (*pairing.problems, *draft.problems), files)
    cases, unreadable = _leave_out_unreadable(root, draft.cases)
    channels, channel_notes = _probe_channels(root, cases, draft)
    if _list_groups(cases):
        _check_absent(root / GROUPS_NAME, overwrite=request.overwrite)
    found = _survey(root, cases, request, progress)
    groups = _list_groups(found.cases)
    failures = {failure.case: "; ".join(problem.text for problem in failure.problems) for failure in found.failures}
    report = InitReport(
        dataset=root,
        cases=found.cases,
        channels=channels,
        ways=pairing.ways,
        labels=_make_rows(found),
        region_order=found.proposal.region_order,
        groups=groups,
        joined=root / JOINED_FOLDER if _list_structures(cases)[1:] else None,
        left_out=_sort_by_reason({**pairing.left_out, **draft.left_out, **unreadable, **failures}),
        notes=(*channel_notes, *found.proposal.notes, *_note_files(root, found, has_groups=bool(groups))),
    )
    _write(report)
    return report


def describe_dataset(report: InitReport) -> str:
    """Formats the text of dataset.json."""
    endings = _count_endings(report.cases)
    content: dict[str, object] = {
        "name": report.dataset.name,
        "channel_names": {str(index): name for index, name in enumerate(report.channels)},
        "labels": {row.name: row.values[0] if len(row.values) == 1 else list(row.values) for row in report.labels},
    }
    if report.region_order:
        content["regions_class_order"] = list(report.region_order)
    content |= {
        "numTraining": len(report.cases),
        "file_ending": max(endings, key=lambda ending: (endings[ending], ending)),
        "converted_by": "autoseg init",
        "dataset": {
            case.name: {"images": list(case.images), "label": next(iter(case.masks.values()))} for case in report.cases
        },
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _write(report: InitReport) -> None:
    """Writes dataset.json last, when everything that it refers to exists."""
    if report.groups:
        groups = {case.name: case.group for case in report.cases}
        write_text(report.dataset / GROUPS_NAME, json.dumps(groups, indent=2, ensure_ascii=False) + "\n")
    write_text(report.dataset / DESCRIPTION_NAME, describe_dataset(report))


def _check_folder(folder: Path, *, overwrite: bool) -> Path:
    if not folder.is_dir():
        msg = f"{folder} is not a folder; name the folder that holds images and label maps"
        raise RunError(msg)
    check_writable(folder)
    _check_absent(folder / DESCRIPTION_NAME, overwrite=overwrite)
    return folder.resolve()


def _check_absent(path: Path, *, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        msg = f"{path} exists already; `autoseg check {quote_path(path.parent)}` checks it, --overwrite replaces it"
        raise RunError(msg)


def _leave_out_unreadable(root: Path, cases: Sequence[DraftCase]) -> tuple[tuple[DraftCase, ...], dict[str, str]]:
    """Separates cases that have a file in a known but unsupported format."""
    kept: list[DraftCase] = []
    left_out: dict[str, str] = {}
    for case in cases:
        problems = {path: find_reading_problem(path) for path in (*case.images, *case.masks.values())}
        unreadable = {path: problem for path, problem in problems.items() if problem is not None}
        left_out |= unreadable
        if not unreadable:
            kept.append(case)
    if not kept:
        refuse(root, [f"{shorten_names(paths)}: {reason}" for reason, paths in _sort_by_reason(left_out).items()])
    return tuple(kept), left_out


def _list_structures(cases: Sequence[DraftCase]) -> list[str]:
    return sorted({structure for case in cases for structure in case.masks})


def _survey(root: Path, cases: Sequence[DraftCase], request: InitRequest, progress: Progress) -> LabelsFound:
    structures = _list_structures(cases)
    if len(structures) == 1:
        return survey_label_maps(root, cases, workers=request.workers, progress=progress)
    if "" in structures:
        whole = next(case for case in cases if "" in case.masks)
        other = next(case for case in cases if "" not in case.masks)
        problem = (
            f"{whole.name} has one label map ({whole.masks['']}), {other.name} has masks "
            f"({', '.join(other.masks.values())}); name one kind with --images and --labels"
        )
        refuse(root, [problem])
    _check_absent(root / JOINED_FOLDER, overwrite=request.overwrite)
    return survey_masks(root, cases, structures, workers=request.workers, progress=progress)


def _probe_channels(root: Path, cases: Sequence[DraftCase], draft: Draft) -> tuple[tuple[str, ...], list[str]]:
    """Names the channels after reading one image, as headers of pictures do not state the number of channels."""
    for case in cases:
        try:
            array = read_image([root / case.images[0]]).array
        except VolumeError:
            continue
        is_picture = find_ending(case.images[0]) in (*PICTURE_ENDINGS, *TIFF_ENDINGS)
        names = name_channels(draft.channels, per_file=array.shape[0], is_picture=is_picture)
        return names, _mention_ct(names, lowest=float(array.min()))
    refuse(root, [f"no image can be read, the first is {cases[0].images[0]}"])


def _mention_ct(names: Sequence[str], *, lowest: float) -> list[str]:
    if len(names) > 1 or names[0] == "CT" or lowest > HOUNSFIELD_OF_AIR:
        return []
    return [
        f'intensities go down to {lowest:g}, as in CT: if it is CT, write "CT" instead of "{names[0]}" in '
        f"channel_names, so that it is normalized by Hounsfield units"
    ]


def _list_groups(cases: Sequence[DraftCase]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, list[str]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case.name)
    has_several = any(len(names) > 1 for names in groups.values())
    return {group: tuple(names) for group, names in groups.items()} if has_several else {}


def _make_rows(found: LabelsFound) -> tuple[LabelRow, ...]:
    total = sum(survey.voxel_count for survey in found.surveys)
    rows = []
    for name, values in found.proposal.labels.items():
        counts = [survey.count_voxels(values[0]) for survey in found.surveys]
        rows.append(
            LabelRow(
                name=name,
                values=values,
                cases=sum(count > 0 for count in counts),
                voxel_fraction=sum(counts) / total,
            )
        )
    return tuple(rows)


def _count_endings(cases: Iterable[DraftCase]) -> dict[str, int]:
    return find_endings(Path(image).name for case in cases for image in case.images)


def _sort_by_reason(left_out: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    reasons: dict[str, list[str]] = {}
    for path, reason in sorted(left_out.items()):
        reasons.setdefault(reason, []).append(path)
    return {reason: tuple(paths) for reason, paths in reasons.items()}


def _note_files(root: Path, found: LabelsFound, *, has_groups: bool) -> list[str]:
    notes = []
    differing = Counter(difference for survey in found.surveys for difference in survey.grid_differences)
    names = [survey.name for survey in found.surveys if survey.grid_differences]
    if names:
        notes.append(
            f"warning: image and label map differ in {', '.join(differing)} in {len(names)} of "
            f"{len(found.cases)} cases ({shorten_names(names)}): autoseg check says how"
        )
    endings = _count_endings(found.cases)
    if len(endings) > 1:
        shown = ", ".join(f"{count} x {ending}" for ending, count in sorted(endings.items()))
        notes.append(f"warning: images have different endings ({shown}); predicted label maps get that of most of them")
    pattern = None if has_groups else suggest_group_pattern([case.name for case in found.cases])
    if pattern is not None:
        notes.append(
            f"warning: names suggest that some cases belong to one patient, which no folder shows: if so, keep them in "
            f"one fold with autoseg plan --group-by '{pattern}'"
        )
    if (root / SPLITS_NAME).is_file():
        notes.append(f"{SPLITS_NAME} exists and determines the folds")
    if (root / GROUPS_NAME).is_file() and not has_groups:
        notes.append(f"{GROUPS_NAME} exists and is kept")
    return notes
