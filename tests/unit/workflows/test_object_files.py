"""Objects of a case as one file each, in a folder with the name of the case."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from builders.datasets import describe_dataset
from builders.objects import write_cells
from builders.volumes import save_nifti

from autoseg.dataset import Dataset, read_dataset, record_dataset, restore_dataset, tell_instances_apart
from autoseg.errors import DatasetError
from autoseg.geometry import Grid
from autoseg.volume_io import LabelVolume, read_grid
from autoseg.workflows.cases.reading import read_labelled_case, read_object_numbers, read_objects
from autoseg.workflows.evaluate.evaluation import pair_label_maps
from autoseg.workflows.evaluate.objects import _read_numbers
from autoseg.workflows.plan.measuring import read_and_measure

NAMES = ("a_first.nii.gz", "b_second.nii.gz", "c_third.nii.gz")


def divide(root: Path, case: str) -> Path:
    """Replaces the map of numbers of a case by a file for each object, with the value of its class."""
    path = root / "instancesTr" / f"{case}.nii.gz"
    numbers = np.asarray(nib.load(path).dataobj)
    for number, name in zip(np.unique(numbers[numbers > 0]), NAMES, strict=True):
        save_nifti(root / "instancesTr" / case / name, (numbers == number).astype(np.uint8))
    path.unlink()
    return root / "instancesTr" / case


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    return write_cells(tmp_path / "Dataset001_Cells", cases=2)


def tell(root: Path) -> Dataset:
    return tell_instances_apart(read_dataset(root), 0.25)


def read(dataset: Dataset, index: int = 0):
    case = dataset.cases[index]
    return read_labelled_case(case, labels=dataset.labels, channel_names=dataset.channel_names)


def change(path: Path, value: int, place: tuple[slice, ...]) -> None:
    loaded = nib.load(path)
    array = np.asarray(loaded.dataobj).copy()
    array[place] = value
    nib.save(nib.Nifti1Image(array, loaded.affine), path)


def test_a_folder_of_single_objects_is_read_as_the_label_map_that_numbers_them(cells: Path) -> None:
    expected = read(tell(cells))
    folder = divide(cells, "case0")
    dataset = tell(cells)
    found = read(dataset)
    assert dataset.cases[0].instances_path == folder
    assert dataset.cases[1].instances_path == cells / "instancesTr" / "case1.nii.gz"
    assert np.array_equal(found.label_map, expected.label_map)
    assert found.warnings == expected.warnings
    paired = {name: path for name, _, path in pair_label_maps(cells / "labelsTr", folder.parent, takes_folders=True)}
    grid: Grid = read_grid(cells / "labelsTr" / "case0.nii.gz")
    numbers = _read_numbers(paired["case0"], grid, expected.label_map)
    assert sorted(np.unique(numbers)) == [0, 1, 2, 3]
    assert np.array_equal(numbers > 0, expected.label_map > 0)


def test_voxels_of_two_objects_are_counted_for_whoever_plans_or_checks(cells: Path) -> None:
    folder = divide(cells, "case0")
    first = np.argwhere(np.asarray(nib.load(folder / NAMES[0]).dataobj))[:3]
    for place in first:
        change(folder / NAMES[1], 1, tuple(place))
    dataset, plain = tell(cells), read_dataset(cells)
    text = "3 voxels belong to two objects and are given to the one whose file comes later by name, in the folder"
    assert [text in warning for warning in read(dataset).warnings] == [True]
    assert "instancesTr/case0" in read(dataset).warnings[0]
    objects = read_objects(plain.cases[0], read(plain)).array
    assert {int(objects[tuple(place[::-1])]) for place in first} == {2}
    checked = read_and_measure(
        plain.cases[0],
        labels=plain.labels,
        channel_names=plain.channel_names,
        orientation=None,
        target_spacing_mm=None,
        checks_instances=True,
    )
    assert text in checked.fingerprint.intensity_warnings[0]


def test_an_object_that_resampling_loses_is_lost_alone(cells: Path) -> None:
    def fit(volume: LabelVolume, file: Path) -> LabelVolume:
        return replace(volume, array=volume.array * np.int32(file.name != NAMES[0]))

    found = read_object_numbers(divide(cells, "case0"), fit, label_map=np.ones((1, 1, 1), np.uint8))
    assert np.unique(found.array).tolist() == [0, 2, 3]


def test_files_that_hold_no_single_object_or_leave_the_foreground_are_refused_by_name(cells: Path) -> None:
    folder = divide(cells, "case0")
    change(folder / NAMES[0], 0, (slice(None),))
    with pytest.raises(DatasetError, match=r"a_first\.nii\.gz must hold one object.*found no voxel"):
        read(tell(cells))
    change(folder / NAMES[0], 1, (slice(0, 2), slice(0, 1)))
    with pytest.raises(DatasetError, match=r"beyond it are a_first\.nii\.gz \(2 voxels\)"):
        read(tell(cells))
    change(folder / NAMES[0], 4, (slice(0, 1), slice(0, 1)))
    with pytest.raises(DatasetError, match=r"must hold one object.*found the values 1, 4; write a file for each"):
        read(tell(cells))
    nib.save(nib.Nifti1Image(np.ones((3, 3, 1), np.uint8), np.eye(4)), folder / NAMES[0])
    with pytest.raises(DatasetError, match=r"instance label map .*a_first\.nii\.gz of image"):
        read(tell(cells))
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"instancesTr/case0 holds no label map, though the case has foreground"):
        read(tell(cells))


def test_an_image_without_objects_may_have_an_empty_folder(cells: Path) -> None:
    folder = divide(cells, "case0")
    for path in folder.iterdir():
        path.unlink()
    (folder / ".DS_Store").write_bytes(b"")
    change(cells / "labelsTr" / "case0.nii.gz", 0, (slice(None),))
    found = read(tell(cells))
    assert not found.label_map.any()
    grid = read_grid(cells / "labelsTr" / "case0.nii.gz")
    assert not _read_numbers(folder, grid, found.label_map).any()


def test_a_file_and_a_folder_of_one_case_are_refused(cells: Path) -> None:
    whole = (cells / "instancesTr" / "case0.nii.gz").read_bytes()
    divide(cells, "case0")
    (cells / "instancesTr" / "case0.nii.gz").write_bytes(whole)
    with pytest.raises(DatasetError, match=r"case0.*holds a file and a folder of this case; remove one"):
        read_dataset(cells)


def test_a_record_notices_changed_files_of_objects(cells: Path) -> None:
    folder = divide(cells, "case0")
    dataset = tell(cells)
    record = record_dataset(dataset)
    assert restore_dataset(record).cases == dataset.cases
    (folder / NAMES[2]).write_bytes((folder / NAMES[2]).read_bytes() + b"\0")
    assert record_dataset(tell(cells)) != record


def test_an_image_of_ignored_voxels_and_background_may_have_an_empty_folder(cells: Path) -> None:
    folder = divide(cells, "case0")
    for path in folder.iterdir():
        path.unlink()
    change(cells / "labelsTr" / "case0.nii.gz", 0, (slice(None),))
    change(cells / "labelsTr" / "case0.nii.gz", 9, (slice(0, 4),))
    describe_dataset(cells, labels={"background": 0, "cell": 1, "ignore": 9})
    plain, told = read_dataset(cells), tell(cells)
    assert not read_objects(plain.cases[0], read(plain)).array.any()
    assert not read_objects(told.cases[0], read(told)).array.any()
    label_map = read(plain).label_map
    assert set(np.unique(label_map)) == {0, plain.labels.ignore_label}
    assert set(np.unique(read(told).label_map)) == {0, told.labels.ignore_label}
    grid = read_grid(cells / "labelsTr" / "case0.nii.gz")
    assert not _read_numbers(folder, grid, label_map, ignore_label=plain.labels.ignore_label).any()
