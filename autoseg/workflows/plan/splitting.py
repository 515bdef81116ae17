"""Divides the cases of a dataset into folds: by a file, by groups, or at random."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.dataset import Dataset
from autoseg.dataset.folds import FOLD_COUNT, Splits, find_folds_that_split, make_splits
from autoseg.dataset.groups import group_by_pattern, read_groups
from autoseg.document import read_document
from autoseg.errors import RunError, TrainingError, describe_folds
from autoseg.run_folder import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRequest:
    """Source of the folds; with neither option, the files beside dataset.json are used, if there are any.

    Attributes:
        group_by: Regular expression that finds the group in a case's name.
        splits_file: Folds in the form of nnU-Net's splits_final.json.
    """

    group_by: str | None = None
    splits_file: Path | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """Returns the options of `autoseg plan` that express it."""
        given = (("--group-by", self.group_by), ("--splits", self.splits_file))
        return tuple(word for flag, value in given if value is not None for word in (flag, str(value)))


@dataclass(frozen=True, slots=True, kw_only=True)
class DivisionIntoFolds:
    """Folds, the group of every case if there are groups, and remarks for the user, one sentence each."""

    splits: Splits
    groups: Mapping[str, str]
    notes: tuple[str, ...]


def divide_into_folds(dataset: Dataset, request: SplitRequest) -> DivisionIntoFolds:
    """Divides a dataset into folds: by a file of folds if there is one, else by groups, else at random.

    Raises:
        DocumentError: A file of folds or groups cannot be read or has another form.
        TrainingError: Folds or groups do not fit the cases, or two sources contradict.
    """
    names = [case.name for case in dataset.cases]
    foreign = request.splits_file or dataset.splits_file
    if foreign is not None and request.group_by is not None:
        msg = f"folds come from {foreign} or from --group-by, found both; leave one of them out"
        raise TrainingError(msg)
    groups = _find_groups(dataset, names, request)
    splits = make_splits(names, foreign=foreign, groups=groups)
    notes = [] if foreign is None else [f"the {len(splits.folds)} folds are those of {foreign}"]
    notes += _describe_counts(len(names), groups if foreign is None else None, len(splits.folds), foreign)
    if foreign is not None and groups is not None:
        notes += _warn_of_torn_groups(splits, groups)
    return DivisionIntoFolds(splits=splits, groups=groups or {}, notes=tuple(notes))


def describe_duplicates(duplicates: Iterable[Sequence[str]], splits: Splits | None) -> list[str]:
    """Writes one warning for each set of cases with the same image."""
    groups = list(duplicates)
    divided = [()] * len(groups) if splits is None else find_folds_that_split(splits, groups)
    return [_describe_duplicate(cases, folds) for cases, folds in zip(groups, divided, strict=True)]


def _describe_duplicate(cases: Sequence[str], folds: Sequence[int]) -> str:
    text = f"warning: {' and '.join(cases)} have the same image"
    if not folds:
        return f"{text}; remove all but one, unless they are meant to count more"
    one = len(folds) == 1
    return (
        f"{text} and lie in different folds: {describe_folds(folds)} would validate on an image that "
        f"{'it trains' if one else 'they train'} on; remove all but one, or keep them in one fold with --group-by or "
        f"groups.json"
    )


def _find_groups(dataset: Dataset, names: Sequence[str], request: SplitRequest) -> Mapping[str, str] | None:
    if request.group_by is not None:
        return group_by_pattern(names, request.group_by)
    return None if dataset.groups_file is None else read_groups(dataset.groups_file, names)


def _describe_counts(
    case_count: int, groups: Mapping[str, str] | None, fold_count: int, foreign: Path | None
) -> list[str]:
    if groups is not None:
        group_count = len(set(groups.values()))
        if group_count < FOLD_COUNT:
            return [f"warning: only {group_count} groups of cases: cross-validation uses {fold_count} folds"]
        return [f"the images of each of {group_count} groups are kept together in one of {fold_count} folds"]
    if case_count < FOLD_COUNT and foreign is None:
        return [
            f"warning: only {case_count} cases: cross-validation uses {fold_count} folds of one case each; "
            f"scores will be very uncertain"
        ]
    return []


def _warn_of_torn_groups(splits: Splits, groups: Mapping[str, str]) -> list[str]:
    members: dict[str, list[str]] = {}
    for case, group in groups.items():
        members.setdefault(group, []).append(case)
    names = sorted(group for group, cases in members.items() if len(cases) > 1)
    divided = find_folds_that_split(splits, [members[group] for group in names])
    return [
        f"warning: the group {group!r} of groups.json is in training and validation of {describe_folds(folds)}"
        for group, folds in zip(names, divided, strict=True)
        if folds
    ]


def check_same_folds(run: RunFolder, wanted: Splits) -> None:
    """Checks that the folds of a run are those that would be made now.

    Raises:
        RunError: They differ.
    """
    if read_document(run.splits, Splits) != wanted:
        msg = (
            f"{run.root} was planned with other folds than --group-by or --splits would make now; "
            f"choose another folder with --run, or replace its plan and preprocessed data with --overwrite"
        )
        raise RunError(msg)
