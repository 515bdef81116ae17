"""Finds the cases of a layout among the files of a folder, by their names alone."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from autoseg.dataset.files import list_files, list_subfolders
from autoseg.dataset.layouts.layout import (
    CocoObjects,
    Layout,
    MaskRule,
    compile_pattern,
    may_have_many_files,
    show_pattern,
)
from autoseg.file_endings import DICOM_ENDINGS, find_ending
from autoseg.untrusted.names import describe_name

FOLDERS_OF_ARCHIVES: Final = ("__MACOSX",)
MOST_KINDS: Final = 6

Fields = tuple[tuple[str, str], ...]
Match = tuple[str, dict[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCase:
    """The files of a case, as paths relative to the folder of the dataset.

    Attributes:
        fields: Texts of the placeholders in the path of the first image.
        images: Files of the image.
        masks: Rules with their files, in the order in which they are painted; empty for a test image without labels.
        is_held_out: Whether it is a test case.
    """

    fields: Mapping[str, str]
    images: tuple[str, ...]
    masks: tuple[tuple[MaskRule | CocoObjects, tuple[str, ...]], ...]
    is_held_out: bool

    def has_files(self, *, channel_files: int) -> bool:
        """Returns whether the case has all files of the image, and labels unless it is a test image."""
        return len(self.images) >= channel_files and (bool(self.masks) or self.is_held_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutMatch:
    """The files of a folder that belong to a layout.

    Attributes:
        layout: The layout.
        cases: Cases whose files are complete.
        incomplete: First image of each case that lacks files.
        counts: Number of files by pattern.
        problems: Files that could be the same part of a case.
    """

    layout: Layout
    cases: tuple[SourceCase, ...]
    incomplete: tuple[str, ...]
    counts: Mapping[str, int]
    problems: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether there is a case to train with."""
        return any(case.masks and not case.is_held_out for case in self.cases)

    def describe(self) -> str:
        """Lists the patterns with the numbers of their files."""
        return ", ".join(f"{show_pattern(pattern)} ({count})" for pattern, count in self.counts.items())


def list_tree(root: Path) -> tuple[str, ...]:
    """Lists all files below a folder, relative to it, without hidden ones and without what macOS puts into archives.

    Raises:
        RunError: A folder may not be read.
    """
    return tuple(path.relative_to(root).as_posix() for path in _walk(root, frozenset({root.resolve()})))


def _walk(folder: Path, visited: frozenset[Path]) -> Iterator[Path]:
    yield from (path for path in list_files(folder) if path.is_file())  # no pipes
    for subfolder in list_subfolders(folder):
        target = subfolder.resolve()
        if subfolder.name not in FOLDERS_OF_ARCHIVES and target not in visited:  # a link may lead back
            yield from _walk(subfolder, visited | {target})


def match_layout(layout: Layout, paths: Sequence[str]) -> LayoutMatch:
    """Pairs the files of a layout."""
    folders = _list_dicom_folders(paths) if any(pattern.endswith("/") for pattern in layout.images) else ()
    matches = {
        pattern: _match_pattern(pattern, folders if pattern.endswith("/") else paths) for pattern in layout.patterns
    }
    first = layout.images[0]
    indices = {pattern: _index(found, of=first) for pattern, found in matches.items()}
    cases = [_build_case(layout, path, fields, indices) for path, fields in matches[first]]
    complete = [case for case in cases if case.has_files(channel_files=len(layout.images))]
    return LayoutMatch(
        layout=layout,
        cases=tuple(complete),
        incomplete=tuple(case.images[0] for case in cases if not case.has_files(channel_files=len(layout.images))),
        counts={pattern: len(found) for pattern, found in matches.items()},
        problems=tuple(
            problem for path, fields in matches[first] for problem in _find_doubles(layout, path, fields, indices)
        ),
    )


def _build_case(layout: Layout, path: str, fields: dict[str, str], indices: Mapping[str, "_Index"]) -> SourceCase:
    others = (file for pattern in layout.images[1:] for file in indices[pattern].find(fields))
    masks = tuple((rule, indices[rule.pattern].find(fields)) for rule in layout.masks)
    return SourceCase(
        fields=fields,
        images=(path, *others),
        masks=masks if all(files for _, files in masks) else (),
        is_held_out=layout.recognizes_test_image(path),
    )


def describe_tree(paths: Iterable[str]) -> str:
    """Describes the files of a folder by their places and endings, the most frequent kinds first."""
    kinds = Counter(_describe_kind(PurePosixPath(path)) for path in paths)
    shown = [f"{count} x {kind}" for kind, count in kinds.most_common(MOST_KINDS)]
    more = len(kinds) - len(shown)
    return ", ".join(shown) + (f" and {more} more kinds" if more > 0 else "") if shown else "no file at all"


def _describe_kind(path: PurePosixPath) -> str:
    ending = "".join(path.suffixes[-2:]) if path.name.lower().endswith(".gz") else path.suffix
    return describe_name("/".join((*path.parent.parts[:2], f"*{ending}")))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Index:
    """Files of a pattern by the placeholders that it shares with the images."""

    names: tuple[str, ...]
    files: Mapping[Fields, tuple[str, ...]]

    def find(self, fields: Mapping[str, str]) -> tuple[str, ...]:
        """Returns the files of a case."""
        return self.files.get(tuple((name, fields[name]) for name in self.names), ())


def _list_dicom_folders(paths: Iterable[str]) -> tuple[str, ...]:
    """Lists the folders that hold DICOM files, and those around them, each with a slash at its end."""
    parents = (parent for path in paths if find_ending(path) in DICOM_ENDINGS for parent in PurePosixPath(path).parents)
    return tuple(sorted({f"{parent}/" for parent in parents if parent.name}))


def _match_pattern(pattern: str, paths: Sequence[str]) -> list[Match]:
    expression = compile_pattern(pattern)
    found = ((path, expression.fullmatch(path)) for path in paths)
    return [(path, match.groupdict()) for path, match in found if match is not None]


def _index(matches: Sequence[Match], *, of: str) -> _Index:
    shared = set(compile_pattern(of).groupindex)
    names = tuple(sorted(shared & set(matches[0][1]))) if matches else ()
    files: dict[Fields, list[str]] = {}
    for path, fields in matches:
        files.setdefault(tuple((name, fields[name]) for name in names), []).append(path)
    return _Index(names=names, files={key: tuple(paths) for key, paths in files.items()})


def _find_doubles(layout: Layout, path: str, fields: Mapping[str, str], indices: Mapping[str, _Index]) -> list[str]:
    single = [*layout.images, *(rule.pattern for rule in layout.masks if not may_have_many_files(rule))]
    found = [indices[pattern].find(fields) for pattern in single]
    return [
        f"{describe_name(files[0])} and {describe_name(files[1])} belong to the same case; name a folder that holds "
        f"the dataset once"
        for files in found
        if len(files) > 1 and (path in files[:1] or path not in files)
    ]
