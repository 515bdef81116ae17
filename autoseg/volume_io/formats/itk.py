"""Reads and writes MetaImage, NRRD, GIPL, VTK structured points, ITK's HDF5, and MRC through SimpleITK.

ITK's world is (L, P, S), ours (R, A, S): the first two rows of origin and direction change their sign.
"""

import locale
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float64, Shaped

from autoseg.errors import VolumeError
from autoseg.file_endings import MINC_ENDINGS, MRC_ENDINGS
from autoseg.geometry import Direction, FloatTriple, Grid
from autoseg.processes.library_output import redirect_library_messages
from autoseg.run_folder import write_atomically
from autoseg.volume_io.formats.headers import meta_image, nrrd
from autoseg.volume_io.formats.headers.sizes import check_size
from autoseg.volume_io.formats.headers.voxel_data import VoxelData, check_voxel_data, read_voxels
from autoseg.volume_io.formats.headers.vtk_and_mrc import (
    MRC_HEADER_BYTES,
    VTK_ENDINGS,
    check_complete,
    check_vtk_header,
)
from autoseg.volume_io.formats.volumes import (
    HEADER_ENDINGS,
    StoredVolume,
    check_same_grid,
    is_planar,
    make_planar_spacing,
    write_pair_atomically,
)

LPS_TO_RAS: Final = np.array([-1.0, -1.0, 1.0])
HEAD: Final[FloatTriple] = (0.0, 0.0, 1.0)
META_ENDINGS: Final = (".mha", ".mhd")
NRRD_ENDINGS: Final = (".nrrd", ".nhdr")
GIPL_ENDINGS: Final = (".gipl", ".gipl.gz")
HDF5_ENDINGS: Final = (".h5", ".hdf5")
HEADERS: Final[tuple[tuple[tuple[str, ...], Callable[[Path], VoxelData]], ...]] = (
    (META_ENDINGS, meta_image.read_header),
    (NRRD_ENDINGS, nrrd.read_header),
)
LIBRARIES: Final = (
    (META_ENDINGS, "MetaImageIO"),
    (NRRD_ENDINGS, "NrrdImageIO"),
    (GIPL_ENDINGS, "GiplImageIO"),
    (VTK_ENDINGS, "VTKImageIO"),
    (HDF5_ENDINGS, "HDF5ImageIO"),
    (MRC_ENDINGS, "MRCImageIO"),
    (MINC_ENDINGS, "MINCImageIO"),
)
CHECKED_ENDINGS: Final = (*META_ENDINGS, *NRRD_ENDINGS, *VTK_ENDINGS)
RAW_HEADER_BYTES: Final = ((GIPL_ENDINGS[:1], 256), (MRC_ENDINGS, MRC_HEADER_BYTES))
BITS: Final = re.compile(r"(\d+)-bit")
HDF5_RESERVE_BYTES: Final = 2**20  # for its description
SIZE_BYTES: Final = 4  # of the size at the end of gzip data
TALKATIVE_ENDINGS: Final = (".h5", ".hdf5", ".vtk", ".mrc")  # ITK probes junk of any ending with its HDF5 library


def read(path: Path, *, as_labels: bool) -> StoredVolume:
    """Reads all voxels; channels are the components of a vector image or the last axis of a 4D image."""
    import SimpleITK

    del as_labels
    data = _check_header(path, compares_memory=True)
    with _preserve_locale(), _divert_messages(path):
        reader = _open_reader(path)
        stored = None if data is None else _read_stored(path, reader, data)
        if stored is not None:
            return stored
        _check_size(path, reader, compares_memory=True)
        image = reader.Execute()
    check_complete(path, SimpleITK.GetArrayViewFromImage(image))
    return convert(image, path)


def is_image(image: object) -> bool:
    """Returns whether an object of SimpleITK is an image."""
    import SimpleITK

    return isinstance(image, SimpleITK.Image)


def convert(image: Any, what: Path | str) -> StoredVolume:
    """Converts an image in memory."""
    import SimpleITK

    dimensions, components = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    _check_dimensions(what, dimensions, components)
    return _arrange(SimpleITK.GetArrayFromImage(image), dimensions, components, build_grid(image))


def _arrange(array: Shaped[np.ndarray, "..."], dimensions: int, components: int, grid: Grid) -> StoredVolume:
    if components > 1:
        array = np.moveaxis(array, -1, 0)
    elif dimensions < 4:
        array = array[None]
    return StoredVolume(array=array[:, None] if dimensions == 2 else array, grid=grid)


