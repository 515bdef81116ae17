"""Reads a dataset: dataset.json, then the list of its cases."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from autoseg.dataset.cases import (
    GROUPS_NAME,
    SPLITS_NAME,
    Case,
    Dataset,
    Findings,
    check_case_names,
    find_optional_file,
)
from autoseg.dataset.description import Description, read_dataset_json
from autoseg.dataset.files import find_endings
from autoseg.dataset.folder_cases import IMAGES, attach_instances, find_folder_cases, list_folder
from autoseg.dataset.label_entries import check_region_order
from autoseg.dataset.listed_cases import find_listed_cases
from autoseg.errors import DatasetError, Problem, group_problems, has_unnamed_cases, quote_path

LEAST_CASES: Final = 2


def read_dataset(root: Path) -> Dataset:
    """Reads dataset.json and lists the cases, without opening any image.

    Raises:
        DatasetError: The dataset has problems; the message lists all of them.
    """
    root = root.resolve()
    dataset, problems = _list_cases(root)
    if dataset is None or problems:
        count = len(problems)
        listed = (
            f"; autoseg check {quote_path(root)} --all lists them"
            if has_unnamed_cases(group_problems(problems))
            else ""
        )
        heading = f"{root} cannot be used as a dataset ({count} {'problem' if count == 1 else 'problems'}{listed}):"
        raise DatasetError(heading, problems)
    return dataset


def read_dataset_with_problems(root: Path) -> tuple[Dataset, tuple[Problem, ...]]:
    """Reads a dataset of which some cases may have problems, such as a missing file, and returns all cases with these.

    Raises:
        DatasetError: Something is wrong with the dataset as a whole, or with the name of a case.
    """
    root = root.resolve()
    dataset, problems = _list_cases(root)
    names = set() if dataset is None else {case.name for case in dataset.cases}
    if dataset is None or not all(problem.cases and names.issuperset(problem.cases) for problem in problems):
        heading = f"{root} cannot be used as a dataset:"
        raise DatasetError(heading, problems)
    return dataset, problems


def _list_cases(root: Path) -> tuple[Dataset | None, tuple[Problem, ...]]:
    findings = Findings()
    description = None
    if root.is_dir():
        description = read_dataset_json(root, findings)
    else:
        findings.problems.append("the folder does not exist; check the path")
    dataset = None if description is None else _build_dataset(root, description, findings)
    return dataset, findings.list_problems()


def _build_dataset(root: Path, description: Description, findings: Findings) -> Dataset | None:
    ending = description.file_ending
    if description.must_find_ending:
        ending = _find_file_ending(root, description, findings)
    cases: Sequence[Case] = ()
    if description.listed_cases is not None:
        cases = find_listed_cases(root, description, findings)
    elif ending is not None:
        cases = find_folder_cases(root, description.channel_names, ending=ending, findings=findings)
        check_case_names(cases, findings, are_files=True)
    cases = attach_instances(root, cases, findings)
    _check_case_count(cases, description, findings)
    if description.labels is not None:
        check_region_order(description.labels, findings)
    if description.channel_names is None or description.labels is None or ending is None:
        return None
    return Dataset(
        name=root.name,
        root=root,
        channel_names=description.channel_names,
        labels=description.labels,
        file_ending=ending,
        cases=cases,
        splits_file=find_optional_file(root, SPLITS_NAME),
        groups_file=find_optional_file(root, GROUPS_NAME),
        notes=findings.describe_notes(),
        terms=description.terms,
    )


def _find_file_ending(root: Path, description: Description, findings: Findings) -> str | None:
    """Derives the ending from the files, as the Decathlon's dataset.json does not name it."""
    listed = description.listed_cases
    files = (
        list_folder(root / IMAGES) if listed is None else [Path(image).name for case in listed for image in case.images]
    )
    found = find_endings(files)
    if len(found) == 1:
        (ending,) = found
        if listed is None:
            findings.notes.append(f"dataset.json: file_ending is missing; {ending!r} was taken from the files")
        return ending
    if files:
        findings.problems.append(
            f"dataset.json: 'file_ending' is missing and the images do not tell it: their endings are "
            f"{', '.join(sorted(found)) or 'none that can be read'}"
        )
    elif listed is None:
        findings.problems.append(f"dataset.json: 'file_ending' is missing and {IMAGES} holds no file to tell it")
    return None


def _check_case_count(cases: Sequence[Case], description: Description, findings: Findings) -> None:
    expected = description.training_count
    if expected is not None and cases and expected != len(cases):
        findings.notes.append(f"dataset.json: numTraining is {expected}, but there are {len(cases)} cases")
    if findings.list_problems() or len(cases) >= LEAST_CASES:
        return
    found = f"only {cases[0].name}" if cases else "none"
    findings.problems.append(f"cross-validation needs at least {LEAST_CASES} labelled cases, found {found}")
