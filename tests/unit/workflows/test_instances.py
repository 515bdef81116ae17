"""Label maps of numbered objects: which are found, checked, and used for training."""

import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from builders.datasets import write_dataset
from builders.labels import build_labels
from builders.plans import build_preprocessing_plan

from autoseg.dataset import read_dataset, record_dataset, restore_dataset
from autoseg.dataset.cases import INSTANCES
from autoseg.document import write_document
from autoseg.errors import DatasetError, RunError
from autoseg.plan import Plan
from autoseg.plan.losses import BorderWeightedCrossEntropyTerm
from autoseg.preprocessing.cache import list_cases, open_case
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.workflows.cases.reading import read_instances, read_labelled_case
from autoseg.workflows.plan.checking import CheckRequest, check_dataset
from autoseg.workflows.plan.preprocessing import extract_recipe, is_recipe_followed, preprocess_case
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
    (note,) = [note for note in check(with_objects).notes if INSTANCES in note]
    assert note.startswith(f"case {first.name.removesuffix('.nii.gz')}: ")
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


def build_plans() -> dict[str, Plan]:
    """Plans of slices at half the resolution, of which one has a loss that tells objects apart."""
    labels = build_labels({"big": (2,), "small": (5,)})
    usual = build_preprocessing_plan(spacings_mm={"2d": (2.0, 2.0)}, labels=labels)
    term = BorderWeightedCrossEntropyTerm(
        weight=1.0,
        background_weights=(1.0,),
        class_weights=(1.0, 1.0, 1.0),
        border_weight=10.0,
        border_sigma_mm=5.0,
        objects="instances",
    )
    whole = usual.configurations["2d"]
    training = whole.training.model_copy(update={"losses": (term,)})
    bordered = {"2d": whole.model_copy(update={"training": training})}
    return {"usual": usual, "bordered": usual.model_copy(update={"configurations": bordered})}


def write_two_squares(folder: Path) -> Path:
    """Two cases of a slice with two objects of one class that share an edge."""
    label_map = np.zeros((24, 24, 1), np.uint8)
    label_map[4:12, 4:20], label_map[12:20, 4:20] = 2, 2
    image = np.random.default_rng(0).normal(100, 10, label_map.shape).astype(np.float32)
    write_dataset(folder, [(name, (image, label_map)) for name in "ab"], labels={"big": 2, "small": 5})
    shutil.copytree(folder / "labelsTr", folder / INSTANCES)
    for path in (folder / INSTANCES).iterdir():
        change(path, lambda objects: objects[12:20].__imul__(3))
    return folder


def test_only_the_border_weights_read_them_and_preprocess_with_borders_which_are_no_losses(tmp_path: Path) -> None:
    case, found = read_dataset(write_two_squares(tmp_path / "Dataset001_Squares")).cases[0], {}
    plans = build_plans()
    for name, plan in plans.items():
        run = RunFolder(tmp_path / name)
        write_document(run.recipe("2d"), extract_recipe(plan, "2d"))
        assert preprocess_case(case, plan=plan, run=run, configurations=["2d"]) == ()
        found[name] = open_case(run.preprocessed("2d"), "a").label_map[:]
        for other in plans:
            assert is_recipe_followed(run, plans[other], "2d") == (other == name)
    with pytest.raises(RunError, match=r"plan\.json was changed while this case was preprocessed for 2d; repeat"):
        preprocess_case(replace(case, name="b"), plan=plans["usual"], run=run, configurations=["2d"])
    assert list_cases(run.preprocessed("2d")) == ("a",)
    lost = found["usual"] != found["bordered"]
    assert (found["usual"] > 0).sum() == 64
    assert lost.sum() == 16
    assert not found["bordered"][lost].any()
