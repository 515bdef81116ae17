"""Digests of files, computed once per process as long as a file has the same inode, times and size.

A SHA-256 identifies weights. A CRC-32 recognizes damage; it costs little more than reading the file.
"""

import functools
import hashlib
import time
from pathlib import Path
from typing import Final

from isal import isal_zlib

BLOCK_BYTES: Final = 2**20
# File systems count time in steps: 4 ms (the tick of Linux) to 2 s (FAT). A file that is changed within the step in
# which it was read has the same times as before, so digests of files that were changed just now are not remembered.
UNCERTAIN_SECONDS: Final = 3.0

FileIdentity = tuple[int, int, int, int, int]
"""Device, inode, size, and the times of the last changes of content and of inode."""


def compute_sha256(path: Path) -> str:
    """Computes the SHA-256 of a file.

    Raises:
        OSError: It is missing or cannot be read.
    """
    identity, is_settled = _identify(path)
    return _compute_sha256(path, identity) if is_settled else _compute_sha256.__wrapped__(path, identity)


def compute_crc32(path: Path) -> int:
    """Computes the CRC-32 of a file.

    Raises:
        OSError: It is missing or cannot be read.
    """
    identity, is_settled = _identify(path)
    return _compute_crc32(path, identity) if is_settled else _compute_crc32.__wrapped__(path, identity)


def check_crc32(path: Path, expected: int | None) -> None:
    """Checks a file against its checksum; earlier versions of autoseg have stored none.

    Raises:
        OSError: It is missing or cannot be read.
        ValueError: It has changed.
    """
    found = None if expected is None else compute_crc32(path)
    if found != expected:
        msg = f"{path.name} has changed since it was written: its CRC-32 is {found:08x}, expected {expected:08x}"
        raise ValueError(msg)


def _identify(path: Path) -> tuple[FileIdentity, bool]:
    """Returns the identity of a file, and whether a later change would show in it."""
    found = path.stat()
    identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return identity, abs(time.time() - found.st_ctime) > UNCERTAIN_SECONDS


@functools.cache
def _compute_sha256(path: Path, identity: FileIdentity) -> str:
    del identity  # part of the key
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _compute_crc32(path: Path, identity: FileIdentity) -> int:
    del identity  # part of the key
    checksum = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            checksum = isal_zlib.crc32(block, checksum)
    return checksum
