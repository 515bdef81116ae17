"""`autoseg select` calibrates estimates of quality: features that validations stored, and those that are missing."""

import numpy as np
import pytest
from builders.folds import build_checkpoint_description, write_trained_fold
from builders.plans import build_configuration, build_plan
from builders.preprocessing import preprocess_training_case
from builders.progress import Notes
from builders.threads import use_one_thread
from safetensors.torch import load_file, save_file

from autoseg.dataset.folds import Fold, Splits
from autoseg.document import read_document, write_document
from autoseg.geometry import Grid
from autoseg.preprocessing.cache import write_case
from autoseg.preprocessing.class_locations import find_class_locations
from autoseg.processes import case_pool
from autoseg.processes.progress import SilentProgress
from autoseg.quality.calibration import CALIBRATION_NAME, QualityCalibration
from autoseg.run_folder import RunFolder, remove_folder
from autoseg.training.checkpoint import DESCRIPTION_KEY
from autoseg.volume_io import write_label_map
from autoseg.workflows.evaluate.validation import validate_fold
from autoseg.workflows.plan.preprocessing import extract_recipe
from autoseg.workflows.select import stored_predictions
from autoseg.workflows.select.request import SelectionRequest
from autoseg.workflows.select.selection import select_models

GRID = Grid(shape_voxels=(9, 10, 11), spacing_mm=(1.0, 1.0, 1.0))
FOLDS = (tuple(f"a{index}" for index in range(3)), tuple(f"b{index}" for index in range(3)))
_one_thread = pytest.fixture(autouse=True)(use_one_thread)


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """Evaluation would start processes on several cores."""
    monkeypatch.setattr(case_pool, "count_usable_cpus", lambda: 1)


def add_description(path):
    """Turns bare weights into what a training of no epoch leaves."""
    description = build_checkpoint_description().model_dump_json()
    save_file(load_file(path), path, metadata={DESCRIPTION_KEY: description})


@pytest.fixture
def run(tmp_path):
    """Six preprocessed cases, and two validated folds of networks that were never trained."""
    plan = build_plan({"3d_fullres": build_configuration((8, 8, 8))})
    run = RunFolder(tmp_path / "run")
    folds = tuple(Fold(training=FOLDS[1 - index], validation=held_out) for index, held_out in enumerate(FOLDS))
    write_document(run.plan, plan)
    write_document(run.splits, Splits(folds=folds))
    write_document(run.recipe("3d_fullres"), extract_recipe(plan, "3d_fullres"))
    for index, case in enumerate((*FOLDS[0], *FOLDS[1])):
        label_map = np.random.default_rng(index).integers(0, 3, GRID.shape_voxels).astype(np.int16)
        image = np.random.default_rng(index).normal(size=(1, *GRID.shape_voxels)).astype(np.float32)
        done = preprocess_training_case(image, label_map, GRID, plan, configuration="3d_fullres")
        locations = find_class_locations(done.label_map, plan.labels)
        write_case(run.preprocessed("3d_fullres"), case, done, locations=locations, patch_voxels=(8, 8, 8))
        reference = plan.labels.decode(label_map)
        write_label_map(run.references / f"{case}.nii.gz", reference, grid=GRID, like=None)
    for fold, cases in enumerate(FOLDS):
        write_trained_fold(run.root, plan, "3d_fullres", fold=str(fold), seed=fold)
        add_description(run.fold("3d_fullres", str(fold)).final_checkpoint)
        validate_fold(run, "3d_fullres", str(fold), cases=cases, device="cpu", progress=SilentProgress())
    return run


def select(run):
    notes = Notes()
    select_models(run.root, SelectionRequest(device="cpu", variants=False), progress=notes)
    return read_document(run.root / CALIBRATION_NAME, QualityCalibration), notes.text


def list_features(run):
    return sorted(run.root.rglob("*.features.json"))


def test_features_that_validations_stored_are_used_without_any_prediction(run, monkeypatch):
    monkeypatch.setattr(stored_predictions, "load_held_out_model", None)
    calibration, text = select(run)
    assert [path.name for path in list_features(run)] == [f"{fold}{n}.features.json" for fold in "ab" for n in range(3)]
    assert (calibration.cases, calibration.distribution.cases) == (6, 6)
    assert "quality: no Dice is estimated: 6 held-out cases are too few to calibrate it, fewer than 20" in text


def test_features_that_are_missing_or_of_other_weights_are_measured_once_more(run, monkeypatch):
    expected, _ = select(run)
    missing, other = list_features(run)[1], list_features(run)[4]
    missing.unlink()
    other.write_text(other.read_text().replace('"fold": "1"', '"fold": "7"'))
    found, text = select(run)
    assert "features of 2 held-out cases are not stored; these cases are predicted once more" in text
    assert found == expected
    monkeypatch.setattr(stored_predictions, "load_held_out_model", None)
    assert select(run)[0] == expected


def test_cases_that_are_not_preprocessed_any_more_are_left_out_with_a_warning(run):
    list_features(run)[1].unlink()
    remove_folder(run.preprocessed("3d_fullres"))
    calibration, text = select(run)
    assert calibration.cases == 5
    assert "warning: quality is calibrated without 1 held-out cases, which have no features: 1 of 1 cases" in text
