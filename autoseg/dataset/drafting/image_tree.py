"""Lists the image files in a folder and all folders below it."""

from pathlib import Path
from typing import Final

from autoseg.dataset.drafting.naming_conventions import UNREADABLE_ADVICE
from autoseg.dataset.files import list_files, list_subfolders
from autoseg.file_endings import HEADER_OF_VOXELS, find_ending
from autoseg.run_folder import RunFolder

JOINED_FOLDER: Final = "labels_joined"
"""Folder of the label maps that were joined from masks."""


def list_image_tree(root: Path) -> list[str]:
    """Lists paths of known formats below `root`, without hidden files, joined label maps and runs.

    A pair of header and voxels counts as the header.
    """
    return [
        path.relative_to(root).as_posix()
        for path in _walk(root, {root.resolve()})
        if path.parent != root / JOINED_FOLDER
    ]


def _walk(folder: Path, visited: set[Path]) -> list[Path]:
    files = list_files(folder)
    names = {path.name.lower() for path in files}
    found = [path for path in files if _is_image(path, names)]
    for subfolder in list_subfolders(folder):
        target = subfolder.resolve()
        if target not in visited and not RunFolder(subfolder).plan.exists():  # a link may lead back
            found += _walk(subfolder, visited | {target})
    return found


def _is_image(path: Path, names: set[str]) -> bool:
    ending = find_ending(path.name)
    if ending is None:
        return path.suffix.lower() in UNREADABLE_ADVICE
    header = HEADER_OF_VOXELS.get(ending)
    return header is None or path.name[: -len(ending)].lower() + header not in names


def find_reading_problem(path: str) -> str | None:
    """Explains why a file of a known format cannot be read, and what to do; None if it can be read."""
    if find_ending(path) is not None:
        return None
    ending = Path(path).suffix.lower()
    return f"{ending} files are not read; {UNREADABLE_ADVICE[ending]}"
