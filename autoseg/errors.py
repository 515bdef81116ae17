"""Exceptions for errors that the user can correct, and the problems of single cases that some of them report.

A message says what was expected, what was found, where (file, case, field) and what to do. The command line prints
the message and exits with 1; anything that is not an `AutosegError` is a defect of autoseg and shows its traceback.

Problems of one kind that many cases share are merged into one line. Two problems are of one kind if their first lines
are the same sentence, apart from names of files and numbers. The line for all of them has, in place of these, what is
common to the names (`labelsTr/*.nii.gz`) and the range of the numbers.
"""

import itertools
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

MOST_NAMES: Final = 3
MOST_NAMES_IN_A_LINE: Final = 5
MOST_NUMBERS: Final = 3

# The number of a channel distinguishes problems, unlike other numbers.
NUMBER: Final = r"(?<!channel )(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)"
VARIABLE: Final = re.compile(
    rf"(?P<numbers>{NUMBER}(?:(?:, | x ){NUMBER})+)"
    rf"|(?P<range>{NUMBER} to {NUMBER})"
    rf"|(?P<file>[^\s/,:;()]*/[^\s,:;()]*[^\s,:;().]|[^\s/,:;()]*\w(?:\.[A-Za-z]\w*)+)"
    rf"|(?P<number>{NUMBER})"
)
MASKS: Final = {"file": "*", "range": "# to #"}


@dataclass(frozen=True, slots=True, kw_only=True)
class UndeclaredValues:
    """A label map holds values that dataset.json does not name.

    Attributes:
        voxels: Number of voxels of every value in the label map, declared or not.
        undeclared: Values that dataset.json does not name, ascending.
    """

    voxels: dict[int, int]
    undeclared: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelCount:
    """An image has another number of channels than dataset.json names.

    Attributes:
        found: Number of channels in the file or files.
        is_picture: Whether it is a colour picture, whose channels are red, green and blue.
    """

    found: int
    is_picture: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem that the user must correct.

    Attributes:
        text: A complete sentence; further lines are details.
        cases: The affected cases; none where it concerns the dataset as a whole.
        finding: The finding, if dataset.json may have to be corrected.
    """

    text: str
    cases: tuple[str, ...] = ()
    finding: UndeclaredValues | ChannelCount | None = None

    def describe(self) -> str:
        """Describes the problem with the first of its cases."""
        if not self.cases:
            return self.text
        return f"{'case ' if len(self.cases) == 1 else ''}{describe_cases(self.cases)}: {self.text}"


def describe_cases(names: Sequence[str]) -> str:
    """Returns the name of one case, or the number and the first names of several."""
    if len(names) == 1:
        return names[0]
    more = ", ..." if len(names) > MOST_NAMES else ""
    return f"{len(names)} cases ({', '.join(names[:MOST_NAMES])}{more})"


def describe_folds(folds: Sequence[str | int]) -> str:
    """Returns `fold 0`, or `folds 0, 1` for several."""
    return f"fold{'' if len(folds) == 1 else 's'} {', '.join(map(str, folds))}"


def merge_by_fold(remarks: Iterable[tuple[str, str]]) -> list[str]:
    """Returns each remark once, behind the folds that it is about.

    Args:
        remarks: Folds and remarks.
    """
    folds: dict[str, list[str]] = {}
    for fold, text in remarks:
        folds.setdefault(text, []).append(fold)
    return [f"{describe_folds(same)}: {text}" for text, same in folds.items()]


def shorten_names(names: Sequence[str]) -> str:
    """Returns the first names, and the number of further ones."""
    more = len(names) - MOST_NAMES_IN_A_LINE
    return ", ".join(names[:MOST_NAMES_IN_A_LINE]) + (f" and {more} more" if more > 0 else "")


def quote_path(path: Path) -> str:
    """Quotes a path in a command that a message proposes, so that a shell takes it for one word."""
    return subprocess.list2cmdline([str(path)]) if os.name == "nt" else shlex.quote(str(path))


def group_problems(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Merges problems of the same kind, in the order of the first of each kind; those without a case are kept."""
    kinds: dict[object, list[Problem]] = {}
    for position, problem in enumerate(problems):
        kind = _mask(_split(problem.text)[0]) if problem.cases else position
        kinds.setdefault(kind, []).append(problem)
    return tuple(same[0] if len(same) == 1 else _merge(same) for same in kinds.values())


def has_unnamed_cases(groups: Iterable[Problem]) -> bool:
    """Returns whether there are more cases than `describe` names."""
    return any(len(group.cases) > MOST_NAMES for group in groups)


