"""Unpacks untrusted zip files; nothing is written outside the target folder."""

import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

from autoseg.errors import ExchangeError
from autoseg.untrusted.json_reading import MOST_BYTES
from autoseg.untrusted.names import describe_name, find_equal_names, find_name_problem

MODE_SHIFT: Final = 16  # the upper half of a member's attributes is its mode on Unix
ENCRYPTED: Final = 1  # flag of a member
DOCUMENT_ENDINGS: Final = (".json", ".md")
LARGEST_EXPANSION: Final = 20  # weights shrink to 0.9, and an optimizer's state that is all zeros to nothing
UNSUSPICIOUS_BYTES: Final = 2**26


def unpack_archive(archive: Path, folder: Path, *, names: frozenset[str]) -> None:
    """Unpacks the files of a zip file that have one of the names, in their folders.

    Args:
        archive: The zip file.
        folder: An existing, empty folder.
        names: File names to unpack; all other files are skipped.

    Raises:
        ExchangeError: It is no zip file, is damaged, or any of its paths leads out of the folder (then nothing is
            unpacked), or there is too little space.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            members = [member for member in content.infolist() if not member.is_dir()]
            _check_paths(archive, members)
            wanted = [member for member in members if PurePosixPath(member.filename).name in names]
            _check_members(archive, wanted)
            _check_space(archive, wanted, folder)
            for member in wanted:
                content.extract(member, folder)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        msg = f"{archive} cannot be unpacked ({error}); copy or download it again"
        raise ExchangeError(msg) from error
    except OSError as error:
        msg = f"{archive} cannot be unpacked: {error.strerror or error}"
        raise ExchangeError(msg) from error


def _check_paths(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    escaping = [member.filename for member in members if _leads_out(member)]
    if escaping:
        msg = (
            f"{archive} is refused: {escaping[0]!r} (and {len(escaping) - 1} others) would be written outside the "
            f"folder, or is a link; no export of autoseg or nnU-Net holds such paths. Nothing was unpacked"
        )
        raise ExchangeError(msg)


def _check_members(archive: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Checks the files that are wanted: each once, readable without a password, and no larger than it may be."""
    problem = _find_name_problem(members) or _find_size_problem(members, archive.stat().st_size)
    if problem is not None:
        msg = f"{archive} is refused: {problem}. Nothing was unpacked"
        raise ExchangeError(msg)


def _find_name_problem(members: Sequence[zipfile.ZipInfo]) -> str | None:
    for member in members:
        for part in PurePosixPath(member.filename).parts:
            problem = find_name_problem(part, is_folder=True)
            if problem is not None:
                return f"the path {describe_name(member.filename)} cannot be written everywhere: {problem}"
        if member.flag_bits & ENCRYPTED:
            return f"{describe_name(member.filename)} is encrypted; ask for the file without a password"
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        return f"it holds {describe_name(twice)} more than once"
    for equal in find_equal_names(names):
        return f"{' and '.join(map(describe_name, equal))} are one file on Windows and macOS"
    return None


def _find_size_problem(members: Sequence[zipfile.ZipInfo], archive_bytes: int) -> str | None:
    """Finds what expands beyond belief; zipfile never unpacks more than a member declares."""
    for member in members:
        if member.filename.lower().endswith(DOCUMENT_ENDINGS) and member.file_size > MOST_BYTES:
            return (
                f"{describe_name(member.filename)} unpacks to {member.file_size / 2**20:.0f} MiB, more than the "
                f"{MOST_BYTES / 2**20:.0f} MiB that a document may have"
            )
    unpacked = sum(member.file_size for member in members)
    if unpacked > UNSUSPICIOUS_BYTES and unpacked > LARGEST_EXPANSION * archive_bytes:
        return (
            f"its {archive_bytes / 2**20:.1f} MiB unpack to {unpacked / 2**20:.0f} MiB, which no model does: weights "
            f"hardly shrink when they are compressed"
        )
    return None


def _leads_out(member: zipfile.ZipInfo) -> bool:
    path, foreign = PurePosixPath(member.filename), PureWindowsPath(member.filename)
    is_link = stat.S_ISLNK(member.external_attr >> MODE_SHIFT)
    return is_link or path.is_absolute() or bool(foreign.anchor) or ".." in path.parts or ".." in foreign.parts


def _check_space(archive: Path, members: list[zipfile.ZipInfo], folder: Path) -> None:
    needed, free = sum(member.file_size for member in members), shutil.disk_usage(folder).free
    if needed > free:
        msg = (
            f"{archive} unpacks to {needed / 2**30:.1f} GiB, but {folder} has {free / 2**30:.1f} GiB free; free space, "
            f"or set TMPDIR to another place"
        )
        raise ExchangeError(msg)
