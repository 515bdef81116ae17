"""Single arrays in files, compressed in blocks so that a part is read without decompressing the whole, and checked.

A file is divided into its chunks and the rest (header, index, trailer), each with a CRC-32 that is kept apart from it.
The rest is checked when a process opens the file for the first time, a chunk before a process reads from it for the
first time, so that training, which reads the same cases over and over, pays once.
"""

import hashlib
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from autoseg.document import Part
from autoseg.errors import RunError
from autoseg.files.checksums import FileVersion, compute_crc32, find_version
from autoseg.preprocessing.storage_shape import compute_storage_shape
from autoseg.run_folder import translate_library_errors, write_atomically

# Measured on normalized CT and MR, one thread, random patches of 128^3: against LZ4HC of the same level this writes 6
# to 10 times as fast (550 and 1010 MB/s), reads as fast (4.7 and 3.6 ms a patch) and takes 4 to 8 % more space; ZSTD
# saves 9 to 20 % of the space and reads at half the speed. Shuffled bytes of float32 compress where plain ones do not.
COMPRESSION_LEVEL: Final = 5
# The check of a smaller file takes less than 0.1 ms (measured), which is not worth dividing.
LARGEST_UNDIVIDED_BYTES: Final = 2**20
# Places in a contiguous frame of blosc2, big-endian: https://github.com/Blosc/c-blosc2/blob/main/README_CFRAME_FORMAT.rst
HEADER_LENGTH_PLACE: Final = slice(11, 15)
CHUNKS_LENGTH_PLACE: Final = slice(39, 47)
# Length of a chunk in its own header, little-endian: README_CHUNK_FORMAT.rst, as above.
CHUNK_LENGTH_PLACE: Final = slice(12, 16)
REST: Final = -1
"""Number of the part of a file that is no chunk, beside the numbers of the chunks."""
DIGEST_BYTES: Final = 16  # of the version of a file, which takes ten times the memory


@runtime_checkable
class LazyArray(Protocol):
    """An array on disk; slicing reads and decompresses what is needed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the values."""
        ...

    def __getitem__(self, key: Any) -> NDArray[Any]: ...


class ArrayChecksums(Part):
    """CRC-32 of the parts of an array's file.

    Attributes:
        first_chunk: Position in bytes at which the chunks begin.
        chunk_ends: Position at which each chunk ends; empty for a small file, which is all rest.
        chunks: CRC-32 of each chunk.
        rest: CRC-32 of what comes before the chunks and after them.
    """

    first_chunk: int
    chunk_ends: tuple[int, ...]
    chunks: tuple[int, ...]
    rest: int


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array in a file of its own, which is named in errors.

    Attributes:
        array: The array of blosc2.
        path: The file of the array.
        remedy: The command that writes the file again once it is deleted.
        checksums: None for a file of an earlier version, which had none.
        unchecked: The chunks that this process has not checked yet.
    """

    array: LazyArray
    path: Path
    remedy: str
    checksums: ArrayChecksums | None
    unchecked: set[int]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the values."""
        return self.array.dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        try:
            if self.unchecked:
                self._check(key)
            return self.array[key]
        except RuntimeError as error:  # what blosc2 raises where blocks do not decompress
            msg = f"{self.path} is damaged ({error}); delete it, then write it again with: {self.remedy}"
            raise RunError(msg) from error

    def _check(self, key: Any) -> None:
        assert self.checksums is not None, "without checksums nothing is unchecked"
        waiting = self.unchecked & _find_chunks(self.array, key)
        if waiting:
            _check_chunks(self.path, self.checksums, waiting)
            self.unchecked.difference_update(waiting)


def write_array(path: Path, array: NDArray[Any], patch_voxels: tuple[int, ...]) -> ArrayChecksums:
    """Writes an array atomically, stored for reading in patches of the given shape.

    Returns:
        The checksums to keep, with which the array is opened.

    Raises:
        RunError: The folder cannot be written or the disk is full.
    """
    import blosc2  # imported here because it takes 0.3 s, and a finished run does not need it

    block, chunk = compute_storage_shape(array.shape, patch_voxels, array.itemsize)
    compression = {
        "codec": blosc2.Codec.LZ4,
        "clevel": COMPRESSION_LEVEL,
        "filters": [blosc2.Filter.SHUFFLE],
        "nthreads": 1,
    }
    with write_atomically(path, is_durable=False) as temporary, translate_library_errors(temporary):
        stored = blosc2.asarray(
            np.ascontiguousarray(array),
            urlpath=str(temporary),
            mode="w",
            chunks=chunk,
            blocks=block,
            cparams=compression,
        )
        return _compute_checksums(temporary, stored)


