import hashlib
import os
import zlib
from pathlib import Path

import pytest

from autoseg.runtime import file_digests
from autoseg.runtime.file_digests import check_crc32, compute_crc32, compute_sha256


@pytest.fixture
def path(tmp_path: Path) -> Path:
    written = tmp_path / "a"
    written.write_bytes(b"first")
    return written


def test_digests_are_those_of_the_whole_file(path, monkeypatch):
    monkeypatch.setattr(file_digests, "BLOCK_BYTES", 2)
    assert compute_sha256(path) == hashlib.sha256(b"first").hexdigest()
    assert compute_crc32(path) == zlib.crc32(b"first")


@pytest.mark.parametrize("compute", [compute_sha256, compute_crc32])
def test_a_file_is_read_once_as_long_as_it_is_the_same(path, monkeypatch, compute):
    monkeypatch.setattr(file_digests, "UNCERTAIN_SECONDS", -1.0)
    first = compute(path)
    opened = []
    monkeypatch.setattr(Path, "open", lambda *arguments, **options: opened.append(arguments))
    assert compute(path) == first
    assert not opened
    monkeypatch.undo()
    path.write_bytes(b"other")
    os.utime(path, (0, 0))
    assert compute(path) != first


@pytest.mark.parametrize("compute", [compute_sha256, compute_crc32])
def test_a_file_that_was_changed_just_now_is_read_again(path, monkeypatch, compute):
    """A file system may give both versions the same times."""
    identity = file_digests._identify(path)
    monkeypatch.setattr(file_digests, "_identify", lambda _: identity)
    first = compute(path)
    path.write_bytes(b"other")
    assert compute(path) != first


def test_a_file_is_compared_with_its_checksum_if_there_is_one(path):
    check_crc32(path, zlib.crc32(b"first"))
    check_crc32(path, None)
    with pytest.raises(
        ValueError, match=r"a has changed since it was written: its CRC-32 is [0-9a-f]{8}, expected 00000000"
    ):
        check_crc32(path, 0)
