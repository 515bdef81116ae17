"""Finds the images to predict in a folder, or the channels of one file."""

import logging
from collections.abc import Iterable
from pathlib import Path

from autoseg.dataset.cases import Case, Findings
from autoseg.dataset.files import (
    CHANNEL_NAME,
    ChannelFiles,
    check_channels,
    check_links,
    describe_endings,
    get_stem,
    group_channels,
    list_misnamed_folders,
    list_names,
    list_subfolders,
    report_second_files,
    select_ending,
)
from autoseg.dicom_files import FOLDER_ADVICE, explain_dicom
from autoseg.errors import PredictionError, Problem, group_problems
from autoseg.file_endings import READABLE_ENDINGS, find_ending
from autoseg.untrusted.names import describe_name, find_name_problem

LOGGER = logging.getLogger(__name__)


def find_images(path: Path, *, channel_count: int, file_ending: str) -> tuple[tuple[Case, ...], tuple[Problem, ...]]:
    """Finds the images of a folder, or the other channels of one file.

    A folder is searched for `file_ending`; a single file may have any readable ending.

    Returns:
        The cases with all channels, and the problems of the other cases.

    Raises:
        PredictionError: There is no complete case; the message lists all problems.
    """
    findings = Findings()
    if path.is_dir():
        folder, ending = path, file_ending.lower()
        groups = _find_in_folder(folder, channel_count, ending, findings)
    elif path.is_file():
        folder = path.parent
        groups, ending = _find_channels_of(path, channel_count)
    else:
        msg = f"expected an image file or a folder of images, but {path} does not exist"
        raise PredictionError(msg)
    check_channels(groups, channel_names=[""] * channel_count, ending=ending, findings=findings)
    failed = {name for problem in findings.of_cases for name in problem.cases} | _report_unusable_names(
        groups, findings
    )
    cases = tuple(
        Case.from_paths(name, images=(folder / file for _, file in sorted(files.items())), label=None)
        for name, files in groups.items()
        if name not in failed
    )
    if not cases:
        lines = (f"  - {problem.describe()}" for problem in group_problems(findings.list_problems()))
        msg = "\n".join([f"the images in {path} cannot be predicted:", *lines])
        raise PredictionError(msg)
    return cases, tuple(findings.of_cases)


def _report_unusable_names(names: Iterable[str], findings: Findings) -> set[str]:
    unusable = {name: problem for name in names if (problem := find_name_problem(name)) is not None}
    for name, problem in unusable.items():
        findings.add_to_case(describe_name(name), f"no label map can have this name: {problem}; rename the image")
    return set(unusable)


def _find_in_folder(folder: Path, channel_count: int, ending: str, findings: Findings) -> dict[str, ChannelFiles]:
    files = list_names(folder)
    chosen = select_ending(files, ending)
    if not chosen:
        subfolders = list_subfolders(folder)
        inside = [child.name for child in subfolders if child.name.startswith("images")]
        hint = f"; did you mean its folder {inside[0]}?" if inside else ""
        if subfolders and not inside:
            hint = f"; {subfolders[0].name} is a folder, and {FOLDER_ADVICE}"
        hint = explain_dicom(folder) or hint
        msg = (
            f"{folder} holds no file ending in {ending}, as the training images have; "
            f"it holds {describe_endings(files)}{hint}"
        )
        raise PredictionError(msg)
    for path in list_misnamed_folders(folder):
        findings.add_to_case(path.name, f"{path} is a folder, though named like an image; restore the image")
    groups = group_channels(chosen, ending, channel_count=channel_count, label_names=(), findings=findings)
    report_second_files(folder, files, ((name, found.values()) for name, found in groups.items()), findings)
    _announce_numbers(groups, ending, channel_count)
    check_links(folder, groups, findings)
    return groups


def _announce_numbers(groups: dict[str, ChannelFiles], ending: str, channel_count: int) -> None:
    """Announces numbers that could be channels and are not, as such files may be channels of another model."""
    numbered = [
        name
        for name, files in groups.items()
        if (match := CHANNEL_NAME.fullmatch(name))
        and int(match["channel"]) < channel_count
        and get_stem(files[min(files)], ending) == name
    ]
    if numbered:
        LOGGER.warning(
            "%s: the numbers at the end of the names go beyond the %s of the model, so every such file is an image of "
            "its own",
            numbered[0],
            "single channel" if channel_count == 1 else f"{channel_count} channels",
        )


def _find_channels_of(path: Path, channel_count: int) -> tuple[dict[str, ChannelFiles], str]:
    """Returns the case of a file, with the channels in the same folder, by the name that it has in that folder."""
    ending = find_ending(path.name)
    if ending is None:
        msg = f"expected an image, but the ending of {path} cannot be read; readable: {' '.join(READABLE_ENDINGS)}"
        msg += explain_dicom(path)
        raise PredictionError(msg)
    others = [name for name in select_ending(list_names(path.parent), ending) if name != path.name]
    groups = group_channels(
        [path.name, *others], ending, channel_count=channel_count, label_names=(), findings=Findings()
    )
    for name, files in groups.items():
        channels = {index: file for index, file in files.items() if index < channel_count}
        if path.name in channels.values():
            return {name: channels}, ending
    return {get_stem(path.name, ending): {0: path.name}}, ending
