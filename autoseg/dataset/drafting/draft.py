"""Draft of the cases for `autoseg init`: names, order of the channels, and patients."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from autoseg.dataset.drafting.name_parts import NameParts
from autoseg.dataset.drafting.naming_conventions import CHANNEL_NAMES, COLOUR_NAMES, SPLIT_FOLDERS
from autoseg.dataset.drafting.pairing import PairedCase

BIDS_SUBJECT: Final = re.compile(r"(sub-[A-Za-z0-9]+)(_.*)?")
BIDS_ENTITY: Final = re.compile(r"(?:label|desc|roi|class)-", re.IGNORECASE)
BACKGROUND_NAMES: Final = ("background", "bg")
CHANNEL_ORDER: Final = {word: index for index, word in enumerate(CHANNEL_NAMES)}

SIDES_AND_TIMES: Final = (
    r"^(.+?)[_-]?[LR]$",
    r"^(.+?)[_-](?:left|right)$",
    r"^(.+?)[_-](?:frame|slice|ses|session|visit|scan|day|tp)[_-]?\d+$",
)
"""Patterns for `autoseg plan --group-by` in whose names several cases may belong to one patient."""

Channels = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftCase:
    """A case to be listed in dataset.json.

    Attributes:
        images: Paths in the order of the channels.
        masks: Paths by the name of the structure; a single label map may have an empty name.
        group: The patient that the case belongs to.
    """

    name: str
    images: tuple[str, ...]
    masks: Mapping[str, str]
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The cases of a dataset to be written.

    Attributes:
        channels: Channel names found in the file names; empty texts where there are none.
        left_out: The reason for each path that is not used.
    """

    cases: tuple[DraftCase, ...]
    channels: Channels
    left_out: Mapping[str, str]
    problems: tuple[str, ...]


def draft_cases(paired: Sequence[PairedCase], *, is_explicit: bool) -> Draft:
    """Names the cases, orders their channels and finds their patients.

    Args:
        paired: Cases found by the names of their files.
        is_explicit: Whether the user gave a pattern for the images; the name of a single image is then not checked.
    """
    if not paired:
        return Draft(cases=(), channels=(), left_out={}, problems=())
    found = {index: _list_channels(case) for index, case in enumerate(paired)}
    if is_explicit and all(len(case.images) == 1 for case in paired) and len(set(found.values())) > 1:
        found = dict.fromkeys(found, ("",))
    counts = Counter(found.values())
    channels, count = counts.most_common(1)[0]
    if 2 * count <= len(paired):
        return Draft(cases=(), channels=(), left_out={}, problems=(_describe_mixture(counts),))
    kept = [case for index, case in enumerate(paired) if found[index] == channels]
    left_out = {
        case.images[0].path: f"its channels are {_show(found[index])}, not {_show(channels)}"
        for index, case in enumerate(paired)
        if found[index] != channels
    }
    left_out |= {path: "background is what no mask holds" for case in kept for path in _list_backgrounds(case)}
    names, groups = _name_cases(kept), _find_groups(kept)
    cases = [_draft(case, name, group) for case, name, group in zip(kept, names, groups, strict=True)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    problems = [f"{_count(twice)} have the same name in different folders: {', '.join(twice[:5])}"] if twice else []
    cases.sort(key=lambda case: case.name)
    return Draft(cases=tuple(cases), channels=channels, left_out=left_out, problems=tuple(problems))


def name_channels(words: Channels, *, per_file: int, is_picture: bool) -> tuple[str, ...]:
    """Returns channel names for dataset.json.

    Args:
        words: Channel words in the file names, one for each file of a case.
        per_file: Number of channels in a file.
        is_picture: Whether files with three channels hold colours.
    """
    if per_file == len(COLOUR_NAMES) and is_picture and len(words) == 1:
        return COLOUR_NAMES
    if len(words) == 1 and per_file > 1:
        return tuple(f"channel_{index}" for index in range(per_file))
    if len(words) == 1:
        return (CHANNEL_NAMES.get(words[0], "image"),)
    return tuple(CHANNEL_NAMES.get(word, f"channel_{index}") for index, word in enumerate(words))


def clean_structure_name(name: str) -> str:
    """Removes the BIDS entity in front of a structure's name."""
    return BIDS_ENTITY.sub("", name).strip("_-. ") or name


def suggest_group_pattern(names: Sequence[str]) -> str | None:
    """Returns a pattern that groups several cases by patient, if all names match it."""
    for pattern in SIDES_AND_TIMES:
        patients = {match[1] for name in names if (match := re.match(pattern, name))}
        if 0 < len(patients) < len(names) and all(re.match(pattern, name) for name in names):
            return pattern
    return None


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} case{'' if len(names) == 1 else 's'}"


def _order(word: str) -> tuple[int, str]:
    return CHANNEL_ORDER.get(word, -1), word


def _list_channels(case: PairedCase) -> Channels:
    return tuple(sorted((image.channel for image in case.images), key=_order))


def _describe_mixture(counts: Mapping[Channels, int]) -> str:
    shown = ", ".join(f"{_show(channels)} ({count} cases)" for channels, count in counts.items())
    return f"cases have different channels: {shown}; no set of channels belongs to more than half of them"


def _show(channels: Channels) -> str:
    return " + ".join(CHANNEL_NAMES.get(word, word) or "unnamed" for word in channels)


def _name_cases(cases: Sequence[PairedCase]) -> list[str]:
    """Returns the names of the images, with channel or folders where that is needed to make them unique."""
    images = [_get_first(case) for case in cases]
    for names in ([image.name for image in images], [image.long_name for image in images]):
        if all(names) and len(set(names)) == len(names):
            return names
    return ["_".join([*image.folders, *filter(None, [image.name])]) or "case" for image in images]


def _get_first(case: PairedCase) -> NameParts:
    return min(case.images, key=lambda image: _order(image.channel))


def _find_groups(cases: Sequence[PairedCase]) -> list[str]:
    """Returns the BIDS subject of each case, else the outermost folder that differs, else the name without channel."""
    subjects = [_find_subject(_get_first(case).path) for case in cases]
    folders = [[part for part in _get_first(case).folders if part.lower() not in SPLIT_FOLDERS] for case in cases]
    while all(folders) and len({names[0] for names in folders}) == 1:
        folders = [names[1:] for names in folders]
    return [
        subject or (names[0] if names else _get_first(case).base)
        for case, subject, names in zip(cases, subjects, folders, strict=True)
    ]


def _find_subject(path: str) -> str | None:
    """Returns the BIDS subject in a path; None if there is none."""
    matches = (BIDS_SUBJECT.fullmatch(part) for part in PurePosixPath(path).parts)
    return next((match[1] for match in matches if match), None)


def _list_backgrounds(case: PairedCase) -> list[str]:
    return [label.path for structure, label in case.masks.items() if structure.lower() in BACKGROUND_NAMES]


def _draft(case: PairedCase, name: str, group: str) -> DraftCase:
    images = sorted(case.images, key=lambda image: _order(image.channel))
    return DraftCase(
        name=name,
        images=tuple(image.path for image in images),
        masks={
            clean_structure_name(structure): label.path
            for structure, label in case.masks.items()
            if structure.lower() not in BACKGROUND_NAMES
        },
        group=group,
    )
