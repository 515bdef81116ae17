"""Digests of files are computed once, and anew as soon as a file may have changed."""

import hashlib
import os
import time
from pathlib import Path

import pytest
from builders.damage import show_late

from autoseg.files import checksums
from autoseg.files.checksums import RECENT_SECONDS, compute_crc32, compute_sha256

PACKAGE = Path(checksums.__file__).parents[1]


def write_old(path: Path, content: bytes, *, age_seconds: float = 100) -> None:
    path.write_bytes(content)
    moment = time.time() - age_seconds
    os.utime(path, (moment, moment))


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    read: list[Path] = []
    compute = checksums._read_sha256

    def count(path: Path) -> str:
        read.append(path)
        return compute(path)

    monkeypatch.setattr(checksums, "_read_sha256", count)
    return read


def test_the_digest_is_the_sha_256_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"weights")
    assert compute_sha256(tmp_path / "a") == hashlib.sha256(b"weights").hexdigest()


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = count_reads(monkeypatch)
    write_old(tmp_path / "a", b"weights")
    assert compute_sha256(tmp_path / "a") == compute_sha256(tmp_path / "a")
    assert read == [tmp_path / "a"]


def test_a_replaced_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = count_reads(monkeypatch)
    write_old(tmp_path / "a", b"weights")
    write_old(tmp_path / "b", b"WEIGHTS", age_seconds=50)
    before = compute_sha256(tmp_path / "a")
    (tmp_path / "b").rename(tmp_path / "a")
    assert compute_sha256(tmp_path / "a") != before
    assert len(read) == 2


def test_a_file_that_was_changed_in_place_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = count_reads(monkeypatch)
    write_old(tmp_path / "a", b"weights")
    before = compute_sha256(tmp_path / "a")
    write_old(tmp_path / "a", b"WEIGHTS", age_seconds=50)
    assert compute_sha256(tmp_path / "a") != before
    assert len(read) == 2


def test_a_replaced_file_is_read_again_while_a_network_drive_still_tells_the_old_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_old(tmp_path / "a", b"weights")
    write_old(tmp_path / "b", b"WEIGHTS", age_seconds=50)
    before, old = compute_sha256(tmp_path / "a"), (tmp_path / "a").stat()
    (tmp_path / "b").rename(tmp_path / "a")
    show_late(monkeypatch, {tmp_path / "a": old})
    assert compute_sha256(tmp_path / "a") != before


def test_files_are_hashed_here_alone() -> None:
    users = {path.name for path in PACKAGE.rglob("*.py") if "import hashlib" in path.read_text(encoding="utf-8")}
    of_texts = {
        "measurement_cache.py",
        "checkpoint.py",
        "out_of_fold.py",
        "trial_records.py",
        "synthesis.py",
        "temporary_files.py",
        "contents.py",
        "prediction_folder.py",
        "stored_array.py",
    }
    of_arrays_and_members_of_archives = {"cases.py", "model_file.py"}
    assert users == {"checksums.py", *of_texts, *of_arrays_and_members_of_archives}


@pytest.mark.parametrize("age_seconds", [0, -1000])  # now, and in the future of a clock that was put back
def test_a_file_that_may_change_within_the_resolution_of_its_time_is_read_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_seconds: float
) -> None:
    read = count_reads(monkeypatch)
    write_old(tmp_path / "a", b"weights", age_seconds=age_seconds)
    moment = (tmp_path / "a").stat().st_mtime_ns
    before = compute_sha256(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"WEIGHTS")
    os.utime(tmp_path / "a", ns=(moment, moment))  # the same inode, size and time
    assert compute_sha256(tmp_path / "a") != before
    assert len(read) == 2
    assert RECENT_SECONDS > 0


def test_checksums_continue() -> None:
    assert compute_crc32(b"def", compute_crc32(b"abc")) == compute_crc32(b"abcdef") == 0x4B8E39EF
