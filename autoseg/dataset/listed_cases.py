"""Finds cases whose files dataset.json lists: the key `dataset`, or `training` in the Decathlon's layout."""

import os
import stat
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from autoseg.dataset.cases import Case, Findings, check_case_names
from autoseg.dataset.description import Description, ListedCase
from autoseg.dataset.files import CHANNEL_NAME, list_names
from autoseg.dicom_files import FOLDER_ADVICE
from autoseg.file_endings import READABLE_ENDINGS, find_ending, strip_ending

FOLDER_PROBLEM: Final = f"is a folder; {FOLDER_ADVICE}"


def find_listed_cases(root: Path, description: Description, findings: Findings) -> tuple[Case, ...]:
    """Resolves and checks all paths."""
    channels = _ChannelNames()
    cases = tuple(_resolve(root, listed, channels) for listed in description.listed_cases or ())
    check_case_names(cases, findings, are_files=False)
    for name, count in Counter(case.name for case in cases).items():
        if count > 1:
            findings.add_to_case(name, f"is listed {count} times; give each case its own name")
    for case in cases:
        _check_files(case, findings)
    if description.channel_names is not None:
        _check_channel_counts(cases, description.channel_names, findings)
    return cases


class _ChannelNames:
    """The files of folders that are named `<case>_<dddd>`, by case and ending; each folder is listed once."""

    def __init__(self) -> None:
        self._listed: dict[Path, dict[tuple[str, str | None], list[str]]] = {}

    def find(self, image: Path) -> list[Path]:
        """Finds the channels of an image, in the order of their names."""
        if image.parent not in self._listed:
            self._listed[image.parent] = _group_names(list_names(image.parent))
        names = self._listed[image.parent].get((strip_ending(image.name), find_ending(image.name)), [])
        return [image.parent / name for name in names]


def _group_names(names: Iterable[str]) -> dict[tuple[str, str | None], list[str]]:
    groups: dict[tuple[str, str | None], list[str]] = {}
    for name in names:
        match = CHANNEL_NAME.fullmatch(strip_ending(name))
        if match is not None:
            groups.setdefault((match["case"], find_ending(name)), []).append(name)
    return groups


def _resolve(root: Path, listed: ListedCase, channels: _ChannelNames) -> Case:
    label = _make_absolute(root, listed.label)
    images = tuple(_make_absolute(root, image) for image in listed.images)
    if listed.name is not None:
        return Case.from_paths(listed.name, images=images, label=label)
    return Case.from_paths(strip_ending(label.name), images=_find_channels(images[0], channels), label=label)


def _make_absolute(root: Path, text: str) -> Path:
    return root / os.path.expandvars(text)


def _find_channels(image: Path, channels: _ChannelNames) -> tuple[Path, ...]:
    """Returns the file itself, or the channel files `<case>_<dddd>` if only `<case>` is listed (as by nnU-Net v1)."""
    if _find_path_problem(image) is None or _find_path_problem(image.parent) != FOLDER_PROBLEM:
        return (image,)
    return tuple(channels.find(image)) or (image,)


def _check_files(case: Case, findings: Findings) -> None:
    for path in (*case.image_paths, case.label_path):
        if path is None:
            continue
        problem = _find_path_problem(path)
        if problem is not None:
            findings.add_to_case(case.name, f"{str(path)!s:.300} {problem}")
        elif find_ending(path.name) is None:
            findings.add_to_case(
                case.name, f"the ending of {path} cannot be read; readable: {' '.join(READABLE_ENDINGS)}"
            )


def _find_path_problem(path: Path) -> str | None:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be opened: {error.strerror or error}"
    except ValueError:
        return "holds a null character, which no path does"
    if stat.S_ISREG(mode):
        return None
    return FOLDER_PROBLEM if stat.S_ISDIR(mode) else "is a device or pipe, no image file"


def _check_channel_counts(cases: tuple[Case, ...], channel_names: tuple[str, ...], findings: Findings) -> None:
    """Checks the number of files; if every case has exactly one, it is taken to hold all channels."""
    if all(len(case.image_paths) == 1 for case in cases):
        return
    for case in cases:
        if len(case.image_paths) != len(channel_names):
            findings.add_to_case(
                case.name,
                f"expected {len(channel_names)} image files, one for each of {', '.join(channel_names)}, "
                f"found {len(case.image_paths)}",
            )
