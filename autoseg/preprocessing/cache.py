"""Files of preprocessed cases, compressed in blocks so that a patch is read without decompressing the whole case.

A case is four files: `NAME.image.b2nd` (float32), `NAME.labels.b2nd` (int16), `NAME.locations.npy` (int32) and
`NAME.json`, which is written last: a case without it does not count as written.

The files can be written again, so they are not flushed to the disk. After a power failure a file may be empty or too
short: such a case counts as missing, or is refused when it is opened.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Int32

from autoseg.document import Document, Part, read_document, write_document
from autoseg.errors import DocumentError, RunError
from autoseg.files.checksums import compute_crc32, find_version
from autoseg.files.network_drives import read_again_if_outdated
from autoseg.preprocessing.case import CaseGeometry, PreprocessedCase
from autoseg.preprocessing.class_locations import ClassLocations
from autoseg.preprocessing.stored_array import (
    REST,
    ArrayChecksums,
    LazyArray,
    list_unchecked_parts,
    open_array,
    write_array,
)
from autoseg.run_folder import make_folder, write_atomically

# A file stored for patches of another shape takes longer to read, which is noticeable only for large arrays:
# a slice of 35 x 51 x 35 voxels takes 0.15 ms instead of 0.04 (measured).
LARGEST_LINKED_BYTES: Final = 2**20


class FileSizes(Part):
    """Sizes by which a damaged copy is recognized: a truncated file would crash the process that maps it."""

    image_bytes: int
    labels_bytes: int
    locations_bytes: int


class FileChecksums(Part):
    """Checksums by which a file that was damaged without a change of its size is recognized.

    Attributes:
        locations: CRC-32 of the whole file.
    """

    image: ArrayChecksums
    labels: ArrayChecksums
    locations: int


class CachedCaseRecord(Document):
    """The JSON file of a preprocessed case.

    Attributes:
        class_ranges: See `ClassLocations`.
        annotated_range: See `ClassLocations`.
        checksums: None in files of earlier versions.
    """

    schema_version: Literal[1] = 1
    geometry: CaseGeometry
    class_ranges: tuple[tuple[int, int], ...]
    annotated_range: tuple[int, int] | None
    files: FileSizes
    checksums: FileChecksums | None = None


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
    checksums = None
    if twin is not None and case.image.nbytes <= LARGEST_LINKED_BYTES:
        checksums = paths.link_to(_CasePaths(twin, name))
    if checksums is None:
        checksums = FileChecksums(
            image=write_array(paths.image, case.image, patch_voxels),
            labels=write_array(paths.labels, case.label_map, patch_voxels),
            locations=_write_locations(paths.locations, locations.coordinates),
        )
    record = CachedCaseRecord(
        geometry=case.geometry,
        class_ranges=locations.class_ranges,
        annotated_range=locations.annotated_range,
        files=paths.measure_sizes(),
        checksums=checksums,
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
    try:
        return read_again_if_outdated(folder, lambda: _open_files(_CasePaths(folder, name)))
    except (DocumentError, OSError, RuntimeError, ValueError) as error:
        msg = (
            f"the preprocessed case {name!r} in {folder} is missing or damaged ({error}); "
            f"delete {_CasePaths(folder, name).record} and write it again with: autoseg preprocess RUN"
        )
        raise RunError(msg) from error


def _open_files(paths: "_CasePaths") -> CachedCase:
    record = read_document(paths.record, CachedCaseRecord)
    paths.check_sizes(record.files)
    known = record.checksums
    locations = ClassLocations(
        coordinates=_read_locations(paths.locations, None if known is None else known.locations),
        class_ranges=record.class_ranges,
        annotated_range=record.annotated_range,
    )
    return CachedCase(
        name=paths.name,
        image=open_array(paths.image, None if known is None else known.image),
        label_map=open_array(paths.labels, None if known is None else known.labels),
        locations=locations,
        geometry=record.geometry,
    )


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

    def link_to(self, twin: "_CasePaths") -> FileChecksums | None:
        """Hard-links the arrays and locations of the twin; returns their checksums.

        None if the file system has no hard links, or the twin is of a version without checksums.
        """
        try:
            checksums = read_document(twin.record, CachedCaseRecord).checksums
            for path, existing in (
                (self.image, twin.image),
                (self.labels, twin.labels),
                (self.locations, twin.locations),
            ):
                path.unlink(missing_ok=True)
                path.hardlink_to(existing)
        except (DocumentError, OSError):
            return None
        return checksums

    def measure_sizes(self) -> FileSizes:
        return FileSizes(
            image_bytes=self.image.stat().st_size,
            labels_bytes=self.labels.stat().st_size,
            locations_bytes=self.locations.stat().st_size,
        )

    def check_sizes(self, expected: FileSizes) -> None:
        found = self.measure_sizes()
        if found != expected:
            msg = f"expected {expected}, found {found}"
            raise ValueError(msg)


def _is_filled(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _write_locations(path: Path, coordinates: Int32[np.ndarray, "location 3"]) -> int:
    """Returns the CRC-32 of the written file."""
    with write_atomically(path, is_durable=False) as temporary:
        np.save(temporary, coordinates, allow_pickle=False)
        return compute_crc32(temporary.read_bytes())


def _read_locations(path: Path, checksum: int | None) -> Int32[np.ndarray, "location 3"]:
    unchecked = set() if checksum is None else list_unchecked_parts(find_version(path))
    if REST in unchecked:
        found = compute_crc32(path.read_bytes())
        if found != checksum:
            msg = f"{path.name} has the checksum {found:08x} instead of {checksum:08x}"
            raise ValueError(msg)
        unchecked.discard(REST)
    coordinates: Int32[np.ndarray, "location 3"] = np.load(path, mmap_mode="r", allow_pickle=False)
    return coordinates
