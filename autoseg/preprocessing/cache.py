"""Files of preprocessed cases, compressed in blocks so that a patch is read without decompressing the whole case.

A case is four files: `NAME.image.b2nd` (float32), `NAME.labels.b2nd` (int16), `NAME.locations.npy` (int32) and
`NAME.json`, which is written last: a case without it does not count as written.

The files can be written again, so they are not flushed to the disk. After a power failure a file may be empty or too
short: such a case counts as missing, or is refused when it is opened.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32
from numpy.typing import NDArray

from autoseg.document import Document, Part, read_document, write_document
from autoseg.errors import DocumentError, RunError
from autoseg.preprocessing.case import CaseGeometry, PreprocessedCase
from autoseg.preprocessing.class_locations import ClassLocations
from autoseg.preprocessing.storage_shape import compute_storage_shape
from autoseg.run_folder import make_folder, translate_library_errors, write_atomically
from autoseg.runtime.file_digests import check_crc32, compute_crc32

# Measured on normalized CT and MR, one thread, random patches of 128^3: against LZ4HC of the same level this writes 6
# to 10 times as fast (550 and 1010 MB/s), reads as fast (4.7 and 3.6 ms a patch) and takes 4 to 8 % more space; ZSTD
# saves 9 to 20 % of the space and reads at half the speed. Shuffled bytes of float32 compress where plain ones do not.
COMPRESSION_LEVEL: Final = 5
# A file stored for patches of another shape takes longer to read, which is noticeable only for large arrays:
# a slice of 35 x 51 x 35 voxels takes 0.15 ms instead of 0.04 (measured).
LARGEST_LINKED_BYTES: Final = 2**20


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


class CaseFiles(Part):
    """Sizes and CRC-32 of the files of a case, by which a damaged copy is recognized.

    A truncated file would crash the process that maps it, so sizes are compared when a case is opened; checksums when
    a process reads values for the first time. Earlier versions have stored no checksums.
    """

    image_bytes: int
    labels_bytes: int
    locations_bytes: int
    image_crc32: int | None = None
    labels_crc32: int | None = None
    locations_crc32: int | None = None


class CachedCaseRecord(Document):
    """The JSON file of a preprocessed case.

    Attributes:
        class_ranges: See `ClassLocations`.
        annotated_range: See `ClassLocations`.
    """

    schema_version: Literal[1] = 1
    geometry: CaseGeometry
    class_ranges: tuple[tuple[int, int], ...]
    annotated_range: tuple[int, int] | None
    files: CaseFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedCase:
    """A preprocessed case whose arrays are on disk.

    Attributes:
        image: float32 (channel, z, y, x).
        label_map: int16 (z, y, x); -1 is background outside the nonzero region.
        locations: Sampled voxels of every class.
        geometry: The geometry that leads back to the grid of the file.
        further_maps: int16 (z, y, x), each cut and transformed with the image like the label map.
    """

    name: str
    image: LazyArray
    label_map: LazyArray
    locations: ClassLocations
    geometry: CaseGeometry
    further_maps: tuple[LazyArray, ...] = ()

    @property
    def maps(self) -> tuple[LazyArray, ...]:
        """The label map, and the further maps behind it."""
        return (self.label_map, *self.further_maps)


def write_case(
    folder: Path,
    name: str,
    case: PreprocessedCase,
    *,
    locations: ClassLocations,
    patch_voxels: tuple[int, ...],
    twin: Path | None = None,
) -> None:
    """Writes a training case, in place of an older one of the same name.

    Args:
        folder: Folder of the preprocessed arrays of one configuration.
        name: Name of the case.
        case: The preprocessed case with labels.
        locations: Sampled voxels of its classes.
        patch_voxels: Shape of the patches that will be read (2 or 3 values, plan axes).
        twin: A folder in which this process has just written the same arrays and locations; small arrays become hard
            links to its files.

    Raises:
        RunError: The folder cannot be written or the disk is full.
    """
    assert case.label_map is not None, f"case {name!r} has no labels to train on"
    paths = _CasePaths(make_folder(folder), name)
    paths.record.unlink(missing_ok=True)
    is_linked = twin is not None and case.image.nbytes <= LARGEST_LINKED_BYTES and paths.link_to(_CasePaths(twin, name))
    if not is_linked:
        write_array(paths.image, case.image, patch_voxels)
        write_array(paths.labels, case.label_map, patch_voxels)
        with write_atomically(paths.locations, is_durable=False) as temporary:
            np.save(temporary, locations.coordinates, allow_pickle=False)
    record = CachedCaseRecord(
        geometry=case.geometry,
        class_ranges=locations.class_ranges,
        annotated_range=locations.annotated_range,
        files=paths.describe_files(),
    )
    write_document(paths.record, record, is_durable=False)


def is_case_written(folder: Path, name: str) -> bool:
    """Returns whether all files of a case exist and are not empty."""
    paths = _CasePaths(folder, name)
    return all(_is_filled(path) for path in (paths.record, paths.image, paths.labels, paths.locations))


def open_case(folder: Path, name: str) -> CachedCase:
    """Opens a case; its arrays are read when they are sliced.

    Raises:
        RunError: A file is missing or damaged.
    """
    paths = _CasePaths(folder, name)
    try:
        record = read_document(paths.record, CachedCaseRecord)
        paths.check_sizes(record.files)
        check_crc32(paths.locations, record.files.locations_crc32)
        coordinates = _read_locations(paths.locations)
        image = open_array(paths.image, crc32=record.files.image_crc32)
        label_map = open_array(paths.labels, crc32=record.files.labels_crc32)
    except (DocumentError, OSError, RuntimeError, ValueError) as error:
        msg = (
            f"the preprocessed case {name!r} in {folder} is missing or damaged ({error}); "
            f"delete {paths.record} and write it again with: autoseg preprocess RUN"
        )
        raise RunError(msg) from error
    locations = ClassLocations(
        coordinates=coordinates, class_ranges=record.class_ranges, annotated_range=record.annotated_range
    )
    return CachedCase(name=name, image=image, label_map=label_map, locations=locations, geometry=record.geometry)


def list_cases(folder: Path) -> tuple[str, ...]:
    """Lists the names of the written cases, sorted; empty if there is no such folder."""
    names = (path.name.removesuffix(".json") for path in folder.glob("*.json"))
    return tuple(sorted(name for name in names if is_case_written(folder, name)))


@dataclass(frozen=True, slots=True)
class _CasePaths:
    folder: Path
    name: str

    @property
    def record(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def image(self) -> Path:
        return self.folder / f"{self.name}.image.b2nd"

    @property
    def labels(self) -> Path:
        return self.folder / f"{self.name}.labels.b2nd"

    @property
    def locations(self) -> Path:
        return self.folder / f"{self.name}.locations.npy"

    def link_to(self, twin: "_CasePaths") -> bool:
        """Hard-links the arrays and locations of the twin; returns False if the file system has no hard links."""
        try:
            for path, existing in (
                (self.image, twin.image),
                (self.labels, twin.labels),
                (self.locations, twin.locations),
            ):
                path.unlink(missing_ok=True)
                path.hardlink_to(existing)
        except OSError:
            return False
        return True

    def describe_files(self) -> CaseFiles:
        return CaseFiles(
            **self.measure_sizes(),
            image_crc32=compute_crc32(self.image),
            labels_crc32=compute_crc32(self.labels),
            locations_crc32=compute_crc32(self.locations),
        )

    def measure_sizes(self) -> dict[str, int]:
        return {
            "image_bytes": self.image.stat().st_size,
            "labels_bytes": self.labels.stat().st_size,
            "locations_bytes": self.locations.stat().st_size,
        }

    def check_sizes(self, expected: CaseFiles) -> None:
        found = self.measure_sizes()
        wanted = {name: getattr(expected, name) for name in found}
        if found != wanted:
            msg = f"expected {wanted}, found {found}"
            raise ValueError(msg)


def _is_filled(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def write_array(path: Path, array: NDArray[Any], patch_voxels: tuple[int, ...]) -> None:
    """Writes an array atomically, stored for reading in patches of the given shape.

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
    with write_atomically(path, is_durable=False) as temporary, translate_library_errors():
        blosc2.asarray(
            np.ascontiguousarray(array),
            urlpath=str(temporary),
            mode="w",
            chunks=chunk,
            blocks=block,
            cparams=compression,
        )


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array in a file of its own, which is named in errors.

    Attributes:
        array: The array of blosc2.
        path: The file of the array.
        remedy: The command that writes the file again once it is deleted.
        crc32: Checksum of the file; None for files of earlier versions.
    """

    array: LazyArray
    path: Path
    remedy: str
    crc32: int | None

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
            self._check()
            return self.array[key]
        except RuntimeError as error:  # what blosc2 raises where blocks do not decompress
            msg = f"{self.path} is damaged ({error}); delete it, then write it again with: {self.remedy}"
            raise RunError(msg) from error

    def _check(self) -> None:
        """Raises RuntimeError if the file has changed since it was written."""
        try:
            check_crc32(self.path, self.crc32)
        except (OSError, ValueError) as error:
            raise RuntimeError(error) from error


def open_array(path: Path, *, remedy: str = "autoseg preprocess RUN", crc32: int | None = None) -> LazyArray:
    """Opens an array, which is read when it is sliced. A truncated file crashes the process.

    Args:
        path: The file of the array.
        remedy: The command that writes it again once it is deleted; named if its content is damaged.
        crc32: Checksum of the file, which is compared when values are read; None compares nothing.
    """
    import blosc2

    array = blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
    return StoredArray(array, path, remedy, crc32)


def _read_locations(path: Path) -> Int32[np.ndarray, "location 3"]:
    coordinates: Int32[np.ndarray, "location 3"] = np.load(path, mmap_mode="r", allow_pickle=False)
    return coordinates