def open_array(path: Path, checksums: ArrayChecksums | None, *, remedy: str = "autoseg preprocess RUN") -> LazyArray:
    """Opens an array, which is read when it is sliced. A truncated file crashes the process.

    Args:
        path: The file of the array.
        checksums: The checksums that `write_array` returned; None for a file of an earlier version, which had none.
        remedy: The command that writes it again once it is deleted; named if its content is damaged.

    Raises:
        ValueError: Its header, index or trailer is damaged.
    """
    import blosc2

    unchecked: set[int] = set()
    if checksums is not None:
        unchecked = list_unchecked_parts(find_version(path), len(checksums.chunks))
        if REST in unchecked:
            _check_rest(path, checksums)
            unchecked.discard(REST)
    array = blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
    return StoredArray(array, path, remedy, checksums, unchecked)


def is_array_intact(path: Path, checksums: ArrayChecksums | None) -> bool:
    """Returns whether a file is as it was written; also for a file of an earlier version, of which that is not known.

    Raises:
        OSError: It is missing or cannot be read.
    """
    if checksums is None:
        return True
    unchecked = list_unchecked_parts(find_version(path), len(checksums.chunks))
    try:
        if REST in unchecked:
            _check_rest(path, checksums)
        _check_chunks(path, checksums, unchecked - {REST})
    except (RuntimeError, ValueError):
        return False
    unchecked.clear()
    return True


def list_unchecked_parts(version: FileVersion, chunk_count: int = 0) -> set[int]:
    """Lists the parts of a file that this process has not checked yet: the rest and the numbers of the chunks.

    The set is the same one for the same version of a file; who checks a part removes it.
    """
    digest = hashlib.blake2b(repr(version).encode(), digest_size=DIGEST_BYTES).digest()
    return _hold_unchecked(int.from_bytes(digest), chunk_count)


@cache
def _hold_unchecked(_: int, chunk_count: int) -> set[int]:
    return {REST, *range(chunk_count)}


def _compute_checksums(path: Path, stored: Any) -> ArrayChecksums:
    with _map(path) as content:
        first, ends = _find_layout(content, stored)
        return ArrayChecksums(
            first_chunk=first,
            chunk_ends=ends,
            chunks=tuple(compute_crc32(content[begin:end]) for begin, end in zip((first, *ends), ends, strict=False)),
            rest=_compute_rest(content, first, ends),
        )


def _find_layout(content: memoryview, stored: Any) -> tuple[int, tuple[int, ...]]:
    """Finds where the chunks begin, and where each of them ends; chunks of one value take no place in the file."""
    import blosc2

    first = int.from_bytes(content[HEADER_LENGTH_PLACE], "big")
    if len(content) <= LARGEST_UNDIVIDED_BYTES:
        return first, ()
    end, ends = first, []
    for chunk in stored.schunk.iterchunks_info():
        if chunk.special == blosc2.SpecialValue.NOT_SPECIAL:
            end += int.from_bytes(chunk.lazychunk[CHUNK_LENGTH_PLACE], "little")
        ends.append(end)
    is_known = end - first == int.from_bytes(content[CHUNKS_LENGTH_PLACE], "big")
    assert is_known, "blosc2 has not written the chunks one after the other"
    return first, tuple(ends)


def _compute_rest(content: memoryview, first_chunk: int, chunk_ends: Sequence[int]) -> int:
    last = chunk_ends[-1] if chunk_ends else first_chunk
    return compute_crc32(content[last:], compute_crc32(content[:first_chunk]))


def _check_rest(path: Path, checksums: ArrayChecksums) -> None:
    with _map(path) as content:
        found = _compute_rest(content, checksums.first_chunk, checksums.chunk_ends)
    if found != checksums.rest:
        msg = f"{path.name} has the checksum {found:08x} instead of {checksums.rest:08x}"
        raise ValueError(msg)


def _check_chunks(path: Path, checksums: ArrayChecksums, numbers: set[int]) -> None:
    begins = (checksums.first_chunk, *checksums.chunk_ends)
    with _map(path) as content:
        for number in sorted(numbers):
            found = compute_crc32(content[begins[number] : begins[number + 1]])
            if found != checksums.chunks[number]:
                msg = f"chunk {number} has the checksum {found:08x} instead of {checksums.chunks[number]:08x}"
                raise RuntimeError(msg)  # as blosc2 raises for what it finds


def _find_chunks(array: Any, key: Any) -> set[int]:
    """Finds the chunks that a slice reads; all of them for another kind of index."""
    import blosc2

    is_box = isinstance(key, tuple) and len(key) == array.ndim and all(isinstance(part, slice) for part in key)
    return set(blosc2.get_slice_nchunks(array, key).tolist()) if is_box else set(range(array.schunk.nchunks))


@contextmanager
def _map(path: Path) -> Iterator[memoryview]:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as content,
    ):
        yield content
