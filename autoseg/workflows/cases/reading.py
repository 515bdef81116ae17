"""Reads one labelled case and checks that image and label map belong together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float32, Int16, Int32, Integer

from autoseg.dataset import Case
from autoseg.dataset.cases import INSTANCES
from autoseg.dataset.folder_cases import list_object_files
from autoseg.errors import ChannelCount, DatasetError, GridError, PlacementError, Problem, UndeclaredValues, VolumeError
from autoseg.geometry import Grid
from autoseg.labels import LabelScheme
from autoseg.measurement import check_case
from autoseg.preprocessing.instance_targets import build_core_and_border
from autoseg.volume_io import (
    LabelVolume,
    Volume,
    check_same_grid,
    list_grid_differences,
    read_grid,
    read_image,
    read_label_map,
    read_segments,
    resample_label_map_onto_grid,
    turn_like_image,
)

Fit = Callable[[LabelVolume, Path], LabelVolume]

MOST_OBJECTS: Final = 3  # that a message names
FIX_ADVICE: Final = "or let autoseg resample it onto the first channel's grid: --fix-geometry"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledCase:
    """A training case in memory, on the grid of its file.

    Attributes:
        label_map: Label map with internal labels; where objects are told apart, cores and borders.
        ignore_label: The ignore label in it; None without one.
        warnings: Oddities of the intensities, one sentence each.
    """

    name: str
    image: Float32[np.ndarray, "channel z y x"]
    label_map: Int16[np.ndarray, "z y x"]
    grid: Grid
    ignore_label: int | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectNumbers:
    """The objects of a case.

    Attributes:
        array: Number of the object of each voxel; 0 outside of all.
        warnings: Oddities of the files, one sentence each.
    """

    array: Int32[np.ndarray, "z y x"]
    warnings: tuple[str, ...] = ()


def read_labelled_case(case: Case, *, labels: LabelScheme, channel_names: Sequence[str]) -> LabelledCase:
    """Reads image and label map; files on another grid than the first channel are resampled if the case allows it.

    Raises:
        DatasetError: Everything that is wrong with the case, one problem per entry.
    """
    if case.targets is None:
        return _read_labels(case, labels=labels, channel_names=channel_names)
    read = _read_labels(case, labels=case.targets.labels, channel_names=channel_names)
    found = read_objects(case, read)
    label_map = build_core_and_border(
        read.label_map, found.array, spacing_mm=read.grid.spacing_mm, targets=case.targets
    )
    return replace(
        read,
        label_map=label_map,
        ignore_label=case.targets.target_labels.ignore_label,
        warnings=(*read.warnings, *found.warnings),
    )


def _read_labels(case: Case, *, labels: LabelScheme, channel_names: Sequence[str]) -> LabelledCase:
    problems: list[Problem] = []
    volume = _try_reading_image(case, problems, channel_count=len(channel_names))
    reference = _try_reading_label_map(case, problems)
    if volume is not None:
        problems += _find_channel_problems(case, volume, channel_names)
    if reference is not None:
        problems += [*_find_label_problems(reference, labels), *_find_segment_problems(case, labels)]
    if volume is None or reference is None or problems:
        raise DatasetError(case.name, problems)
    label_map = labels.encode(_fit_label_map(volume, reference, case, problems).array)
    # A label map on another grid has been reported already, so its shape is not compared again.
    found = check_case(volume.array, None if problems else label_map, channel_names=channel_names, labels=labels)
    problems += [Problem(text=text) for text in found.problems]
    if problems:
        raise DatasetError(case.name, problems)
    return LabelledCase(
        name=case.name,
        image=volume.array,
        label_map=label_map,
        grid=volume.grid,
        ignore_label=labels.ignore_label,
        warnings=found.warnings,
    )


def read_instances(case: Case, labelled: LabelledCase) -> Int32[np.ndarray, "z y x"]:
    """Reads the numbers of the objects of a case, on the grid of its image.

    Raises:
        DatasetError: There is no such file, it cannot be read or has another grid, or an object leaves the foreground.
    """
    return read_objects(case, labelled).array


def read_objects(case: Case, labelled: LabelledCase) -> ObjectNumbers:
    """Reads the numbers of the objects of a case, as `read_instances`, with warnings about their files."""
    return _read_objects(case, labelled.label_map, labelled.grid, ignore_label=labelled.ignore_label)


def read_reference_objects(
    case: Case,
) -> tuple[Int16[np.ndarray, "z y x"], Int32[np.ndarray, "z y x"], Grid]:
    """Reads cores and borders, the numbers of the objects, and the grid of a case whose objects are told apart.

    Raises:
        DatasetError: The numbers do not fit the label map.
        VolumeError: The label map cannot be read, or does not fit.
    """
    assert case.targets is not None, "only cases with targets have cores and borders"
    grid = read_grid(case.image_paths[0])
    labels = case.targets.labels
    label_map = labels.encode(read_fitted_label_map(case, grid).array)
    objects = _read_objects(case, label_map, grid, ignore_label=labels.ignore_label).array
    built = build_core_and_border(label_map, objects, spacing_mm=grid.spacing_mm, targets=case.targets)
    return built, objects, grid


def _read_objects(
    case: Case, label_map: Int16[np.ndarray, "z y x"], grid: Grid, *, ignore_label: int | None
) -> ObjectNumbers:
    path = case.instances_path
    if path is None:
        text = (
            f"{INSTANCES} holds no file of this case; add it, or plan again without telling objects apart: without "
            f"--task instances, and in plan.json with the objects of the loss set to components"
        )
        raise DatasetError(case.name, [Problem(text=text)])
    try:
        found = read_object_numbers(
            path,
            lambda volume, file: _fit(
                volume, grid, case, what=f"instance label map {file} of image {case.image_paths[0]}"
            ),
            label_map=label_map,
            ignore_label=ignore_label,
        )
    except VolumeError as error:
        raise DatasetError(case.name, [Problem(text=str(error))]) from error
    objects = found.array
    outside = objects[(label_map == 0) & (objects != 0)]
    if outside.size or objects.min() < 0:
        raise DatasetError(case.name, [Problem(text=_describe_stray_objects(path, objects, outside))])
    return found


def read_object_numbers(
    path: Path, fit: Fit, *, label_map: Integer[np.ndarray, "z y x"], ignore_label: int | None = None
) -> ObjectNumbers:
    """Reads the numbers of the objects of a case; the files of a folder are numbered from 1, by name.

    Args:
        path: A label map, or a folder of label maps with one object each.
        fit: Brings a label map to the grid of the case, or refuses it.
        label_map: Classes of the objects; where all is background or ignored, a folder may be empty.
        ignore_label: The label of what is ignored; None without one.

    Raises:
        VolumeError: A file cannot be read, or does not fit; or one in a folder does not hold one object.
    """
    if not path.is_dir():
        return ObjectNumbers(array=fit(read_label_map(path), path).array)
    files = list_object_files(path)
    if not files and np.isin(label_map, (0, 0 if ignore_label is None else ignore_label)).all():
        return ObjectNumbers(array=np.zeros(label_map.shape, np.int32))
    if not files:
        msg = (
            f"{path} holds no label map, though the case has foreground; expected one for each object, or in place of "
            f"the folder one that numbers all"
        )
        raise VolumeError(msg)
    numbers, shared = np.zeros(0, np.int32), 0
    for number, file in enumerate(files, start=1):
        stored = read_label_map(file)
        _check_single(stored.array, file)
        own = fit(stored, file).array  # without the object, where a coarser grid loses it, as a map that numbers all
        numbers = numbers if number > 1 else np.zeros(own.shape, np.int32)
        mask = own > 0
        shared += int(np.count_nonzero(numbers[mask]))
        numbers[mask] = number
    return ObjectNumbers(array=numbers, warnings=_warn_of_shared(path, shared))


def _check_single(found: Int32[np.ndarray, "z y x"], file: Path) -> None:
    values = np.unique(found[found != 0]).tolist()
    if len(values) == 1 and values[0] > 0:
        return
    shown = f"the values {', '.join(map(str, values[:3]))}" if values else "no voxel"
    msg = (
        f"{file} must hold one object, voxels of one positive value, found {shown}; write a file for each object, or "
        f"one label map that numbers all in place of the folder"
    )
    raise VolumeError(msg)


def _warn_of_shared(folder: Path, shared: int) -> tuple[str, ...]:
    if not shared:
        return ()
    return (
        f"{shared} voxels belong to two objects and are given to the one whose file comes later by name, in the folder "
        f"{folder.parent.name}/{folder.name}",
    )


def _describe_stray_objects(path: Path, objects: np.ndarray, outside: np.ndarray) -> str:
    if objects.min() < 0:
        return f"{path.name} in {INSTANCES} holds {objects.min()}; number objects from 1, with 0 where there is none"
    numbers, counts = np.unique(outside, return_counts=True)
    files = list_object_files(path) if path.is_dir() else []
    shown = ", ".join(
        f"{files[number - 1].name if files else number} ({count} voxels)"
        for number, count in zip(numbers[:MOST_OBJECTS].tolist(), counts, strict=False)
    )
    more = f" and {len(numbers) - MOST_OBJECTS} more" if len(numbers) > MOST_OBJECTS else ""
    return (
        f"{path.name} in {INSTANCES}: objects must lie within a foreground label of the label map; beyond it are "
        f"{shown}{more}; correct one of the two files"
    )


def try_reading_grid(path: Path) -> Grid | None:
    """Reads the grid of a file; None if it cannot be read, which reading the case reports."""
    try:
        return read_grid(path)
    except VolumeError:
        return None


def read_fitted_label_map(case: Case, grid: Grid) -> LabelVolume:
    """Reads the label map of a case; resampled onto the grid of its image if the grids differ and the case allows it.

    Raises:
        VolumeError: It cannot be read, or does not fit.
    """
    assert case.label_path is not None, "a case without label map has nothing to fit"
    return _fit(read_label_map(case.label_path), grid, case, what=_name_label_map(case))


def _try_reading_image(case: Case, problems: list[Problem], *, channel_count: int) -> Volume | None:
    try:
        return read_image(case.image_paths, fix_geometry=case.fix_geometry, channel_count=channel_count)
    except GridError as error:
        problems.append(_advise(error))
    except VolumeError as error:
        problems.append(Problem(text=str(error)))
    return None


def _try_reading_label_map(case: Case, problems: list[Problem]) -> LabelVolume | None:
    if case.label_path is None:
        problems.append(Problem(text="has no label map"))
        return None
    try:
        return read_label_map(case.label_path)
    except VolumeError as error:
        problems.append(Problem(text=str(error)))
        return None


def _find_channel_problems(case: Case, volume: Volume, channel_names: Sequence[str]) -> list[Problem]:
    expected, found = len(channel_names), volume.array.shape[0]
    if found == expected:
        return []
    is_picture = len(case.image_paths) == 1 and not volume.grid.is_oriented
    advice = "add the missing files, or correct 'channel_names'" if found < expected else "correct 'channel_names'"
    if is_picture and {expected, found} == {1, 3}:
        advice = _explain_colours(volume)
    text = (
        f"expected {expected} {'channel' if expected == 1 else 'channels'} as in dataset.json "
        f"({', '.join(channel_names)}), found {found}; {advice}"
    )
    return [Problem(text=text, finding=ChannelCount(found=found, is_picture=is_picture))]


def _explain_colours(volume: Volume) -> str:
    """Explains why a picture is not of the kind that dataset.json names: in colour, or grey."""
    if len(volume.array) == 1:
        return "the picture is grey: save it in colour (RGB), or correct 'channel_names' if all of them are"
    count = int(np.count_nonzero((volume.array[1:] != volume.array[:1]).any(axis=0)))
    return (
        f"the picture is in colour (red, green and blue differ in {count} of {volume.array[0].size} pixels): save it "
        f"as grey, or correct 'channel_names' if all of them are"
    )


def _find_label_problems(reference: LabelVolume, labels: LabelScheme) -> list[Problem]:
    unknown = labels.find_unknown_values(reference.array)
    if not unknown:
        return []
    values, counts = np.unique(reference.array, return_counts=True)
    voxels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    known = ", ".join(str(value) for value in sorted(labels.file_values))
    listed = ", ".join(f"{value} ({voxels[value]} voxels)" for value in unknown)
    one = len(unknown) == 1
    text = (
        f"label {'value' if one else 'values'} {listed} {'is' if one else 'are'} not in dataset.json, which names "
        f"{known}; correct the label map or 'labels'"
    )
    return [Problem(text=text, finding=UndeclaredValues(voxels=voxels, undeclared=unknown))]


def _find_segment_problems(case: Case, labels: LabelScheme) -> list[Problem]:
    """Compares the names of segments in the file (of 3D Slicer) with dataset.json, where the same name occurs."""
    assert case.label_path is not None
    known = {entry.name.casefold(): entry.values for entry in labels.classes}
    problems = []
    for name, value in read_segments(case.label_path).items():
        values = known.get(name.casefold(), (value,))
        if value not in values:
            text = (
                f"{case.label_path.name}: the segment {name!r} has the value {value} in the file, but dataset.json "
                f"says {', '.join(str(other) for other in values)}; correct 'labels' or save the segmentation again"
            )
            problems.append(Problem(text=text))
    return problems


def _fit_label_map(volume: Volume, reference: LabelVolume, case: Case, problems: list[Problem]) -> LabelVolume:
    try:
        return _fit(reference, volume.grid, case, what=_name_label_map(case))
    except GridError as error:
        problems.append(_advise(error))
    except VolumeError as error:
        problems.append(Problem(text=str(error)))
    return reference


def _advise(error: GridError) -> Problem:
    """Proposes to resample, unless that would move what is drawn."""
    return Problem(text=str(error) if isinstance(error, PlacementError) else f"{error}, {FIX_ADVICE}")


def _name_label_map(case: Case) -> str:
    return f"label map {case.label_path} of image {case.image_paths[0]}"


def _fit(reference: LabelVolume, grid: Grid, case: Case, *, what: str) -> LabelVolume:
    reference = turn_like_image(reference, grid, what=what)
    if case.fix_geometry and list_grid_differences(grid, reference.grid):
        reference = resample_label_map_onto_grid(reference, grid, what=what)
    check_same_grid(grid, reference.grid, what=what)
    return reference