def _mask(line: str) -> str:
    return VARIABLE.sub(lambda match: MASKS.get(match.lastgroup or "", "#"), line)


def _merge(same: Sequence[Problem]) -> Problem:
    cases = tuple(dict.fromkeys(name for problem in same for name in problem.cases))
    lines, details = zip(*(_split(problem.text) for problem in same), strict=True)
    text = _merge_lines(lines)
    if len(set(details)) > 1:
        text = f"{text}\n    for example in {same[0].cases[0]}:"
    if details[0]:
        text = f"{text}\n{details[0]}"
    return replace(same[0], text=text, cases=cases, finding=None)


def _split(text: str) -> tuple[str, str]:
    """Splits a text into its first line and the rest."""
    line, _, details = text.partition("\n")
    return line, details


def _merge_lines(lines: Sequence[str]) -> str:
    columns = zip(*([match[0] for match in VARIABLE.finditer(line)] for line in lines), strict=True)
    return VARIABLE.sub(lambda match: _merge_column(match, next(columns)), lines[0])


def _merge_column(match: re.Match[str], texts: Sequence[str]) -> str:
    different = list(dict.fromkeys(texts))
    if len(different) == 1:
        return different[0]
    if match.lastgroup == "file":
        return _merge_names(different)
    if match.lastgroup == "range":
        return _merge_ranges(different)
    if not all(re.fullmatch(NUMBER, text) for text in different):
        return f"{different[0]} (and others)"
    different.sort(key=float)
    return " or ".join(different) if len(different) <= MOST_NUMBERS else f"{different[0]} to {different[-1]}"


def _merge_ranges(ranges: Sequence[str]) -> str:
    """Returns the range from the lowest start to the highest end."""
    starts, ends = zip(*(text.split(" to ") for text in ranges), strict=True)
    return f"{min(starts, key=float)} to {max(ends, key=float)}"


def _merge_names(names: Sequence[str]) -> str:
    start = _find_common_start(names)
    end = _find_common_start([name[len(start) :][::-1] for name in names])[::-1]
    return f"{start}*{end}"


def _find_common_start(names: Sequence[str]) -> str:
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in same)


class AutosegError(Exception):
    """Base class of all errors that the user can correct."""


class OptionError(AutosegError):
    """The value of a command's option cannot be read."""


class DocumentError(AutosegError):
    """A JSON document is missing, invalid, incomplete, or was written by another version."""


class VolumeError(AutosegError):
    """An image or label file cannot be read or written."""


class GridError(VolumeError):
    """Two files that belong together lie on different grids of the same world."""


class PlacementError(GridError):
    """Two files that belong together hold the same voxels, and are placed or scaled differently by their headers."""


class PlanError(AutosegError):
    """No plan exists for a fingerprint, or a plan does not fit what it is used for."""


class RunError(AutosegError):
    """A run folder is missing, incomplete, or already holds what a command would write."""


class LockError(RunError):
    """The file system has no locks."""


class RemoteError(AutosegError):
    """A URL cannot be used, read or written."""


class UnreachableError(RemoteError):
    """The place of a URL did not answer in any of several tries, so that other files there cannot be reached either."""


class DeviceError(AutosegError):
    """The requested device does not exist or cannot hold the work."""


class WorkerError(AutosegError):
    """Worker processes cannot be started."""


class TrainingError(AutosegError):
    """Training cannot start or continue."""


class PredictionError(AutosegError):
    """Prediction cannot start, or images do not fit the model."""


class ExchangeError(AutosegError):
    """A model cannot be imported from or exported to another tool."""


class EvaluationError(AutosegError):
    """Predictions and references cannot be compared."""


class SelectionError(AutosegError):
    """There is nothing to select, or the selected models have changed."""


class Stopped(KeyboardInterrupt):
    """Work was stopped in good order on request; the text says what is kept and how to resume."""


class ProblemsError(AutosegError):
    """Several problems that are reported at once.

    Attributes:
        problems: All problems in the order found. The message has one line for all problems of one kind.
    """

    def __init__(self, heading: str, problems: Sequence[Problem]) -> None:
        self.heading = heading
        self.problems = tuple(problems)
        lines = (f"  - {problem.describe()}" for problem in group_problems(problems))
        super().__init__("\n".join([heading, *lines]))

    def __reduce__(self) -> tuple[type["ProblemsError"], tuple[str, tuple[Problem, ...]]]:
        """Pickles both arguments, so that a worker process can raise the error in its parent."""
        return type(self), (self.heading, self.problems)


class DatasetError(ProblemsError):
    """A dataset does not match its dataset.json."""


class CasesFailedError(ProblemsError):
    """Some cases failed, while the others were finished."""
