"""The rule that decides whether a name of a document may become the name of a file or folder.

Names of cases, configurations and folds, and paths in archives, may come from strangers, and runs are moved between
systems. So a name is usable if it is one component of a path on Linux, macOS and Windows alike, is visible, and is
short enough for the endings that autoseg appends.
"""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import PureWindowsPath
from typing import Annotated, Final

from pydantic import AfterValidator

LONGEST_COMPONENT_BYTES: Final = 255  # of nearly every file system
APPENDED_BYTES: Final = 60  # a temporary name adds 42, the longest ending of autoseg 14 (".previous.b2nd")
LONGEST_NAME_BYTES: Final = LONGEST_COMPONENT_BYTES - APPENDED_BYTES
RESERVED_NAMES: Final = frozenset(
    {"CON", "PRN", "AUX", "NUL", *(f"{port}{digit}" for port in ("COM", "LPT") for digit in "123456789¹²³")}
)
"""Devices of Windows, in any case and with any ending (Microsoft, "Naming Files, Paths, and Namespaces")."""
SEPARATORS: Final = re.compile(r"[/\\]+")
LINE_BREAKS: Final = frozenset({"Zl", "Zp"})  # categories of Unicode, as Cc: control characters
SHOWN_CHARACTERS: Final = 80


def find_name_problem(name: str, *, is_folder: bool = False) -> str | None:
    """Returns why a name cannot be that of a file or folder, such as "it holds '/'"; None if it can.

    Args:
        name: Any text.
        is_folder: Whether nothing is appended to it. Endings of autoseg make a space or dot at its end harmless.
    """
    problems = (_find_forbidden_character(name), _find_forbidden_form(name, is_folder=is_folder), _find_excess(name))
    return next((problem for problem in problems if problem is not None), None)


def suggest_name(name: str) -> str:
    """Returns the most similar name that can be that of a file or folder."""
    parts = [part for part in SEPARATORS.split(name) if part.strip(". ")]
    kept = "".join("_" if _is_forbidden(character) else character for character in "_".join(parts).lstrip("."))
    kept = kept.replace(":", "_").encode("utf-8", "ignore")[:LONGEST_NAME_BYTES].decode("utf-8", "ignore").strip(" .")
    if not kept:
        return "case"
    return f"_{kept}" if _is_reserved(kept) else kept


def describe_name(name: str) -> str:
    """Returns a name in quotes for messages: control characters escaped, long names shortened."""
    shown = name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}..."
    return ascii(shown) if any(_is_forbidden(character) for character in shown) else repr(shown)


def find_equal_names(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Returns groups of different names that macOS and Windows take for the same: capitals, forms of accents."""
    groups: dict[str, dict[str, None]] = {}
    for name in names:
        groups.setdefault(unicodedata.normalize("NFC", name).casefold(), {})[name] = None
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _check_folder_name(name: str) -> str:
    problem = find_name_problem(name, is_folder=True)
    if problem is not None:
        msg = f"must be able to name a folder, but {problem} (got {describe_name(name)})"
        raise ValueError(msg)
    return name


def _check_file_stem(name: str) -> str:
    problem = find_name_problem(name)
    if problem is not None:
        msg = f"must be able to name a file, but {problem} (got {describe_name(name)})"
        raise ValueError(msg)
    return name


FileStem = Annotated[str, AfterValidator(_check_file_stem)]
"""A text in a document that names files, each with an ending."""
FolderName = Annotated[str, AfterValidator(_check_folder_name)]
"""A text in a document that names a folder."""


def _find_forbidden_character(name: str) -> str | None:
    found = next((character for character in name if _is_forbidden(character)), None)
    if found is None:
        return None
    if found in "/\\":
        return f"it holds {found!r}, which separates folders"
    return f"it holds the character {found!a}"


def _is_forbidden(character: str) -> bool:
    return character in "/\\" or unicodedata.category(character) in {"Cc", "Cs", *LINE_BREAKS}


def _find_forbidden_form(name: str, *, is_folder: bool) -> str | None:
    if not name.strip():
        return "it is empty"
    if name.startswith("."):
        return "it begins with a dot, as hidden files do"
    if PureWindowsPath(name).drive:
        return "it begins with a drive of Windows"
    if _is_reserved(name):
        return "Windows reserves it for a device"
    if is_folder and name[-1] in " .":
        return "it ends with a space or dot, which Windows removes"
    return None


def _is_reserved(name: str) -> bool:
    return name.partition(".")[0].strip().upper() in RESERVED_NAMES


def _find_excess(name: str) -> str | None:
    length = len(name.encode("utf-8", "surrogatepass"))
    if length <= LONGEST_NAME_BYTES:
        return None
    return f"it has {length} bytes, more than {LONGEST_NAME_BYTES}, which leave room for endings"
