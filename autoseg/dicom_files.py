"""Detects DICOM where images were expected, and explains what to do."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from autoseg.file_endings import DICOM_ENDINGS, find_ending

FOLDER_ADVICE: Final = (
    "one file is read per channel: convert a series of DICOM slices with dcm2niix or SimpleITK, or let file_ending be "
    ".dcm and the name of its folder end in it"
)
PREAMBLE_BYTES: Final = 128  # DICOM PS3.10 7.1: a preamble of any content, then the four letters
MAGIC: Final = b"DICM"
MOST_FOLDERS: Final = 200  # the user may name a whole disk
MOST_FILES: Final = 5  # of each folder: a series has one kind of files


def explain_dicom(place: Path) -> str:
    """Returns an addition to the message that no image was found; empty if there is no DICOM.

    Subfolders are searched, and files without an ending are recognized by their content.
    """
    found = next((path for path in _list_candidates(place) if is_dicom(path)), None)
    if found is None:
        return ""
    what = "is DICOM" if place.is_file() else f"holds DICOM ({found.relative_to(place)})"
    return f"; {place.name} {what}: {FOLDER_ADVICE}"


def is_dicom(path: Path, *, if_unreadable: bool = False) -> bool:
    """Whether a file is DICOM, by its ending or, where no format has its ending, by its content.

    Args:
        path: The file.
        if_unreadable: The answer if the content is needed and cannot be read.
    """
    ending = find_ending(path.name)
    if ending is not None:
        return ending in DICOM_ENDINGS
    try:
        with path.open("rb") as stream:
            return stream.read(PREAMBLE_BYTES + len(MAGIC))[PREAMBLE_BYTES:] == MAGIC
    except OSError:
        return if_unreadable


def is_series_folder(path: Path) -> bool:
    """Whether a path is a folder that is named like a DICOM file, such as `case_0000.dcm`: it holds one series."""
    return find_ending(path.name) in DICOM_ENDINGS and path.is_dir()


def _list_candidates(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
        return
    folders = [place]
    for _ in range(MOST_FOLDERS):
        if not folders:
            return
        files, inner = _list_folder(folders.pop(0))
        yield from itertools.islice(files, MOST_FILES)
        folders += inner


def _list_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    """Lists files that may be DICOM, and subfolders; nothing if the folder may not be read."""
    try:
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return [], []
    files = [path for path in inside if path.is_file() and find_ending(path.name) in (None, *DICOM_ENDINGS)]
    return files, [path for path in inside if path.is_dir() and not path.is_symlink()]
