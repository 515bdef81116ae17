"""Copies reference label maps into a run, where validation finds them."""

import shutil
from pathlib import Path

from autoseg.dataset import Case
from autoseg.errors import RunError, quote_path
from autoseg.file_endings import HEADER_OF_VOXELS, WRITABLE_ENDINGS, find_ending
from autoseg.remote.local_files import use_local
from autoseg.run_folder import RunFolder, write_atomically
from autoseg.volume_io import READABLE_ENDINGS, list_grid_differences, read_grid, strip_ending, write_label_map
from autoseg.workflows.cases.reading import read_fitted_label_map, read_reference_objects

# These formats keep the voxels in a second file, so that a copy of the header alone would be worthless.
DETACHED_ENDINGS = (".mhd", ".nhdr", *HEADER_OF_VOXELS, *HEADER_OF_VOXELS.values())

OBJECTS_FOLDER = "instances"  # beside label maps: the numbers of their objects
NUMBERS_ENDING = ".nii.gz"  # holds 32 bits, whatever the format of the dataset


def copy_reference(case: Case, folder: Path) -> None:
    """Copies the label map of a case into a folder, under the name of the case, unless it exists there.

    Formats of two files are rewritten as .nii.gz. A label map on another grid than its image is written as it is read
    for training: resampled onto the grid of the image. Where objects are told apart, cores and borders are written, and
    the numbers of the objects into a folder of their own.
    """
    if case.targets is not None:
        _write_targets(case, folder)
        return
    label_path = case.label_path
    assert label_path is not None, "every training case has a label map"
    ending = label_path.name[len(strip_ending(label_path.name)) :]
    is_detached = ending.lower() in DETACHED_ENDINGS
    target = folder / f"{case.name}{'.nii.gz' if is_detached else ending.lower()}"
    if target.exists() and target.stat().st_size > 0:  # a file left empty by a power failure is copied again
        return
    if is_detached or _must_be_resampled(case, label_path):
        volume = read_fitted_label_map(case, read_grid(case.image_paths[0]))
        write_label_map(target, volume.array, grid=volume.grid, like=None)
        return
    sidecar = label_path.with_name(strip_ending(label_path.name) + ".json")
    if sidecar.is_file():  # the spacing of a TIFF stack
        _copy(sidecar, folder / f"{case.name}.json")
    _copy(label_path, target)


def find_reference_objects(folder: Path, case_name: str) -> Path:
    """Returns the path of the numbers of the objects of a case, in a folder of references."""
    return folder / OBJECTS_FOLDER / f"{case_name}{NUMBERS_ENDING}"


def name_objects(label_map: str) -> str:
    """Returns the name of the map of numbers of a label map; BMP holds 8 bits only, so that of a .bmp is a .png."""
    stem = strip_ending(label_map)
    return f"{stem}.png" if label_map[len(stem) :].lower() == ".bmp" else label_map


def _write_targets(case: Case, folder: Path) -> None:
    assert case.targets is not None, "the caller asked"
    assert case.label_path is not None, "every training case has a label map"
    # The format tells whether there is a spacing, so it stays where it can be written.
    ending = find_ending(case.label_path.name)
    kept = ending is not None and ending in WRITABLE_ENDINGS and ending not in DETACHED_ENDINGS
    numbers = find_reference_objects(folder, case.name)
    target = folder / f"{case.name}{ending if kept else NUMBERS_ENDING}"
    if target.exists() and target.stat().st_size > 0:
        return
    label_map, objects, grid = read_reference_objects(case)
    write_label_map(numbers, objects, grid=grid, like=None)
    write_label_map(target, case.targets.target_labels.decode(label_map), grid=grid, like=None)


def _copy(source: Path, target: Path) -> None:
    with use_local(source), write_atomically(target, is_durable=False) as temporary:
        shutil.copyfile(source, temporary)


def _must_be_resampled(case: Case, label_path: Path) -> bool:
    if not case.fix_geometry:
        return False
    return bool(list_grid_differences(read_grid(case.image_paths[0]), read_grid(label_path)))


def find_reference(run: RunFolder, case_name: str) -> Path:
    """Finds the reference label map of a case.

    Raises:
        RunError: It is missing.
    """
    for ending in READABLE_ENDINGS:
        path = run.references / f"{case_name}{ending}"
        if path.is_file():
            return path
    repeated = f"autoseg plan DATASET --run {quote_path(run.root)}"
    msg = f"{run.references} holds no label map of case {case_name!r}; repeat: {repeated}"
    raise RunError(msg)
