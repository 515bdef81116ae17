"""Reads and writes NIfTI (one file or a pair) and MGH through nibabel.

nibabel's arrays are (x, y, z, ...) in Fortran order, so their transpose is (..., z, y, x) in C order without a copy.
Compressed files go through isal: reading takes half of zlib's time, writing a quarter.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from gzip import BadGzipFile
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from jaxtyping import Float64, Shaped

from autoseg.errors import VolumeError
from autoseg.geometry import Grid, build_grid_from_affine
from autoseg.run_folder import write_atomically
from autoseg.volume_io.formats.headers.gzip_members import GZIP_MAGIC, open_whole_members
from autoseg.volume_io.formats.headers.nifti import (
    MGH_HEADER_BYTES,
    check_mgh_header,
    check_nifti_header,
    check_number_type,
)
from autoseg.volume_io.formats.nifti_placement import build_grid
from autoseg.volume_io.formats.volumes import (
    StoredVolume,
    check_same_grid,
    is_planar,
    translate_decoder_errors,
    write_pair_atomically,
)

LOGGER = logging.getLogger(__name__)

OpenStream = Callable[[Path], Any]
Result = TypeVar("Result")

COMPRESSED_ENDINGS: Final = (".nii.gz", ".mgz")
MGH_ENDINGS: Final = (".mgz", ".mgh")
PAIR_ENDINGS: Final = (".hdr", ".img")
MGH_TYPES: Final = ("uint8", "int16", "int32", "float32")

LARGEST_HEADER_BYTES: Final = 540  # NIfTI-2; NIfTI-1 and Analyze have 348
END_BYTES: Final = 2**20
MOST_LEFTOVER_BYTES: Final = 2**26
LARGEST_NIFTI1_EXTENT: Final = 32767  # dim is a 16-bit integer
SCANNER_CODE: Final = 1


def read(path: Path, *, as_labels: bool) -> StoredVolume:
    """Reads all voxels, scaled with scl_slope and scl_inter."""
    del as_labels
    return _try_streams(path, _read_from)


def read_grid(path: Path) -> Grid:
    """Reads the header."""
    return _try_streams(path, _read_grid_from)


def _try_streams(path: Path, read_from: Callable[[Path, OpenStream], Result]) -> Result:
    """Reads a file as it should be, else a compressed one without what follows the end of its data."""
    try:
        return read_from(path, _open_stream)
    except (BadGzipFile, EOFError) as error:
        LOGGER.debug("%s: %s", path, error)
    return read_from(path, open_whole_members)


def _read_from(path: Path, open_stream: OpenStream) -> StoredVolume:
    with _open_image(path, open_stream, compares_memory=True) as (image, header):
        array = np.asarray(image.dataobj).T
        leftover = _measure_leftover(image, path)
        if "bitpix" in header:
            check_number_type(header, path, leftover_bytes=leftover)
        return StoredVolume(array=split_channels(array, path), grid=build_grid(image, path))


def _read_grid_from(path: Path, open_stream: OpenStream) -> Grid:
    with _open_image(path, open_stream) as (image, _):
        return build_grid(image, path)


def write(path: Path, array: Shaped[np.ndarray, "z y x"], *, grid: Grid, like: Path | None) -> None:
    """Writes one channel; the header of `like` is copied where both are NIfTI or both are MGH."""
    image = build(path, array, grid=grid, like=like)
    name = path.name.lower()
    if name.endswith(PAIR_ENDINGS):
        with write_pair_atomically(path) as temporary:
            image.to_filename(temporary)
        return
    with write_atomically(path) as temporary, temporary.open("wb") as stream:
        if not name.endswith(COMPRESSED_ENDINGS):
            image.to_stream(stream)
            return
        from isal import igzip

        # No name and no time in the gzip header: equal label maps become equal files.
        with igzip.IGzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as compressed:
            image.to_stream(compressed)


def build(path: Path, array: Shaped[np.ndarray, "z y x"], *, grid: Grid, like: Path | None) -> Any:
    """Builds the nibabel image that `write` writes."""
    template = _find_template(like, is_mgh=path.name.lower().endswith(MGH_ENDINGS), grid=grid)
    if path.name.lower().endswith(MGH_ENDINGS):
        return _build_mgh(_fit_mgh(array), grid, template)
    return _build_nifti(array, grid, template, is_pair=path.name.lower().endswith(PAIR_ENDINGS))


def is_image(image: object) -> bool:
    """Returns whether an object of nibabel is an image: voxels with an affine."""
    from nibabel.spatialimages import SpatialImage

    return isinstance(image, SpatialImage) and image.affine is not None


def convert(image: Any, what: str) -> StoredVolume:
    """Converts an image in memory, like `read` for a file."""
    import nibabel

    array = split_channels(np.asarray(image.dataobj).T, what)
    if isinstance(image, nibabel.AnalyzeImage | nibabel.MGHImage):  # NIfTI is a kind of Analyze in nibabel
        return StoredVolume(array=array, grid=build_grid(image, what))
    return StoredVolume(array=array, grid=build_grid_from_affine(np.array(image.affine), array.shape[1:]))


def build_like(image: Any, array: Shaped[np.ndarray, "z y x"], *, grid: Grid) -> Any:
    """Builds a label map as NIfTI or MGH with the header of the image, else as NIfTI."""
    import nibabel

    if isinstance(image, nibabel.MGHImage):
        return _build_mgh(_fit_mgh(array), grid, image)
    template = image if isinstance(image, nibabel.Nifti1Pair) else None
    is_pair = template is not None and not isinstance(image, nibabel.Nifti1Image)
    return _build_nifti(array, grid, template, is_pair=is_pair)


@contextmanager
def _open_image(path: Path, open_stream: OpenStream, *, compares_memory: bool = False) -> Iterator[tuple[Any, Any]]:
    """Opens a file as an image of nibabel; yields it with the header as stored, which has been checked."""
    import nibabel

    name = path.name.lower()
    header = _read_raw_header(path, open_stream)
    data_path = path
    if name.endswith(PAIR_ENDINGS):
        image = nibabel.load(path, mmap=False)
        data_path = Path(image.file_map["image"].filename or path)
        _check_regular(data_path)
    is_compressed = _is_compressed(data_path)
    if name.endswith(MGH_ENDINGS):
        check_mgh_header(header, path, is_compressed=is_compressed, compares_memory=compares_memory)
    else:
        check_nifti_header(
            header, path, data_path=data_path, is_compressed=is_compressed, compares_memory=compares_memory
        )
    if name.endswith(PAIR_ENDINGS):
        yield image, header
        return
    kind = nibabel.MGHImage if name.endswith(MGH_ENDINGS) else _find_kind(header, path)
    with open_stream(path) as stream:
        yield kind.from_stream(stream), header


def _check_regular(path: Path) -> None:
    if not path.is_file():
        found = "is no file" if path.exists() else "does not exist"
        msg = f"expected header or voxels in {path}, which {found}; copy both files"
        raise VolumeError(msg)


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def _open_stream(path: Path) -> Any:
    """Opens a file, compressed or not, whatever its name says."""
    if not _is_compressed(path):
        return path.open("rb")
    from isal import igzip

    return igzip.open(path, "rb")


def _measure_leftover(image: Any, path: Path) -> int:
    """Returns the bytes after the voxels. Compressed files are read to their end, where their checksum is verified."""
    holder = image.file_map["image"]
    data_path = Path(holder.filename or path)
    promised = math.prod(image.dataobj.shape) * image.dataobj.dtype.itemsize
    if not _is_compressed(data_path):
        return int(data_path.stat().st_size - image.dataobj.offset - promised)
    count = 0
    while holder.fileobj is not None and (piece := holder.fileobj.read(END_BYTES)):
        count += len(piece)
        if count > promised + MOST_LEFTOVER_BYTES:
            msg = (
                f"{path}: the header promises {promised} bytes of voxels, but the file has more than {count} "
                f"bytes behind them; the header is wrong: repair it or convert the file again"
            )
            raise VolumeError(msg)
    return count


def _read_raw_header(path: Path, open_stream: OpenStream) -> Any:
    """Reads the header as stored, as nibabel silently repairs or overlooks errors."""
    import nibabel

    name = path.name.lower()
    header_path = path.with_suffix(".hdr") if name.endswith(".img") and path.with_suffix(".hdr").exists() else path
    _check_regular(header_path)
    with open_stream(header_path) as stream:
        block = stream.read(LARGEST_HEADER_BYTES)
    if name.endswith(MGH_ENDINGS):
        return nibabel.MGHImage.header_class(block[:MGH_HEADER_BYTES].ljust(MGH_HEADER_BYTES, b"\0"), check=False)
    for kind in (nibabel.Nifti2Header, nibabel.Nifti1Header, nibabel.AnalyzeHeader):
        if len(block) >= kind.sizeof_hdr and kind.may_contain_header(block):
            return kind(block[: kind.sizeof_hdr], check=False)
    msg = f"{path} cannot be read: it does not start with a NIfTI header; convert it again"
    raise VolumeError(msg)


def _find_kind(header: Any, path: Path) -> Any:
    import nibabel

    for kind in (nibabel.Nifti2Image, nibabel.Nifti1Image):
        if isinstance(header, kind.header_class):
            return kind
    msg = f"{path} cannot be read: it has a header of Analyze in a file of NIfTI (no magic n+1); convert it again"
    raise VolumeError(msg)


def split_channels(array: Shaped[np.ndarray, "..."], path: Path | str) -> Shaped[np.ndarray, "channel z y x"]:
    """Reshapes (..., z, y, x) to (channel, z, y, x); at most one of the leading axes may be longer than 1."""
    if array.ndim < 3:
        return array.reshape((1,) * (4 - array.ndim) + array.shape)
    leading = array.shape[:-3]
    if sum(extent > 1 for extent in leading) > 1:
        msg = f"{path}: expected channels along one axis besides x, y, z, found shape {array.shape[::-1]}; split it"
        raise VolumeError(msg)
    return array.reshape((-1, *array.shape[-3:]))


def _build_nifti(array: Shaped[np.ndarray, "z y x"], grid: Grid, template: Any, *, is_pair: bool) -> Any:
    is_flat = is_planar(grid)
    stored = (array[0] if is_flat else array).T
    kind = _select_nifti_class(stored, template, is_pair=is_pair)
    if template is None:
        return _place_nifti(kind(stored, None, dtype=array.dtype), grid, is_flat=is_flat)
    image = kind(stored, template.affine, kind.header_class.from_header(template.header), dtype=array.dtype)
    image.header.extensions.clear()  # they tell of the image: its scanner, its patient, what programs did to it
    image.header.set_slope_inter(1, 0)
    image.header.set_intent("none")
    image.header["cal_min"] = image.header["cal_max"] = 0  # the window of the image would hide the labels
    return image


def _build_mgh(array: Shaped[np.ndarray, "z y x"], grid: Grid, template: Any) -> Any:
    import nibabel

    if template is None:
        return nibabel.MGHImage(array.T, grid.affine)
    header = template.header.copy()
    header.set_data_dtype(array.dtype)
    return nibabel.MGHImage(array.T, template.affine, header)


def _find_template(like: Path | None, *, is_mgh: bool, grid: Grid) -> Any:
    """Opens `like` if it is of the family to be written; it must lie on the grid to be written."""
    import nibabel

    family = nibabel.MGHImage if is_mgh else nibabel.Nifti1Pair
    if like is None or not like.name.lower().endswith((".nii", ".nii.gz", *PAIR_ENDINGS, *MGH_ENDINGS)):
        return None
    with translate_decoder_errors(like):
        image, found = _try_streams(like, _read_template)
    if not isinstance(image, family):
        return None
    check_same_grid(grid, found, what=f"{like} (found) and what is to be written like it")
    return image


def _read_template(path: Path, open_stream: OpenStream) -> tuple[Any, Grid]:
    with _open_image(path, open_stream) as (image, _):
        return image, build_grid(image, path)


def _select_nifti_class(array: Shaped[np.ndarray, "..."], template: Any, *, is_pair: bool) -> Any:
    import nibabel

    is_nifti2 = template is not None and isinstance(template.header, nibabel.Nifti2Header)
    is_large = is_nifti2 or max(array.shape) > LARGEST_NIFTI1_EXTENT
    if is_pair:
        return nibabel.Nifti2Pair if is_large else nibabel.Nifti1Pair
    return nibabel.Nifti2Image if is_large else nibabel.Nifti1Image


def _place_nifti(image: Any, grid: Grid, *, is_flat: bool) -> Any:
    """Writes the grid into a fresh header: sform, and qform where there is no shear."""
    affine = grid.affine
    if is_flat:
        affine[:3, 2] = grid.direction[0]
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=SCANNER_CODE)
    image.set_qform(affine if _is_orthogonal(affine) else None, code=SCANNER_CODE if _is_orthogonal(affine) else 0)
    image.header.set_zooms(grid.spacing_mm[:0:-1] if is_flat else grid.spacing_mm[::-1])
    return image


def _is_orthogonal(affine: Float64[np.ndarray, "4 4"]) -> bool:
    units = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(units.T @ units, np.eye(3), atol=1e-5))


def _fit_mgh(array: Shaped[np.ndarray, "z y x"]) -> Shaped[np.ndarray, "z y x"]:
    """Converts to a dtype that MGH supports: uint8, int16, int32, float32; other integers become int32."""
    return array if array.dtype.name in MGH_TYPES else array.astype(np.int32)
