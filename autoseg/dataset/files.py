"""Lists the image files of a folder and groups them into cases.

A channel file is named `<case>_<dddd><ending>`; a file without the four digits is a case by itself. Names such as
`scan_2021.nii.gz` also end in four digits: where a label map has exactly that name, or where the digits of a group go
beyond the channels of the dataset, they belong to the name: with one channel, `img_0000` and `img_0001` are two cases.

Files of a folder are listed by their names: a path takes six times the memory, and there are one or more for each case.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from autoseg.dataset.cases import Findings
from autoseg.dicom_files import is_series_folder
from autoseg.errors import RunError
from autoseg.file_endings import HEADER_OF_VOXELS, are_rivals, find_ending, strip_ending

CHANNEL_NAME: Final = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")

ChannelFiles = dict[int, str]
"""Names of the files of a case by channel."""


def list_names(folder: Path) -> list[str]:
    """Lists names of files and links of a folder, sorted, without hidden ones (macOS archives hold a `._x` for each).

    Folders named like a DICOM file are among them: each holds the slices of one image.

    Raises:
        RunError: The folder may not be read.
    """
    try:
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".") and _is_listed(path))
    except PermissionError as error:
        msg = f"the folder {folder} may not be read; ask for permission, or copy it to a place of your own"
        raise RunError(msg) from error


def _is_listed(path: Path) -> bool:
    return not path.is_dir() or is_series_folder(path)


def list_files(folder: Path) -> list[Path]:
    """Lists the paths of the same files, in the same order.

    Raises:
        RunError: The folder may not be read.
    """
    return [folder / name for name in list_names(folder)]


def list_misnamed_folders(folder: Path) -> list[Path]:
    """Lists subfolders that are named like images, which they may have replaced."""
    folders = list_subfolders(folder)
    return [path for path in folders if find_ending(path.name) is not None and not is_series_folder(path)]


def list_subfolders(folder: Path) -> list[Path]:
    """Lists the subfolders of a folder by name, without hidden ones."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir())


def select_ending(names: Iterable[str], ending: str) -> list[str]:
    """Selects the files whose longest readable ending is the given one, regardless of case."""
    return [name for name in names if find_ending(name) == ending]


def get_stem(name: str, ending: str) -> str:
    """Returns the name of a file without its ending."""
    return name[: -len(ending)]


def find_endings(names: Iterable[str]) -> dict[str, int]:
    """Counts the files of each readable ending; a pair of header and voxels counts as the header."""
    counts: dict[str, int] = {}
    for name in names:
        ending = find_ending(name)
        if ending is not None:
            counts[ending] = counts.get(ending, 0) + 1
    return {ending: count for ending, count in counts.items() if HEADER_OF_VOXELS.get(ending) not in counts}


def describe_endings(names: Iterable[str]) -> str:
    """Describes the image files of a folder for messages."""
    counts = find_endings(names)
    return ", ".join(f"{count} x {ending}" for ending, count in sorted(counts.items())) or "no image at all"


def report_second_files(
    folder: Path, names: Sequence[str], cases: Iterable[tuple[str, Iterable[str]]], findings: Findings
) -> None:
    """Reports volumes that stand twice in a folder, such as `c.nii` and `c.nii.gz`: neither is taken silently.

    Args:
        folder: The folder.
        names: Names of its files.
        cases: Each case with the names of its files.
        findings: Receives the problems.
    """
    if len({find_ending(name) for name in names}) < 2:
        return  # as in nearly every dataset, where nothing needs to be kept of each file
    by_stem: dict[str, list[str]] = {}
    for name in names:
        by_stem.setdefault(strip_ending(name), []).append(name)
    for case, chosen in cases:
        for name in chosen:
            for other in by_stem.get(strip_ending(name), ()):
                if are_rivals(name, other):
                    what = f"{folder.name} holds {name} and {other}, which may differ; keep one of them"
                    findings.add_to_case(case, what)