def read_grid(path: Path) -> Grid:
    """Reads the header."""
    _check_header(path, compares_memory=False)
    with _preserve_locale(), _divert_messages(path):
        reader = _open_reader(path)
    _check_size(path, reader, compares_memory=False)
    return build_grid(reader)


def _check_header(path: Path, *, compares_memory: bool) -> VoxelData | None:
    """Checks what ITK cannot be trusted with; returns where the voxels are if the format has a readable header."""
    name = path.name.lower()
    if name.endswith(VTK_ENDINGS):
        check_vtk_header(path)
    read_header = next((reader for endings, reader in HEADERS if name.endswith(endings)), None)
    if read_header is None:
        return None
    data = read_header(path)
    check_voxel_data(path, data, compares_memory=compares_memory)
    return data


def _open_reader(path: Path) -> Any:
    """Opens a reader of ITK for the format that the ending names, and for no other."""
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(next(library for endings, library in LIBRARIES if path.name.lower().endswith(endings)))
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    _check_dimensions(path, reader.GetDimension(), reader.GetNumberOfComponents())
    return reader


def _read_stored(path: Path, reader: Any, data: VoxelData) -> StoredVolume | None:
    """Reads the voxels of the usual encodings; None if ITK arranges or converts them."""
    components, shape = reader.GetNumberOfComponents(), reader.GetSize()
    expected = (components, *shape) if components > 1 else shape
    if data.encoding == "other" or data.shape != expected:
        return None
    array = read_voxels(path, data)
    return _arrange(array, reader.GetDimension(), components, build_grid(reader))


def _check_size(path: Path, reader: Any, *, compares_memory: bool) -> None:
    """Compares the size that ITK has found with the file and with memory."""
    import SimpleITK

    kind = SimpleITK.GetPixelIDValueAsString(reader.GetPixelIDValue())
    bits = BITS.search(kind)
    name = path.name.lower()
    if bits is None or name.endswith(CHECKED_ENDINGS):
        return
    header_bytes = next((size for endings, size in RAW_HEADER_BYTES if name.endswith(endings)), None)
    check_size(
        path,
        (*reader.GetSize(), reader.GetNumberOfComponents()),
        voxel_bytes=int(bits[1]) // 8 * (2 if "complex" in kind else 1),
        stored_bytes=path.stat().st_size - (header_bytes or 0),
        is_compressed=header_bytes is None,
        compares_memory=compares_memory,
    )


def write(path: Path, array: Shaped[np.ndarray, "z y x"], *, grid: Grid, like: Path | None) -> None:
    """Writes a compressed file; two-dimensional images become two-dimensional files again."""
    del like  # the grid holds the whole geometry of these headers, bit for bit
    image = build(path, array, grid=grid, like=None)
    writing = write_pair_atomically if path.name.lower().endswith(HEADER_ENDINGS) else write_atomically
    with writing(path) as temporary:
        _check_free_space(temporary, array.nbytes)
        _write_image(image, temporary, path)
        _check_end(temporary, array.nbytes)
        check_same_grid(grid, read_grid(temporary), what=f"cannot write {path}: its format cannot hold the grid")


def build(path: Path, array: Shaped[np.ndarray, "z y x"], *, grid: Grid, like: Path | None) -> Any:
    """Builds the SimpleITK image that `write` writes."""
    del like
    return build_image(array, grid, is_flat=_is_flat_file(path, grid))


def build_like(image: Any, array: Shaped[np.ndarray, "z y x"], *, grid: Grid) -> Any:
    """Builds a label map of two dimensions if the image has two, else of three."""
    return build_image(array, grid, is_flat=image.GetDimension() == 2)


def _check_free_space(path: Path, size_bytes: int) -> None:
    """Refuses to write HDF5 to a full disk, as its library would abort the process."""
    free = shutil.disk_usage(path.parent).free
    if path.name.lower().endswith(HDF5_ENDINGS) and free < size_bytes + HDF5_RESERVE_BYTES:
        msg = f"{(size_bytes + HDF5_RESERVE_BYTES) / 2**20:.1f} MiB are needed, {free / 2**20:.1f} MiB are free"
        raise OSError(msg)


