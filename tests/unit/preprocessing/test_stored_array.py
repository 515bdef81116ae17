"""Damage to the file of an array is found when it is read, and never becomes wrong voxels."""

import gc
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from autoseg.errors import RunError
from autoseg.files.checksums import FileVersion
from autoseg.preprocessing import stored_array
from autoseg.preprocessing.stored_array import (
    LARGEST_UNDIVIDED_BYTES,
    REST,
    ArrayChecksums,
    LazyArray,
    list_unchecked_parts,
    open_array,
    write_array,
)

SEED = 7


def flip_bit(path: Path, position: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def make_labels() -> NDArray[np.int16]:
    labels = np.zeros((6, 20, 20), np.int16)
    labels[1:3, 4:9, 5:8] = 2
    return labels


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.float32], ArrayChecksums]:
    """An array of noise in several chunks, with a half that is all zero and takes no place in the file."""
    path = tmp_path_factory.mktemp("large") / "a.b2nd"
    array = np.random.default_rng(SEED).normal(size=(1, 64, 96, 96)).astype(np.float32)
    array[:, :32] = 0
    return path, array, write_array(path, array, (16, 48, 48))


def test_little_is_kept_of_a_file_that_was_checked() -> None:
    files, folder = 1000, Path("/data/abdomen.autoseg/preprocessed/3d_fullres")
    gc.collect()
    tracemalloc.start()
    for index in range(files):
        version = FileVersion(folder / f"case_{index:05d}.image.b2nd", 10**7 + index, 17 * 10**17 + index, 10**6)
        list_unchecked_parts(version).discard(REST)
        assert not list_unchecked_parts(version)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept / files <= 500  # with the versions 1,100


def test_every_version_of_a_file_is_checked() -> None:
    version = FileVersion(Path("/data/a.b2nd"), 1, 2, 3)
    list_unchecked_parts(version, 2).clear()
    assert list_unchecked_parts(version, 2) == set()
    for changed in ({"path": Path("/data/b.b2nd")}, {"inode": 7}, {"modified_ns": 7}, {"size_bytes": 7}):
        assert list_unchecked_parts(version._replace(**changed), 2) == {REST, 0, 1}


def test_every_flipped_bit_of_a_small_file_is_found_or_changes_nothing(tmp_path: Path) -> None:
    path, labels = tmp_path / "a.b2nd", make_labels()
    checksums = write_array(path, labels, (6, 20, 20))
    whole = path.read_bytes()
    found = 0
    for position in range(len(whole)):
        path.write_bytes(whole)
        flip_bit(path, position, position % 8)
        with pytest.raises(ValueError, match="checksum"):
            open_array(path, checksums)
        found += 1
    assert found == len(whole) > 100


def test_a_flipped_bit_of_a_large_file_is_found_where_its_chunk_is_read(
    large: tuple[Path, NDArray[np.float32], ArrayChecksums], tmp_path: Path
) -> None:
    original, array, checksums = large
    path = tmp_path / "a.b2nd"
    path.write_bytes(original.read_bytes())
    assert path.stat().st_size > LARGEST_UNDIVIDED_BYTES
    flip_bit(path, checksums.chunk_ends[-1] - 9, 3)  # in the last chunk
    opened = open_array(path, checksums, remedy="autoseg preprocess RUN")
    first = (slice(0, 1), slice(0, 40), slice(0, 48), slice(0, 48))
    assert np.array_equal(opened[first], array[first])
    with pytest.raises(RunError, match=r"a\.b2nd is damaged .*checksum.*autoseg preprocess RUN"):
        opened[:, 60:]


@pytest.mark.parametrize("position", [0, 12, 30, 45, 150, -1, -30, -100])
def test_a_flipped_bit_of_header_index_or_trailer_is_found_before_blosc2_sees_it(
    large: tuple[Path, NDArray[np.float32], ArrayChecksums], tmp_path: Path, position: int
) -> None:
    original, _, checksums = large
    path = tmp_path / "a.b2nd"
    path.write_bytes(original.read_bytes())
    flip_bit(path, position, 5)
    with pytest.raises(ValueError, match="checksum"):
        open_array(path, checksums)


def test_a_chunk_is_checked_once(
    large: tuple[Path, NDArray[np.float32], ArrayChecksums], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original, array, checksums = large
    path = tmp_path / "a.b2nd"
    path.write_bytes(original.read_bytes())
    checked: list[int] = []
    compute = stored_array.compute_crc32

    def count(content: memoryview, start: int = 0) -> int:
        checked.append(len(content))
        return compute(content, start)

    monkeypatch.setattr(stored_array, "compute_crc32", count)
    assert np.array_equal(open_array(path, checksums)[:], array)
    before = len(checked)
    assert np.array_equal(open_array(path, checksums)[:], array)  # opened anew, as for every patch
    assert 0 < before == len(checked) == len(checksums.chunks) + 2


def test_a_file_of_a_version_without_checksums_is_read(
    large: tuple[Path, NDArray[np.float32], ArrayChecksums],
) -> None:
    path, array, _ = large
    opened: LazyArray = open_array(path, None)
    assert np.array_equal(opened[...], array)
