"""Finds the series below a folder, and selects among them."""

import fnmatch
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autoseg.dicom_files import is_dicom
from autoseg.errors import VolumeError, shorten_names
from autoseg.file_endings import DICOM_ENDINGS
from autoseg.geometry import FloatTriple
from autoseg.remote.local_files import use_local
from autoseg.volume_io.dicom.headers import SliceHeader, find_object_kind, read_slice_header

LOCALIZER: Final = "LOCALIZER"

Identity = tuple[str, FloatTriple | None]
"""UID and place of an image: some programs give one UID to all slices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomSeries:
    """Images that a scanner made as one series.

    Attributes:
        uid: Its identifier, which the archive knows.
        slices: Headers of its files in no order, without copies.
    """

    uid: str
    slices: tuple[SliceHeader, ...]

    @property
    def study(self) -> str:
        """The UID of the study."""
        return self.slices[0].study

    @property
    def number(self) -> str:
        """The series number as text; empty if there is none."""
        return self.slices[0].series_number

    @property
    def description(self) -> str:
        """The description; empty if there is none."""
        return self.slices[0].description

    def describe(self) -> str:
        """Number, description, modality and size for messages."""
        first = self.slices[0]
        from autoseg.untrusted.names import describe_name  # loads pydantic

        named = " ".join(filter(None, [self.number, describe_name(self.description) if self.description else ""]))
        count = sum(header.frame_count for header in self.slices)
        return f"series {named or self.uid} ({first.modality or 'no modality'}, {count} slice{'s' * (count != 1)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSeries:
    """The series below a folder.

    Attributes:
        series: Series of images, ordered by their number.
        unreadable: Files that should be images and cannot be read, and folders, each with the reason.
        notes: Files that were left out, and series whose values are inverted; one sentence for each reason.
    """

    series: tuple[DicomSeries, ...]
    unreadable: dict[Path, str]
    notes: tuple[str, ...]


def find_series(place: Path) -> FoundSeries:
    """Finds all series of images in a folder and its subfolders, or that of one file.

    Localizers, colours and objects without an image are left out, and copies of an image count once: files with its
    identifier at its place.
    """
    left_out: Counter[str] = Counter()
    unreadable: dict[Path, str] = {}

    def note_folder(error: OSError) -> None:
        reason = f"{error.filename} cannot be listed: {error.strerror}; ask for permission, or move the folder away"
        unreadable[Path(error.filename)] = reason

    found: dict[str, dict[Identity, SliceHeader]] = defaultdict(dict)
    for path in iterate_dicom_files(place, on_error=note_folder):
        kind = find_object_kind(path)
        header = None
        if kind is None:
            try:
                header = read_slice_header(path)
                kind = _find_kind_left_out(header, found)
            except VolumeError as error:
                unreadable[path] = str(error)
                continue
        if kind is not None:
            left_out[kind] += 1
        elif header is not None:
            found[header.series][_identify(header)] = header
    series = [DicomSeries(uid=uid, slices=tuple(headers.values())) for uid, headers in found.items()]
    return FoundSeries(
        series=tuple(sorted(series, key=_get_order)),
        unreadable=unreadable,
        notes=_describe_found(left_out, [one for one in series if any(header.is_inverted for header in one.slices)]),
    )


def find_file_series(path: Path, ending: str, *, channel_count: int) -> tuple[DicomSeries, ...]:
    """Finds the series that a file is; none where the training images, of this ending, were DICOM or had channels."""
    may_be = path.is_file() and channel_count == 1 and ending not in DICOM_ENDINGS
    return find_series(path).series if may_be else ()


def _describe_found(left_out: Counter[str], inverted: Sequence[DicomSeries]) -> tuple[str, ...]:
    notes = []
    if left_out:
        listed = ", ".join(f"{count} x {kind}" for kind, count in left_out.items())
        notes.append(f"left out, as they are no slices of a volume: {listed}")
    if inverted:
        notes.append(
            f"grey values are inverted, so that bright is high, as SimpleITK does and dcm2niix does not "
            f"(MONOCHROME1): {list_series(inverted)}"
        )
    return tuple(notes)


def iterate_dicom_files(place: Path, *, on_error: Callable[[OSError], None]) -> Iterator[Path]:
    """Yields the DICOM files of a folder and its subfolders in the order of their names, without hidden ones.

    Files that cannot be opened are among them, as are links whose file is missing: they may be slices. A file by URL
    is there until the next one is asked for.

    Args:
        place: Folder, or file.
        on_error: Called where a folder cannot be listed.
    """
    if place.is_file():
        yield from [place] if is_dicom(place) else []
        return
    for root, folders, names in os.walk(place, onerror=on_error):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = (Path(root) / name for name in sorted(names) if not name.startswith("."))
        for path in filter(_may_be_slice, files):
            with use_local(path):
                yield path


def _may_be_slice(path: Path) -> bool:
    return (path.is_file() or path.is_symlink()) and is_dicom(path, if_unreadable=True)


def _find_kind_left_out(header: SliceHeader, found: dict[str, dict[Identity, SliceHeader]]) -> str | None:
    if LOCALIZER in header.image_type:
        return "localizer"
    if header.component_count > 1:
        return "colour image"
    return "copy of an image" if _identify(header) in found[header.series] else None


def _identify(header: SliceHeader) -> Identity:
    return header.instance, header.position_mm


def _get_order(series: DicomSeries) -> tuple[int, str]:
    return (int(series.number) if series.number.removeprefix("-").isdecimal() else 0, series.uid)


def select_series(series: Sequence[DicomSeries], wanted: str) -> tuple[DicomSeries, ...]:
    """Selects series by UID, by number, or by description regardless of case, in which * and ? stand for any letters.

    Raises:
        VolumeError: There is none; the message lists those that there are.
    """
    pattern = wanted.casefold()
    chosen = tuple(
        one
        for one in series
        if wanted in (one.uid, one.number, one.description) or fnmatch.fnmatchcase(one.description.casefold(), pattern)
    )
    if not chosen:
        msg = f"expected a series with the UID, number or description {wanted!r}, found {list_series(series)}"
        raise VolumeError(msg)
    return chosen


def list_series(series: Sequence[DicomSeries]) -> str:
    """Lists series for messages."""
    return shorten_names([one.describe() for one in series]) or "none"
