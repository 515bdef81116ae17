"""Converts images given to the Python API (paths, nibabel or SimpleITK images, arrays) and the results back."""

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, SupportsFloat

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from autoseg.dataset.prediction_cases import find_images
from autoseg.errors import PredictionError
from autoseg.file_endings import find_ending, label_map_ending
from autoseg.geometry import WORLD_LETTERS, Grid, compute_reorientation
from autoseg.inference.model import SegmentationModel
from autoseg.remote.local_files import use_local
from autoseg.volume_io import build_label_map, build_label_map_like, convert_images, find_image_library, read_image
from autoseg.volume_io.dicom import find_file_series, stack_slices
from autoseg.volume_io.formats.volumes import Volume, convert_to_float32

DEFAULT_GRID_CODE: Final = "RAS"
COLOURS: Final = (3, 4)  # channels of a picture, without and with transparency
TAKEN: Final = (
    "a path, an image of nibabel or SimpleITK, an array (z, y, x) or (channel, z, y, x), "
    "or a list of these with one for each channel"
)
ADVICE: Final = {
    "torch": "give tensor.cpu().numpy() and its spacing_mm",
    "PIL": "give np.asarray(picture) with channels first and z = 1, or the path",
    "itk": "give itk.array_from_image(image) with its spacing_mm and orientation, or the path",
    "nibabel": "give an image that has an affine",
    "SimpleITK": "give the image itself",
    "pydicom": "make one file of the series with dcm2niix, or read it with SimpleITK.ImageSeriesReader",
}
"""Advice for objects of other libraries."""

DIRECTION_WORDS: Final = {"R": "right", "L": "left", "A": "front", "P": "back", "S": "head", "I": "feet"}
CALLER_OF_PREDICT_VOLUME: Final = 6  # stack frames from the warning to the caller, both included

ConvertResult = Callable[[NDArray[np.integer]], Any]


