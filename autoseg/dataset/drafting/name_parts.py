"""Parses the path of a file into role, case and channel."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal

from autoseg.dataset.drafting.naming_conventions import (
    CHANNEL_NAMES,
    DERIVATIVES,
    IMAGE_FOLDERS,
    IMAGE_WORDS,
    LABEL_FOLDERS,
    LABEL_WORDS,
    TEST_FOLDERS,
    UNREADABLE_ADVICE,
)
from autoseg.file_endings import strip_ending

Role = Literal["image", "label", "unused", "unknown"]
CaseKey = tuple[tuple[str, ...], str]

SEPARATOR: Final = r"[_\-. ]"
NUMBERED_CHANNEL: Final = re.compile(r"(?P<rest>.+)_(?P<channel>\d{4})")


def _alternatives(words: Iterable[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


def _compile_end(words: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"(?P<rest>.*?)(?:^|{SEPARATOR}+)(?P<word>{_alternatives(words)})", re.IGNORECASE)


def _compile_beginning(words: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"(?P<word>{_alternatives(words)})(?:{SEPARATOR}+|(?=\d))(?P<rest>.+)", re.IGNORECASE)


ENDS: Final[tuple[tuple[Role, re.Pattern[str]], ...]] = (
    ("label", _compile_end(LABEL_WORDS)),
    ("image", _compile_end(IMAGE_WORDS)),
)
PLACES_OF_WORDS: Final[tuple[tuple[Role, re.Pattern[str]], ...]] = (
    *ENDS,
    ("label", _compile_beginning(LABEL_WORDS)),
    ("image", _compile_beginning(IMAGE_WORDS)),
)
NAMED_CHANNEL: Final = _compile_end(CHANNEL_NAMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class NameParts:
    """The parsed path of a file.

    Attributes:
        path: The path relative to the dataset's folder.
        folders: The folders of the path without those that name a role.
        name: The name of the file without its ending, and without the role and the channel at its end.
        long_name: `name` with the channel.
        stem: The name without its ending and without words that name a role, wherever they are.
        base: The stem without the channel as well.
        channel: The channel in lower case; empty where the name has none.
        in_role_folder: Whether a folder names the role.
    """

    path: str
    folders: tuple[str, ...]
    name: str
    long_name: str
    stem: str
    base: str
    channel: str
    role: Role
    in_role_folder: bool

    @property
    def case_key(self) -> CaseKey:
        """A key that is equal for all channels of a case."""
        return self.folders, self.base

    @property
    def stem_key(self) -> CaseKey:
        """A key that is equal for an image and the label map of the same name."""
        return self.folders, self.stem


def parse_path(path: str, *, matched_path: str | None = None, role: Role | None = None) -> NameParts:
    """Parses a path below the dataset's folder.

    Args:
        path: The path of the file.
        matched_path: The part of the path that the user's pattern identifies the case by; parsed in place of `path`.
        role: The role, if given by the user; the name of an image may then contain words for label maps.
    """
    spoken = PurePosixPath(path if matched_path is None else matched_path)
    folders, folder_role = _split_folders(spoken.parts[:-1])
    places = [place for place in PLACES_OF_WORDS if role != "image" or place[0] == "image"]
    stem, named = _strip_roles(strip_any_ending(spoken.name), places)
    base, channel = _split_channel(stem)
    base, named_before_channel = _strip_roles(base, places)
    long_name, _ = _strip_roles(strip_any_ending(PurePosixPath(path).name), ENDS)
    return NameParts(
        path=path,
        folders=folders,
        name=_strip_roles(_split_channel(long_name)[0], ENDS)[0],
        long_name=long_name,
        stem=stem,
        base=base,
        channel=channel,
        role=role or _choose_role(folder_role, named | named_before_channel, spoken.parts[:-1]),
        in_role_folder=folder_role != "unknown",
    )


def strip_any_ending(name: str) -> str:
    """Removes the ending of a known format, also of one that cannot be read."""
    stem = strip_ending(name)
    ending = PurePosixPath(name).suffix
    return name[: -len(ending)] if stem == name and ending.lower() in UNREADABLE_ADVICE else stem


def _split_folders(parts: tuple[str, ...]) -> tuple[tuple[str, ...], Role]:
    """Separates the folders that name a role from the others; the innermost role counts."""
    kept: list[str] = []
    role: Role = "unknown"
    for before, part in zip(("", *parts), parts, strict=False):
        name = part.lower()
        if name in TEST_FOLDERS:
            return parts, "unused"
        if name in IMAGE_FOLDERS:
            role = "image"
        elif name in LABEL_FOLDERS:
            role = "label"
        elif DERIVATIVES not in (name, before.lower()):
            kept.append(part)
    return tuple(kept), role


def _strip_roles(stem: str, places: Sequence[tuple[Role, re.Pattern[str]]]) -> tuple[str, set[Role]]:
    """Removes words that name a role; returns the rest, and the roles."""
    named: set[Role] = set()
    while True:
        for role, place in places:
            match = place.fullmatch(stem)
            if match:
                named.add(role)
                stem = match["rest"]
                break
        else:
            return stem, named


def _choose_role(folder_role: Role, named: set[Role], folders: tuple[str, ...]) -> Role:
    """Selects the role: label maps may lie in image folders, as `x_mask`, but no image lies in a label folder."""
    if folder_role in ("label", "unused"):
        return folder_role
    if "label" in named:
        return "label"
    if DERIVATIVES in (part.lower() for part in folders):
        return "unused"
    return "image" if "image" in named else folder_role


def _split_channel(stem: str) -> tuple[str, str]:
    match = NUMBERED_CHANNEL.fullmatch(stem)
    if match:
        return match["rest"], match["channel"]
    match = NAMED_CHANNEL.fullmatch(stem)
    return (match["rest"], match["word"].lower()) if match else (stem, "")
