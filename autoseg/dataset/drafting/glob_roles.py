"""Assigns roles to files by the patterns `--images` and `--labels`; the parts that `*` matches name the case."""

import re
from collections.abc import Iterable
from typing import Final

from autoseg.dataset.drafting.name_parts import NameParts, parse_path, strip_any_ending

TRANSLATIONS: Final = (("**/", "(?:(.*)/)?"), ("**", "(.*)"), ("*", "([^/]*)"), ("?", "([^/])"))
UNGROUPED_TRANSLATIONS: Final = (("**/", "(?:.*/)?"), ("**", ".*"), *TRANSLATIONS[2:])
"""Used for patterns with other wildcards: there, `**` does not identify the case."""


def assign_roles(paths: Iterable[str], *, images: str, labels: str) -> list[NameParts]:
    """Parses the paths that a pattern matches. A path that both match is a label map; other paths are left out."""
    image_pattern, label_pattern = compile_glob(images), compile_glob(labels)
    files = []
    for path in paths:
        label_match, image_match = label_pattern.fullmatch(path), image_pattern.fullmatch(path)
        match = label_match or image_match
        if match is not None:
            role = "label" if label_match else "image"
            files.append(
                parse_path(path, matched_path=_join_groups(match, path), role="label" if role == "label" else "image")
            )
    return files


def compile_glob(pattern: str) -> re.Pattern[str]:
    """Compiles a glob into a regular expression with one group for each wildcard that identifies the case."""
    has_others = any(wildcard in pattern.replace("**", "") for wildcard in "*?")
    translations = UNGROUPED_TRANSLATIONS if has_others else TRANSLATIONS
    rest, expression = pattern.removeprefix("./"), ""
    while rest:
        wildcard, translation = next(
            ((text, translation) for text, translation in translations if rest.startswith(text)), (rest[0], "")
        )
        expression += translation or re.escape(wildcard)
        rest = rest[len(wildcard) :]
    return re.compile(expression)


def _join_groups(match: re.Match[str], path: str) -> str:
    """Joins the parts that wildcards match into a path without ending; the whole path if there are none."""
    end = len(strip_any_ending(path))
    parts = [
        path[start : min(stop, end)] for start, stop in map(match.span, range(1, match.re.groups + 1)) if start >= 0
    ]
    return "/".join(part for part in parts if part) or path
