"""Summarizes the problems of a dataset, and proposes lines of dataset.json that fit the files."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from autoseg.dataset import Dataset
from autoseg.dataset.label_entries import BACKGROUND, IGNORE
from autoseg.errors import ChannelCount, Problem, UndeclaredValues, group_problems
from autoseg.fingerprint import CaseFingerprint
from autoseg.labels import LabelScheme

MOST_CLASSES: Final = 20  # limit of proposals: more values than this are hardly classes
MOST_VALUES: Final = 5  # shown where the values are no classes
COLOURS: Final = ("R", "G", "B")
NAMES_OF_SCALES: Final = (
    "ct",
    "nonorm",
    "zscore",
    "rescale_to_0_1",
    "rgb_to_0_1",
)  # channel names that select the normalization


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Lines of dataset.json that would correct problems.

    Attributes:
        condition: The condition under which these lines are right, in words.
        lines: Lines to paste.
    """

    condition: str
    lines: tuple[str, ...]

    def describe(self) -> str:
        """Formats condition and lines; each line stands alone."""
        return "\n".join([f"{self.condition}, write into dataset.json:", *(f"    {line}" for line in self.lines)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The problems of a dataset, grouped.

    Attributes:
        problems: One problem for each kind.
        corrections: Corrections that dataset.json may need.
    """

    problems: tuple[Problem, ...]
    corrections: tuple[Correction, ...]


def diagnose(dataset: Dataset, problems: Sequence[Problem], measured: Sequence[CaseFingerprint]) -> Diagnosis:
    """Groups the problems of all cases and proposes corrections.

    Args:
        dataset: Dataset as dataset.json describes it.
        problems: Problems of single cases.
        measured: Fingerprints of the cases without problems.
    """
    of_values = [problem for problem in problems if isinstance(problem.finding, UndeclaredValues)]
    of_channels = [problem for problem in problems if isinstance(problem.finding, ChannelCount)]
    rest = [problem for problem in problems if problem.finding is None]
    found = _collect_values(of_values, measured, dataset) if of_values else None
    corrections = [
        None if found is None else _propose_labels(found, dataset.declared_labels),
        _propose_channels([problem.finding for problem in of_channels], dataset),
    ]
    return Diagnosis(
        problems=(
            *(() if found is None else (_describe_values(of_values, found, dataset.declared_labels),)),
            *group_problems(of_channels),
            *group_problems(rest),
        ),
        corrections=tuple(correction for correction in corrections if correction is not None),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Values:
    """Undeclared values in all label maps that could be read.

    Attributes:
        cases: Number of cases by value, ascending.
        voxels: Number of voxels by value.
        unseen: Declared classes without any voxel; empty if some label maps could not be read.
    """

    cases: Mapping[int, int]
    voxels: Mapping[int, int]
    unseen: tuple[str, ...]

    @property
    def are_classes(self) -> bool:
        """Whether there are few enough values to be classes."""
        return len(self.cases) <= MOST_CLASSES


def _collect_values(problems: Sequence[Problem], measured: Sequence[CaseFingerprint], dataset: Dataset) -> _Values:
    findings = [problem.finding for problem in problems if isinstance(problem.finding, UndeclaredValues)]
    values = sorted({value for finding in findings for value in finding.undeclared})
    seen = {value for finding in findings for value in finding.voxels}
    labels = dataset.declared_labels
    unseen = [
        name
        for index, (name, members) in enumerate(zip(labels.class_names, labels.class_labels, strict=True))
        if not seen & {labels.file_values[label] for label in members}
        and not any(case.voxel_counts[index] for case in measured)
    ]
    is_complete = len(findings) + len(measured) == len(dataset.cases)
    return _Values(
        cases={value: sum(value in finding.voxels for finding in findings) for value in values},
        voxels={value: sum(finding.voxels.get(value, 0) for finding in findings) for value in values},
        unseen=tuple(unseen) if is_complete else (),
    )


def _describe_values(problems: Sequence[Problem], found: _Values, labels: LabelScheme) -> Problem:
    cases = tuple(name for problem in problems for name in problem.cases)
    known = ", ".join(str(value) for value in sorted(labels.file_values))
    text = f"label maps hold {_list_values(found)}, which dataset.json does not name: it names {known}"
    if found.unseen:
        text += f"; no label map holds {', '.join(repr(name) for name in found.unseen)}"
    if found.are_classes:
        text += "; correct the label maps or 'labels'"
    else:
        text += (
            "; so many values look like numbers of single objects (instances), or like greys of a picture that was "
            "compressed or resampled: give every voxel the value of its class"
        )
    return Problem(text=text, cases=cases)


def _list_values(found: _Values) -> str:
    shown = list(found.cases)[: MOST_CLASSES if found.are_classes else MOST_VALUES]
    listed = ", ".join(
        f"{value} ({_count(found.cases[value], 'case')}, {_count(found.voxels[value], 'voxel')})" for value in shown
    )
    rest = len(found.cases) - len(shown)
    more = f" and {rest} more up to {max(found.cases)}" if rest else ""
    return f"the {'value' if len(found.cases) == 1 else 'values'} {listed}{more}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _propose_labels(found: _Values, labels: LabelScheme) -> Correction | None:
    """Proposes names for all values; if one class is missing and one value is unnamed, they are matched."""
    if not found.are_classes:
        return None
    is_renumbered = len(found.unseen) == len(labels.classes) == len(found.cases) == 1 and not labels.has_regions
    entries: dict[str, Any] = {BACKGROUND: 0}
    for entry in labels.classes:
        values = list(found.cases) if is_renumbered else list(entry.values)
        entries[entry.name] = values[0] if len(values) == 1 else values
    if not is_renumbered:
        entries |= {_name_value(value, entries): value for value in found.cases}
    if labels.ignore_value is not None:
        entries[IGNORE] = labels.ignore_value
    lines = [_format_line("labels", entries)]
    if labels.region_write_values is not None:
        lines.append(_format_line("regions_class_order", [*labels.region_write_values, *found.cases]))
    names = "" if is_renumbered else " (with names that say more)"
    return Correction(condition=f"if the label maps are right{names}", lines=tuple(lines))


def _name_value(value: int, taken: Iterable[str]) -> str:
    name = f"label_{value}"
    return f"{name}_of_files" if name in taken else name


def _propose_channels(findings: Sequence[Any], dataset: Dataset) -> Correction | None:
    """Proposes names for the channels, if all images have the same number of channels."""
    if len(findings) != len(dataset.cases) or len({finding.found for finding in findings}) != 1:
        return None
    found, declared = findings[0].found, dataset.channel_names
    is_colour = found == len(COLOURS) and all(finding.is_picture for finding in findings)
    names = dict(enumerate(_name_channels(declared, found, is_colour=is_colour)))
    condition = _count(found, "channel") + (" (red, green and blue)" if is_colour else "")
    return Correction(condition=f"if the images are to have {condition}", lines=(_format_line("channel_names", names),))


def _name_channels(declared: Sequence[str], found: int, *, is_colour: bool) -> tuple[str, ...]:
    if len(declared) == 1 and declared[0].casefold() in NAMES_OF_SCALES:
        return (declared[0],) * found
    if is_colour:
        return COLOURS
    return (*declared[:found], *(f"channel_{index}" for index in range(len(declared), found)))


def _format_line(key: str, value: Any) -> str:
    return f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)},"
