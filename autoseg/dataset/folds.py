"""Cross-validation folds: training and validation cases."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field, model_validator

from autoseg.document import Document, Part, parse_part
from autoseg.errors import TrainingError, shorten_names
from autoseg.run_folder import ALL_CASES
from autoseg.untrusted.json_reading import read_json
from autoseg.untrusted.names import FileStem

FOLD_COUNT: Final = 5
SHUFFLE_SEED: Final = 12345  # the reference implementation's, so that its folds and ours hold the same cases

CaseNames = Annotated[tuple[FileStem, ...], Field(min_length=1)]


class Fold(Part):
    """The cases of one fold.

    Attributes:
        training: Training cases, ascending.
        validation: Held-out cases, ascending; for the fold "all" the training cases again.
    """

    training: CaseNames
    validation: CaseNames


class Splits(Document):
    """splits.json: the folds of a run; index i is fold "i"."""

    schema_version: Literal[1] = 1
    folds: Annotated[tuple[Fold, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> "Splits":
        problems = [
            problem
            for index, fold in enumerate(self.folds)
            for problem in _find_case_problems(index, training=fold.training, validation=fold.validation)
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self


def name_folds(folds: Iterable[str | int] | str | int | None) -> tuple[str, ...] | None:
    """Names the folds that a user gives: several or one, by names or numbers; None stays None."""
    if folds is None:
        return None
    return tuple(map(str, [folds] if isinstance(folds, str | int) else folds))


def make_folds(case_names: Iterable[str]) -> tuple[Fold, ...]:
    """Shuffles the cases and holds out each of five blocks once; with two to four cases, each case once.

    For five cases or more this is scikit-learn's `KFold(5, shuffle=True, random_state=12345)` over the sorted names,
    as in nnU-Net. There, fewer than five cases cannot be split at all.

    Raises:
        TrainingError: There are fewer than two cases.
    """
    names = sorted(case_names)
    if len(names) < 2:
        msg = f"folds need at least two cases, found {len(names)}; train on everything with --fold {ALL_CASES}"
        raise TrainingError(msg)
    order = np.arange(len(names))
    np.random.RandomState(SHUFFLE_SEED).shuffle(order)
    blocks = np.array_split(order, min(FOLD_COUNT, len(names)))
    return tuple(_hold_out(names, set(block.tolist())) for block in blocks)


def make_group_folds(groups: Mapping[str, str]) -> tuple[Fold, ...]:
    """Holds out whole groups: five folds, or as many as there are groups, with about the same number of cases each.

    Groups are shuffled, then assigned by falling size, each to the fold that holds out the fewest cases so far. The
    folds' sizes differ by at most the size of the largest group.

    Args:
        groups: Name of the group of every case.

    Raises:
        TrainingError: There are fewer than two groups.
    """
    members: dict[str, list[str]] = {}
    for case in sorted(groups):
        members.setdefault(groups[case], []).append(case)
    if len(members) < 2:
        msg = (
            f"folds need at least two groups of cases, found {len(members)} ({shorten_names(sorted(members))}); "
            f"group more finely, or leave the grouping out"
        )
        raise TrainingError(msg)
    order = np.arange(len(members))
    np.random.RandomState(SHUFFLE_SEED).shuffle(order)
    names = sorted(members)
    shuffled = [members[names[index]] for index in order]
    held_out: list[list[str]] = [[] for _ in range(min(FOLD_COUNT, len(members)))]
    for group in sorted(shuffled, key=len, reverse=True):
        min(held_out, key=len).extend(group)
    everything = sorted(groups)
    places = {case: place for place, case in enumerate(everything)}
    return tuple(_hold_out(everything, {places[case] for case in block}) for block in held_out)


def make_splits(
    case_names: Sequence[str], *, foreign: Path | None = None, groups: Mapping[str, str] | None = None
) -> Splits:
    """Makes the folds of a run: those of a file in the format of nnU-Net's splits_final.json if given, else by group if
    there are groups, else by `make_folds`.

    Raises:
        DocumentError: The foreign file cannot be read or has another form.
        TrainingError: The foreign file does not fit the cases, or there are fewer than two cases or groups.
    """
    if foreign is not None:
        return read_foreign_splits(foreign, case_names)
    return Splits(folds=make_folds(case_names) if groups is None else make_group_folds(groups))


def find_folds_that_split(splits: Splits, groups: Iterable[Sequence[str]]) -> list[tuple[int, ...]]:
    """Returns, for each group of cases, the indices of folds with some of them in training and others in validation."""
    groups = list(groups)
    wanted = {case for cases in groups for case in cases}
    parts = [(wanted.intersection(fold.training), wanted.intersection(fold.validation)) for fold in splits.folds]
    return [
        tuple(
            index
            for index, (training, validation) in enumerate(parts)
            if not training.isdisjoint(cases) and not validation.isdisjoint(cases)
        )
        for cases in groups
    ]


def select_fold(splits: Splits, name: str) -> Fold:
    """Returns fold "0", "1", ... or, for "all", every case as training and validation case.

    Raises:
        TrainingError: There is no such fold.
    """
    if name == ALL_CASES:
        everything = tuple(sorted({case for fold in splits.folds for case in (*fold.training, *fold.validation)}))
        return Fold(training=everything, validation=everything)
    names = [str(index) for index in range(len(splits.folds))]
    if name not in names:
        msg = f"the fold must be one of {', '.join(names)} or {ALL_CASES}, found {name!r}"
        raise TrainingError(msg)
    return splits.folds[int(name)]


class _ForeignFold(Part):
    train: tuple[str, ...]
    val: tuple[str, ...]


class _ForeignSplits(Part):
    folds: tuple[_ForeignFold, ...]


def read_foreign_splits(path: Path, case_names: Sequence[str]) -> Splits:
    """Reads nnU-Net's splits_final.json (a list of {"train": [...], "val": [...]}) and checks it.

    Raises:
        DocumentError: The file cannot be read or has another form.
        TrainingError: It names unknown cases, leaves cases out, has an empty or an overlapping fold.
    """
    foreign = parse_part({"folds": read_json(path)}, _ForeignSplits, where=path.name).folds
    problems = [problem for index, fold in enumerate(foreign) for problem in _find_fold_problems(index, fold)]
    mentioned = {case for fold in foreign for case in (*fold.train, *fold.val)}
    unknown, missing = sorted(mentioned - set(case_names)), sorted(set(case_names) - mentioned)
    if unknown:
        problems.append(f"unknown cases: {shorten_names(unknown)}")
    if missing:
        problems.append(f"cases of the dataset in no fold: {shorten_names(missing)}")
    if problems:
        msg = f"{path} does not fit the dataset: {'; '.join(problems)}; correct the file"
        raise TrainingError(msg)
    folds = tuple(Fold(training=tuple(sorted(fold.train)), validation=tuple(sorted(fold.val))) for fold in foreign)
    return Splits(folds=folds)


def _hold_out(names: Sequence[str], held_out: set[int]) -> Fold:
    return Fold(
        training=tuple(name for index, name in enumerate(names) if index not in held_out),
        validation=tuple(name for index, name in enumerate(names) if index in held_out),
    )


def _find_fold_problems(index: int, fold: _ForeignFold) -> list[str]:
    problems = _find_case_problems(index, train=fold.train, val=fold.val)
    return problems + [f"fold {index}: {part!r} is empty" for part in ("train", "val") if not getattr(fold, part)]


def _find_case_problems(index: int, **parts: Sequence[str]) -> list[str]:
    """Finds cases in both parts of a fold, and cases that a part names twice."""
    first, second = parts
    both = sorted(set(parts[first]) & set(parts[second]))
    problems = [f"fold {index} has {shorten_names(both)} in both {first!r} and {second!r}"] if both else []
    for name, cases in parts.items():
        twice = sorted(case for case, count in Counter(cases).items() if count > 1)
        if twice:
            problems.append(f"fold {index} has {shorten_names(twice)} twice in {name!r}")
    return problems
