"""Unpacks untrusted zip files; nothing is written outside the target folder."""

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

from autoseg.errors import ExchangeError

MODE_SHIFT: Final = 16  # the upper half of a member's attributes is its mode on Unix


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