class OrientationWarning(UserWarning):
    """An array was given without its orientation, and the assumed orientation may be wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputImage:
    """An image to be segmented.

    Attributes:
        array: Intensities.
        grid: Grid of the array.
        convert_result: Converts a label map on this grid to the type of the input.
    """

    array: Float32[np.ndarray, "channel z y x"]
    grid: Grid
    convert_result: ConvertResult


def open_input_image(
    image: object, model: SegmentationModel, *, spacing_mm: Iterable[SupportsFloat] | None, orientation: str | None
) -> InputImage:
    """Reads or converts an image; see `autoseg.predict_volume` for the supported types.

    Raises:
        PredictionError: The type is not supported, or the image does not fit the model.
        VolumeError: A file or an image cannot be read.
        GridError: The channels do not lie on one grid.
    """
    parts = list(image) if isinstance(image, list | tuple) else [image]
    kind = _find_kind(parts)
    _check_unmasked(parts)
    if kind == "array":
        return _convert_arrays(parts, model, spacing_mm=spacing_mm, orientation=orientation)
    if spacing_mm is not None or orientation is not None:
        what = "the file" if kind == "path" else f"the {kind} image"
        msg = (
            f"spacing_mm and orientation belong to arrays, found them beside {what}, which has its own; leave them out"
        )
        raise PredictionError(msg)
    return _open_files(parts, model) if kind == "path" else _convert_opened(parts, kind)


def _find_kind(parts: Sequence[object]) -> str:
    kinds = {_name_kind(part) for part in parts}
    if len(kinds) == 1:
        return kinds.pop()
    found = f"a list of {' and '.join(sorted(kinds))}, which cannot be mixed" if kinds else "an empty list"
    msg = f"expected {TAKEN}; found {found}"
    raise PredictionError(msg)


def _name_kind(part: object) -> str:
    if isinstance(part, np.ndarray):
        return "array"
    if isinstance(part, str | os.PathLike):
        return "path"
    library = find_image_library(part)
    if library is not None:
        return library
    package = type(part).__module__.partition(".")[0]
    advice = ADVICE.get(package, "convert it with np.asarray, and give its spacing_mm")
    name = type(part).__name__ if package == "builtins" else f"{package}'s {type(part).__name__}"
    msg = f"expected {TAKEN}; found {name}: {advice}"
    raise PredictionError(msg)


def _check_unmasked(parts: Sequence[Any]) -> None:
    """Checks that no voxel of an array is masked, or of one in an image of nibabel: its number means nothing."""
    count = sum(int(np.count_nonzero(np.ma.getmask(getattr(part, "dataobj", part)))) for part in parts)
    if count:
        msg = (
            f"expected a number in every voxel, found {count} masked voxels in a masked array of numpy; fill them with "
            f"what the training images hold there, for example array.filled(0)"
        )
        raise PredictionError(msg)


def _open_files(parts: Sequence[Any], model: SegmentationModel) -> InputImage:
    paths = [Path(part) for part in parts]
    for path in paths:
        _check_file(path)
    if len(paths) == 1:  # files of the other channels are found beside it, as by the command
        plan = model.plan
        cases, _ = find_images(paths[0], channel_count=len(plan.channels), file_ending=plan.file_ending)
        paths = list(cases[0].image_paths)
    with use_local(*paths):
        volume = read_image(paths, channel_count=len(model.plan.channels))
        series = find_file_series(paths[0], model.plan.file_ending.lower(), channel_count=len(model.plan.channels))
        if series:  # as by the command, a slice is as thick as its header says; ITK takes 1 mm
            volume = replace(volume, grid=stack_slices(series[0]).grid)
    ending = find_ending(paths[0].name)
    assert ending is not None, "other files are not read"
    written = label_map_ending(ending)
    place = paths[0] if written == ending else paths[0].with_name(f"label_map{written}")

    def convert_result(label_map: NDArray[np.integer]) -> Any:
        with use_local(paths[0]):
            return build_label_map(place, label_map, grid=volume.grid, like=paths[0])

    return InputImage(array=volume.array, grid=volume.grid, convert_result=convert_result)


def _check_file(path: Path) -> None:
    if path.is_dir():
        msg = (
            f"expected an image file, but {path} is a folder; autoseg.predict_images segments all images of a folder. "
            f"A series of DICOM slices must be one file (dcm2niix), or an image of SimpleITK.ImageSeriesReader"
        )
        raise PredictionError(msg)
    if not path.exists():
        place = "" if path.is_absolute() else f" in {Path.cwd()}"
        msg = f"expected an image file, but there is no {path}{place}; correct the path"
        raise PredictionError(msg)


def _convert_opened(parts: Sequence[Any], library: str) -> InputImage:
    volume: Volume = convert_images(parts, library)

    def convert_result(label_map: NDArray[np.integer]) -> Any:
        return build_label_map_like(parts[0], label_map, grid=volume.grid, library=library)

    return InputImage(array=volume.array, grid=volume.grid, convert_result=convert_result)


def _convert_arrays(
    parts: Sequence[Any],
    model: SegmentationModel,
    *,
    spacing_mm: Iterable[SupportsFloat] | None,
    orientation: str | None,
) -> InputImage:
    array = _join_channels(parts)
    _check_axes(array, model)
    if spacing_mm is None:
        msg = (
            "an array does not contain its voxel spacing; give spacing_mm=(z, y, x) in millimetres, or give "
            "the path or the image itself"
        )
        raise PredictionError(msg)
    volume = convert_to_float32("the array", array if array.ndim == 4 else array[None])
    trained = model.plan.orientation
    grid = build_array_grid(volume.shape[1:], spacing_mm, orientation=orientation, trained_orientation=trained)
    if orientation is None and trained is not None:
        _warn_of_orientation(trained)
    return InputImage(array=volume, grid=grid, convert_result=lambda label_map: label_map)


def _join_channels(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    if len(parts) == 1:
        return parts[0]
    shapes = [part.shape for part in parts]
    if len(set(shapes)) > 1 or len(shapes[0]) != 3:
        msg = f"a list of arrays holds one array (z, y, x) of the same shape for each channel, found {shapes}"
        raise PredictionError(msg)
    return np.stack(parts)


def _check_axes(array: NDArray[Any], model: SegmentationModel) -> None:
    channels = len(model.plan.channels)
    found = f"found {array.dtype} of {array.shape}"
    if array.ndim == 2:
        advice = "give the whole volume, or load a 2d configuration"
        if model.configuration_plan.resampled_axis_count == 2:
            advice = "a picture is a volume of one slice: give array[None], with three numbers as spacing_mm"
        msg = f"a volume is an array of numbers (channel, z, y, x) or (z, y, x), {found}; {advice}"
        raise PredictionError(msg)
    takes_pictures = model.plan.orientation is None and model.configuration_plan.resampled_axis_count == 2
    if _ends_in_channels(array.shape, channels, takes_pictures=takes_pictures):
        order = "[:, None], which adds z" if array.ndim == 3 else ""
        takes = f"{channels} channel{'' if channels == 1 else 's'}"
        msg = (
            f"channels come first, in an array (channel, z, y, x) of {takes}, {found}, whose last axis "
            f"looks like channels; give np.moveaxis(array, -1, 0){order}"
        )
        raise PredictionError(msg)
    if array.ndim not in (3, 4) or array.dtype.kind not in "fiub":
        msg = f"a volume is an array of numbers (channel, z, y, x) or (z, y, x), {found}; convert it"
        raise PredictionError(msg)
    if array.size == 0:
        msg = f"a volume has at least one voxel along every axis, {found}; give an image"
        raise PredictionError(msg)


def _ends_in_channels(shape: tuple[int, ...], channels: int, *, takes_pictures: bool) -> bool:
    """Whether the channels come last: as many as the model has, or the colours of a picture."""
    if len(shape) == 4:
        return shape[0] != channels and shape[-1] in {channels, *COLOURS}
    return len(shape) == 3 and shape[-1] in ({channels} if channels > 1 else set(COLOURS) if takes_pictures else ())


def build_array_grid(
    shape_voxels: tuple[int, int, int],
    spacing_mm: Iterable[SupportsFloat],
    *,
    orientation: str | None,
    trained_orientation: str | None,
) -> Grid:
    """Builds the grid of an array, whose position in world coordinates is unknown and does not matter.

    Raises:
        PredictionError: Spacing or orientation are invalid.
    """
    z, y, x = _read_spacing(spacing_mm)
    if orientation is not None and not _is_orientation_code(orientation):
        msg = f"an orientation has one letter of L/R, one of P/A and one of I/S, such as LPS, found {orientation!r}"
        raise PredictionError(msg)
    plain = Grid(shape_voxels=shape_voxels, spacing_mm=(z, y, x))
    code = orientation or trained_orientation or DEFAULT_GRID_CODE
    direction = compute_reorientation(DEFAULT_GRID_CODE, code).apply_to_grid(plain).direction
    return Grid(
        shape_voxels=shape_voxels,
        spacing_mm=plain.spacing_mm,
        direction=direction,
        is_oriented=trained_orientation is not None,
    )


def _read_spacing(spacing_mm: Iterable[SupportsFloat]) -> list[float]:
    try:
        values = [float(value) for value in spacing_mm]
    except (TypeError, ValueError):
        values = []
    if len(values) != 3 or not all(np.isfinite(value) and value > 0 for value in values):
        msg = f"spacing_mm must be three positive numbers (z, y, x), found {spacing_mm}"
        raise PredictionError(msg)
    return values


def _is_orientation_code(text: str) -> bool:
    return sorted(len(set(text) & set(letters)) for letters in WORLD_LETTERS) == [1, 1, 1] and len(text) == 3


def _warn_of_orientation(trained: str) -> None:
    """Issues a Python warning, which is shown once per calling line, as the caller can avoid it."""
    directions = ", ".join(
        f"{axis} to the {DIRECTION_WORDS[letter]}" for axis, letter in zip("xyz", trained, strict=True)
    )
    text = (
        f"the array is taken to lie like the training images, {trained} ({directions}); if it does, say "
        f"orientation={trained!r}, else its own, such as ''.join(nibabel.aff2axcodes(image.affine)), or give the image"
    )
    warnings.warn(text, OrientationWarning, stacklevel=CALLER_OF_PREDICT_VOLUME)
