"""Pairs the images and label files of a folder, and reports how to name them where the names are ambiguous."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from autoseg.dataset.drafting.glob_roles import assign_roles
from autoseg.dataset.drafting.image_tree import list_image_tree
from autoseg.dataset.drafting.name_parts import NameParts, parse_path
from autoseg.dataset.drafting.pairing import Pairing, describe_pattern, pair_by_name
from autoseg.errors import DatasetError, Problem, quote_path

MOST_PATTERNS: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePatterns:
    """Glob patterns of images and label files; the `*` of both match the same text in a case."""

    images: str
    labels: str


def pair_tree(root: Path, patterns: FilePatterns | None) -> tuple[Pairing, list[NameParts]]:
    """Pairs all image files below a folder; returns the pairing and the files.

    Raises:
        DatasetError: There is no image at all, or a pattern matches nothing.
    """
    paths = list_image_tree(root)
    if patterns is None:
        files = [parse_path(path) for path in paths]
    else:
        files = assign_roles(paths, images=patterns.images, labels=patterns.labels)
        _check_patterns(root, patterns, files, paths)
    if not files:
        refuse(root, ["there is no image file in it"])
    return pair_by_name(files), files


def refuse(root: Path, problems: Sequence[str | Problem]) -> NoReturn:
    """Raises an error with everything that prevents a folder from becoming a dataset.

    Raises:
        DatasetError: Always.
    """
    heading = f"{root} cannot become a dataset; nothing was written:"
    different = dict.fromkeys(problems)
    raise DatasetError(heading, [Problem(text=line) if isinstance(line, str) else line for line in different])


def refuse_uncertain(root: Path, problems: Sequence[str], files: Sequence[NameParts]) -> NoReturn:
    """Raises an error with the ambiguities, the kinds of files found, and an example of the options to give.

    Raises:
        DatasetError: Always.
    """
    images = Counter(describe_pattern(file) for file in files if file.role in ("image", "unknown"))
    labels = Counter(describe_pattern(file) for file in files if file.role == "label")
    lines = list(problems) or ["no label map belongs to any image"]
    lines += [f"found {_list_patterns(images)} as images, and {_list_patterns(labels)} as label maps"]
    example = (_get_example(images, "images/*.nii.gz"), _get_example(labels, "labels/*.nii.gz"))
    lines += [
        f"name them, with * for what both names of a case have in common: autoseg init {quote_path(root)} "
        f"--images '{example[0]}' --labels '{example[1]}'"
    ]
    refuse(root, lines)


def _check_patterns(root: Path, patterns: FilePatterns, files: Sequence[NameParts], paths: Sequence[str]) -> None:
    roles = {file.role for file in files}
    problems = [
        f"{option} {pattern!r} matches none of the {len(paths)} image files; patterns are relative to the folder, "
        f"** stands for any number of folders"
        for option, pattern, role in (("--images", patterns.images, "image"), ("--labels", patterns.labels, "label"))
        if role not in roles
    ]
    if problems:
        refuse(root, problems)


def _list_patterns(patterns: Counter[str]) -> str:
    shown = [f"{pattern} ({count})" for pattern, count in patterns.most_common(MOST_PATTERNS)]
    more = len(patterns) - len(shown)
    return (", ".join(shown) + (f" and {more} more kinds" if more else "")) or "nothing"


def _get_example(patterns: Counter[str], otherwise: str) -> str:
    return min(patterns, key=lambda pattern: (-patterns[pattern], pattern)) if patterns else otherwise