def group_channels(
    names: Iterable[str], ending: str, *, channel_count: int, label_names: Collection[str], findings: Findings
) -> dict[str, ChannelFiles]:
    """Groups files into cases: files by channel index (0 for a file that is a case by itself), by the case's name.

    Training and prediction share it; `label_names` are the names of label maps, which prediction does not have.
    """
    groups: dict[str, ChannelFiles] = {}
    for name in names:
        stem = get_stem(name, ending)
        match = None if stem in label_names else CHANNEL_NAME.fullmatch(stem)
        case, channel = (match["case"], int(match["channel"])) if match else (stem, 0)
        first = groups.setdefault(case, {}).setdefault(channel, name)
        if first != name:
            findings.add_to_case(case, f"channel {channel} exists twice: {first} and {name}")
    return _undo_wrong_groups(groups, ending, channel_count=channel_count, label_names=label_names, findings=findings)


def check_links(folder: Path, groups: Mapping[str, ChannelFiles], findings: Findings) -> None:
    """Reports links of a folder that lead nowhere, and what is no file."""
    for name, files in groups.items():
        for path in map(folder.joinpath, files.values()):
            if not path.is_file() and not is_series_folder(path):
                findings.add_to_case(name, explain_missing_file(path))


def explain_missing_file(path: Path) -> str:
    """Explains why a path that is in a folder is no image file."""
    if path.exists():
        return f"{path} is a device or pipe, no image file"
    return f"{path} is a link to a file that does not exist, or to itself"


def check_channels(
    groups: dict[str, ChannelFiles], *, channel_names: Sequence[str], ending: str, findings: Findings
) -> None:
    """Checks that every case has all channels.

    If every case has exactly one file, the files are taken to hold several channels. A name may be empty.
    """
    expected = set(range(len(channel_names)))
    if all(set(files) == {0} for files in groups.values()):
        return
    for case, files in groups.items():
        for index in sorted(expected - set(files)):
            findings.add_to_case(
                case,
                f"channel {index}{_show_name(channel_names[index])} is missing: expected {case}_{index:04d}{ending}",
            )
        for index in sorted(set(files) - expected):
            findings.add_to_case(
                case,
                f"{files[index]} is superfluous: channels are numbered 0 to {len(channel_names) - 1}"
                f"{_show_name(', '.join(filter(None, channel_names)))}; move it out of the folder",
            )


def _show_name(name: str) -> str:
    return f" ({name})" if name else ""


def _find_wrong_groups(groups: dict[str, ChannelFiles], channel_count: int, label_names: Collection[str]) -> set[str]:
    """Finds groups whose digits number cases, not channels: one of them is no channel of this dataset.

    Where cases have several files each, a file too many is more likely; see `check_channels`.
    """
    numbered = {case for case, files in groups.items() if case not in label_names and max(files) >= channel_count}
    if channel_count > 1 and any(set(files) != {0} for case, files in groups.items() if case not in numbered):
        return {case for case in numbered if min(groups[case]) >= channel_count}
    return numbered


def _undo_wrong_groups(
    groups: dict[str, ChannelFiles],
    ending: str,
    *,
    channel_count: int,
    label_names: Collection[str],
    findings: Findings,
) -> dict[str, ChannelFiles]:
    result: dict[str, ChannelFiles] = {}
    wrong = _find_wrong_groups(groups, channel_count, label_names)
    if not wrong:
        return {name: groups[name] for name in sorted(groups)}
    for case, files in groups.items():
        is_wrong = case in wrong
        parts = {get_stem(file, ending): {0: file} for file in files.values()} if is_wrong else {case: files}
        for name, channels in parts.items():
            first = result.setdefault(name, channels)
            if first is not channels:
                files_of_both = (first[min(first)], channels[min(channels)])
                findings.add_to_case(
                    name, f"two files could be this case: {' and '.join(sorted(files_of_both))}; rename one"
                )
    return dict(sorted(result.items()))
