"""Label maps of numbered objects: which are found, checked, and used for training."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import autoseg
from autoseg.cli.choices import find_planner
from autoseg.dataset import read_dataset, record_dataset, restore_dataset
from autoseg.dataset.cases import INSTANCES
from autoseg.document import read_document
from autoseg.errors import DatasetError
from autoseg.plan import Plan
from autoseg.preprocessing.cache import open_case
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.workflows.cases.reading import read_instances, read_labelled_case
from autoseg.workflows.plan.checking import CheckRequest, check_dataset
from autoseg.workflows.plan.preprocessing import is_recipe_followed
from autoseg.workflows.plan.splitting import SplitRequest


@pytest.fixture
def with_objects(dataset: Path) -> Path:
    """The dataset, whose label maps number the objects, too."""
    shutil.copytree(dataset / "labelsTr", dataset / INSTANCES)
    return dataset


def change(path: Path, edit) -> None:
    loaded = nib.load(path)
    array = np.asarray(loaded.dataobj).astype(np.int16)
    edit(array)
    nib.save(nib.Nifti1Image(array, loaded.affine), path)


def check(folder: Path):
    return check_dataset(folder, CheckRequest(split=SplitRequest(), workers=1), progress=SilentProgress())


def test_files_named_as_the_cases_number_their_objects_also_after_the_run_was_planned(with_objects: Path) -> None:
    found = read_dataset(with_objects)
    assert [case.instances_path.name for case in found.cases] == [case.label_path.name for case in found.cases]
    assert restore_dataset(record_dataset(found)).cases == found.cases
    assert check(with_objects).problems == ()


def test_cases_without_such_a_file_are_named(with_objects: Path) -> None:
    first, second, *_ = sorted((with_objects / INSTANCES).iterdir())
    first.unlink()
    second.unlink()
    report = check(with_objects)
    (note,) = [note for note in report.notes if INSTANCES in note]
    names = [case.name for case in read_dataset(with_objects).cases if case.instances_path is None]
    assert len(names) == 2
    assert all(name in note for name in names)
    case = next(case for case in read_dataset(with_objects).cases if case.instances_path is None)
    labels, channels = read_dataset(with_objects).labels, read_dataset(with_objects).channel_names
    with pytest.raises(DatasetError, match=f"{INSTANCES} holds no file of this case"):
        read_instances(case, read_labelled_case(case, labels=labels, channel_names=channels))


def test_objects_beyond_the_foreground_and_on_another_grid_are_problems(with_objects: Path) -> None:
    first, second, third, *_ = sorted((with_objects / INSTANCES).iterdir())
    change(first, lambda array: array.__setitem__((0, 0, slice(0, 3)), 77))
    cropped = nib.load(second)
    nib.save(nib.Nifti1Image(np.asarray(cropped.dataobj)[:-1], cropped.affine), second)
    change(third, lambda array: array.__setitem__((0, 0, 0), -1))
    texts = {problem.cases[0]: problem.text for problem in check(with_objects).problems}
    assert len(texts) == 3
    assert "beyond it are 77 (3 voxels)" in texts[first.name.removesuffix(".nii.gz")]
    assert f"instance label map {second}" in texts[second.name.removesuffix(".nii.gz")]
    assert "number objects from 1" in texts[third.name.removesuffix(".nii.gz")]


def plan_and_count(dataset: Path, run: Path, loss: str) -> tuple[Plan, int]:
    """Plans with a loss, and counts the voxels of all classes in the preprocessed slices."""
    autoseg.plan_dataset(dataset, run, planner=find_planner("default", loss=loss), configurations=["2d"], workers=1)
    plan = read_document(RunFolder(run).plan, Plan)
    cases = [open_case(RunFolder(run).preprocessed("2d"), case.name) for case in read_dataset(dataset).cases]
    return plan, sum(int((case.label_map[:] > 0).sum()) for case in cases)


def test_only_the_border_weights_read_them_and_preprocess_with_borders(with_objects: Path, tmp_path: Path) -> None:
    for path in (with_objects / INSTANCES).iterdir():
        start = int(np.argwhere(np.asarray(nib.load(path).dataobj) == 2)[:, 0].min())
        change(path, lambda objects, first=start: objects[first + 1 :].__imul__(3))  # "big" falls into two objects
    usual, whole = plan_and_count(with_objects, tmp_path / "usual", "weighted_cross_entropy")
    plan, separated = plan_and_count(with_objects, tmp_path / "borders", "border_weighted_cross_entropy")
    assert separated < whole
    run = RunFolder(tmp_path / "borders")
    assert is_recipe_followed(run, plan, "2d")
    assert not is_recipe_followed(run, usual, "2d")
