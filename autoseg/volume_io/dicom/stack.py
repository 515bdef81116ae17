"""Sorts the slices of a series by their position, checks that they are a volume, and reads it.

The grid is that which ITK gives to a series: slices follow the normal of their plane. Spacings have single precision,
as in the header of a NIfTI file, so that a series is resampled exactly like the file into which it was converted.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from autoseg.errors import VolumeError
from autoseg.geometry import Grid, make_triple
from autoseg.remote.local_files import use_local
from autoseg.volume_io.dicom.headers import READER, SliceHeader
from autoseg.volume_io.dicom.series import DicomSeries, find_series, list_series
from autoseg.volume_io.formats import dicom_frames
from autoseg.volume_io.formats.dicom_positions import (
    ORIENTATION_TOLERANCE,
    ROUNDED_SPACING,
    arrange_slices,
    compute_normal,
    explain_orientation,
    explain_spacing,
)
from autoseg.volume_io.formats.headers.sizes import check_size
from autoseg.volume_io.formats.itk import convert_lps_ras
from autoseg.volume_io.formats.volumes import Volume, check_finite_grid, convert_to_float32, translate_decoder_errors


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceStack:
    """A series that is a volume.

    Attributes:
        slices: Headers along z; a single one for a multi-frame file, which holds all of z.
        frames: Index of the frame of that file at every z; empty for single slices.
        grid: Grid of the volume.
    """

    slices: tuple[SliceHeader, ...]
    frames: tuple[int, ...] = ()
    grid: Grid


def stack_slices(series: DicomSeries) -> SliceStack:
    """Sorts the slices of a series by position.

    Raises:
        VolumeError: They are no volume: expected, found, and what to do.
    """
    slices = series.slices
    if len(slices) == 1:
        return _open_only_file(slices[0])
    _check_alike(slices)
    _check_identifiers(slices)
    orientation = _check_orientation(slices)
    normal = compute_normal(orientation)
    positions, spacing = np.array([_get_position(header) for header in slices]), _get_spacing(slices[0])
    order = arrange_slices(
        positions, normal, pixel_mm=min(spacing), name=lambda indices: _name([slices[index] for index in indices])
    )
    grid = Grid(
        shape_voxels=(len(slices), *slices[0].shape_yx),
        spacing_mm=(order.step_mm, *spacing),
        origin_mm=convert_lps_ras(positions[order.indices[0]]),
        direction=(convert_lps_ras(normal), convert_lps_ras(orientation[3:]), convert_lps_ras(orientation[:3])),
    )
    ordered = tuple(slices[index] for index in order.indices)
    return SliceStack(slices=ordered, grid=_round_spacing(check_finite_grid(grid, "the series")))


def find_only_stack(folder: Path) -> SliceStack:
    """Finds the slices of a folder that holds one series.

    Raises:
        VolumeError: There is no series, or more than one, or a file that cannot be read; or it is no volume.
    """
    found = find_series(folder)
    if found.unreadable:
        path, reason = next(iter(found.unreadable.items()))
        msg = f"{len(found.unreadable)} files cannot be read, such as {path.name} ({reason}); copy the series again"
        raise VolumeError(msg)
    if len(found.series) != 1:
        msg = f"expected one series of slices in the folder, found {list_series(found.series)}; move the others away"
        raise VolumeError(msg)
    return stack_slices(found.series[0])


def read_stack(stack: SliceStack) -> Volume:
    """Reads all voxels, rescaled as the header of each slice says.

    Raises:
        VolumeError: A file cannot be read, or memory is short.
    """
    shape = stack.grid.shape_voxels
    check_size("the series", shape, voxel_bytes=0, stored_bytes=None, is_compressed=True)
    array = np.empty((1, *shape), np.float32)
    step = shape[0] // len(stack.slices)
    for index, header in enumerate(stack.slices):
        part = array[:, index * step : (index + 1) * step]
        with _name_instance(header):
            _read_part(header.path, part)
    return Volume(array=array, grid=stack.grid)


def _open_only_file(header: SliceHeader) -> SliceStack:
    with _name_instance(header):
        grid = check_finite_grid(READER.read_grid(header.path), header.path)
        frames: tuple[int, ...] = ()
        if grid.shape_voxels[0] == 1 and header.orientation is not None and header.step_mm is not None:
            grid = replace(grid, spacing_mm=(header.step_mm, *grid.spacing_mm[1:]))  # there are no places to tell it
        if grid.shape_voxels[0] > 1:
            found = dicom_frames.read_frames(header.path, grid.shape_voxels[0])
            frames = found.arrange(pixel_mm=min(grid.spacing_mm[1:])).indices
    return SliceStack(slices=(header,), frames=frames, grid=_round_spacing(grid))


def _read_part(path: Path, part: Float32[np.ndarray, "1 z y x"]) -> None:
    stored = READER.read(path, as_labels=False)
    if stored.array.shape != part.shape:
        msg = f"{path}: expected {part.shape} voxels as its header says, found {stored.array.shape}; copy it again"
        raise VolumeError(msg)
    part[:] = convert_to_float32(path, stored.array)


@contextmanager
def _name_instance(header: SliceHeader) -> Iterator[None]:
    """Names a file by its instance number in messages, as its path may hold the name of a patient."""
    what = f"instance {header.instance_number or '?'}"
    try:
        with use_local(header.path), translate_decoder_errors(what):
            yield
    except VolumeError as error:
        raise VolumeError(str(error).replace(str(header.path), what)) from None


def _round_spacing(grid: Grid) -> Grid:
    return replace(grid, spacing_mm=make_triple(np.array(grid.spacing_mm, np.float32).astype(np.float64)))


def _check_alike(slices: Sequence[SliceHeader]) -> None:
    """Checks that all files are single slices of one size and spacing, with a place."""
    if any(header.frame_count > 1 for header in slices):
        msg = (
            f"expected one file for each slice, or one file with all frames, found {len(slices)} files, of which some "
            f"hold several frames; export the volumes as series of their own"
        )
        raise VolumeError(msg)
    lost = [header for header in slices if None in (header.position_mm, header.orientation, header.spacing_mm_yx)]
    if lost:
        msg = (
            f"expected a position, an orientation and a pixel spacing in every slice, but {_name(lost)} "
            f"{'lacks' if len(lost) == 1 else 'lack'} one of them; leave out these files, or export the series again"
        )
        raise VolumeError(msg)
    _check_geometry(slices)
    kinds = Counter((header.shape_yx, header.spacing_mm_yx) for header in slices)
    spacings = np.array([spacing for _, spacing in kinds], dtype=float)
    if len({shape for shape, _ in kinds}) > 1 or not np.allclose(spacings, spacings[0], rtol=ROUNDED_SPACING, atol=0):
        listed = ", ".join(
            f"{count} of {shape[0]} x {shape[1]} with {spacing} mm" for (shape, spacing), count in kinds.items()
        )
        msg = f"expected slices of one size and pixel spacing, found {listed}; export them as series of their own"
        raise VolumeError(msg)


def _check_geometry(slices: Sequence[SliceHeader]) -> None:
    """Checks orientation and pixel spacing of every slice, each by itself."""
    wrong: dict[str, list[SliceHeader]] = {}
    for header in slices:
        assert header.orientation is not None, "checked before"
        reason = explain_orientation(header.orientation) or explain_spacing(_get_spacing(header))
        if reason is not None:
            wrong.setdefault(reason, []).append(header)
    if wrong:
        reason, found = next(iter(wrong.items()))
        msg = f"{_name(found)}: {reason}"
        raise VolumeError(msg)


def _check_identifiers(slices: Sequence[SliceHeader]) -> None:
    count = len({header.instance for header in slices})
    if count < len(slices):
        msg = (
            f"expected a UID of its own (SOPInstanceUID) in every slice, found {count} in {len(slices)} slices at "
            f"different positions, as programs that remove names from headers may leave them; export the series again, "
            f"or convert it with dcm2niix"
        )
        raise VolumeError(msg)


def _check_orientation(slices: Sequence[SliceHeader]) -> Float64[np.ndarray, "6"]:
    groups: list[tuple[np.ndarray, int]] = []
    for header in slices:
        found = np.array(header.orientation)
        near = (i for i, (known, _) in enumerate(groups) if np.abs(known - found).max() <= ORIENTATION_TOLERANCE)
        index = next(near, None)
        if index is None:
            groups.append((found, 1))
        else:
            groups[index] = (groups[index][0], groups[index][1] + 1)
    if len(groups) > 1:
        groups.sort(key=_get_count, reverse=True)
        listed = ", ".join(f"{count} {_name_plane(orientation)}" for orientation, count in groups)
        msg = f"expected slices of one orientation, found {len(groups)} ({listed}); export each as a series of its own"
        raise VolumeError(msg)
    return groups[0][0]


def _get_count(group: tuple[np.ndarray, int]) -> int:
    return group[1]


def _name_plane(orientation: Float64[np.ndarray, "6"]) -> str:
    normal = np.abs(np.cross(orientation[:3], orientation[3:]))
    return ("sagittal", "coronal", "axial")[int(np.argmax(normal))]


def _name(slices: Sequence[SliceHeader]) -> str:
    """Names slices by their instance numbers, as file names may hold the name of a patient."""
    numbers = [header.instance_number or "?" for header in slices]
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"instance{'s' * (len(numbers) != 1)} {', '.join(numbers[:5])}{more}"


def _get_position(header: SliceHeader) -> Float64[np.ndarray, "3"]:
    assert header.position_mm is not None, "checked before"
    return np.array(header.position_mm)


def _get_spacing(header: SliceHeader) -> tuple[float, float]:
    assert header.spacing_mm_yx is not None, "checked before"
    return header.spacing_mm_yx