def _check_end(path: Path, size_bytes: int) -> None:
    """Compares the size at the end of compressed NRRD data with that of the array: ITK does not notice that a disk is
    full when it writes the last bytes."""
    name = path.name.lower()
    data = path.with_suffix(".raw.gz") if name.endswith(".nhdr") else path
    if not name.endswith(NRRD_ENDINGS):
        return
    with data.open("rb") as file:
        file.seek(-SIZE_BYTES, os.SEEK_END)
        if int.from_bytes(file.read(), "little") != size_bytes % 2 ** (8 * SIZE_BYTES):
            msg = "the compressed voxels are incomplete, as on a full disk"
            raise OSError(msg)


def _write_image(image: Any, temporary: Path, path: Path) -> None:
    import SimpleITK

    try:
        with _preserve_locale():
            SimpleITK.WriteImage(image, str(temporary), useCompression=True)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        msg = (
            f"cannot write {path} with {image.GetPixelIDTypeAsString()} values: {reason}; "
            f"free space if the disk is full, else use .nii.gz or .nrrd"
        )
        raise VolumeError(msg) from error


@contextmanager
def _preserve_locale() -> Iterator[None]:
    """Restores the locale of the process after the block.

    ITK sets it to "C" for VTK files and does not reset it: from then on Python would decode the text of files and
    programs as ASCII.
    """
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


def _divert_messages(path: Path) -> AbstractContextManager[None]:
    return redirect_library_messages() if path.name.lower().endswith(TALKATIVE_ENDINGS) else nullcontext()


def _check_dimensions(path: Path | str, dimensions: int, components: int) -> None:
    if dimensions not in (2, 3, 4) or (dimensions == 4 and components > 1):
        msg = (
            f"{path}: expected two or three dimensions, and channels as a fourth or as vector components, found "
            f"{dimensions} dimensions with {components} components; split the file"
        )
        raise VolumeError(msg)


def build_grid(header: Any) -> Grid:
    """Builds the grid from an image or reader of SimpleITK."""
    dimensions = header.GetDimension()
    matrix = np.array(header.GetDirection(), dtype=np.float64).reshape(dimensions, dimensions)
    size = (*header.GetSize(), 1)[:3]
    spacing, origin = header.GetSpacing(), (*header.GetOrigin(), 0.0)[:3]
    is_flat = dimensions == 2
    return Grid(
        shape_voxels=(size[2], size[1], size[0]),
        spacing_mm=make_planar_spacing(spacing[1], spacing[0]) if is_flat else (spacing[2], spacing[1], spacing[0]),
        origin_mm=convert_lps_ras(np.array(origin)),
        direction=_build_direction(matrix),
    )


def _build_direction(matrix: Float64[np.ndarray, "n n"]) -> Direction:
    full = np.eye(3)
    extent = min(len(matrix), 3)
    full[:extent, :extent] = matrix[:extent, :extent]
    return (convert_lps_ras(full[:, 2]), convert_lps_ras(full[:, 1]), convert_lps_ras(full[:, 0]))


def convert_lps_ras(vector: Float64[np.ndarray, "3"]) -> FloatTriple:
    """Converts (L, P, S) to (R, A, S), and back."""
    x, y, z = (vector * LPS_TO_RAS + 0.0).tolist()  # adding 0 turns -0 into 0
    return (x, y, z)


def _is_flat_file(path: Path, grid: Grid) -> bool:
    """Whether to write two dimensions: the plane must be axial, as a 2D file cannot be tilted."""
    lies_across = grid.direction[0] == HEAD and grid.direction[1][2] == grid.direction[2][2] == grid.origin_mm[2] == 0
    return is_planar(grid) and lies_across and not path.name.lower().endswith(GIPL_ENDINGS)


def build_image(array: Shaped[np.ndarray, "z y x"], grid: Grid, *, is_flat: bool) -> Any:
    """Builds a SimpleITK image of one component, with two dimensions if `is_flat`."""
    import SimpleITK

    dimensions = 2 if is_flat else 3
    image = SimpleITK.GetImageFromArray(array[0] if is_flat else array)
    columns = [convert_lps_ras(np.array(grid.direction[axis])) for axis in (2, 1, 0)]
    matrix = np.array(columns).T[:dimensions, :dimensions]
    image.SetSpacing(grid.spacing_mm[::-1][:dimensions])
    image.SetOrigin(convert_lps_ras(np.array(grid.origin_mm))[:dimensions])
    image.SetDirection(matrix.ravel().tolist())
    return image
