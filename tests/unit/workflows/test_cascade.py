import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders.damage import show_late
from builders.folds import build_checkpoint_description
from builders.labels import build_plain_labels
from builders.plans import build_configuration, build_plan
from builders.preprocessing import preprocess_training_case
from builders.progress import Notes
from builders.threads import use_one_thread
from safetensors.torch import save_file

from autoseg.dataset.folds import Fold, Splits
from autoseg.document import write_document
from autoseg.errors import PredictionError, RunError, TrainingError
from autoseg.files import checksums
from autoseg.geometry import Grid
from autoseg.inference import held_out
from autoseg.inference.ensemble import Ensemble
from autoseg.inference.model import load_model
from autoseg.networks import NETWORK_PREFIX, build_network
from autoseg.preprocessing.cache import write_case
from autoseg.preprocessing.class_locations import find_class_locations
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.stages.masks import MaskInput
from autoseg.stages.out_of_fold import StageLink, find_holders
from autoseg.stages.training_cases import open_training_case, read_network_input
from autoseg.workflows import cascade
from autoseg.workflows.cascade import find_link, list_stale_folds, prepare_stage_input, warn_of_stale_stages
from autoseg.workflows.evaluate.validation import validate_fold
from autoseg.workflows.plan.preprocessing import check_preprocessed, extract_recipe
from autoseg.workflows.select.model_choice import hash_ensemble, list_weights

CASCADE = "3d_cascade_fullres"
CASES = ("a", "b", "c")
SPLITS = Splits(
    folds=tuple(Fold(training=tuple(c for c in CASES if c != case), validation=(case,)) for case in ("b", "c", "a"))
)


_one_thread = pytest.fixture(autouse=True)(use_one_thread)


def make_configuration(spacing, *, channels=1, **changes):
    network = {"input_channels": channels, "output_channels": 4, "features_per_stage": (2, 2)}
    return build_configuration((8, 8, 8), spacing_mm=(spacing,) * 3, network=network, **changes)


@pytest.fixture
def plan():
    configurations = {
        "3d_lowres": make_configuration(2.0, data_of="3d_lowres"),
        "3d_fullres": make_configuration(1.0),
        CASCADE: make_configuration(1.0, channels=4, previous="3d_lowres"),
    }
    return build_plan(configurations, orientation=None, labels=build_plain_labels(3))


@pytest.fixture
def run(tmp_path, plan):
    """Preprocessed cases; fold k of the first stage predicts the label k + 1 everywhere."""
    run = RunFolder(tmp_path / "run")
    write_document(run.plan, plan)
    grid = Grid(shape_voxels=(10, 12, 8), spacing_mm=(1.0, 1.0, 1.0))
    for index, case in enumerate(CASES):
        image = np.random.default_rng(index).normal(1, 0.1, (1, *grid.shape_voxels)).astype(np.float32)
        for name in ("3d_lowres", "3d_fullres"):
            label_map = np.zeros(grid.shape_voxels, np.int16)
            done = preprocess_training_case(image, label_map, grid, plan, configuration=name)
            locations = find_class_locations(done.label_map, plan.labels)
            write_case(run.preprocessed(name), case, done, locations=locations, patch_voxels=(8, 8, 8))
            write_document(run.recipe(name), extract_recipe(plan, name))
    for fold in range(3):
        train_first_stage(run, plan, str(fold), label=fold + 1)
    return run


def train_first_stage(run, plan, fold, *, label):
    """A network that gives one label everywhere."""
    folder = run.fold("3d_lowres", fold)
    network = build_network(plan.configurations["3d_lowres"].network, torch.Generator().manual_seed(int(fold)))
    write_document(folder.plan, plan)
    weights = {f"{NETWORK_PREFIX}{name}": tensor for name, tensor in network.state_dict().items()}
    for name, tensor in weights.items():
        if tensor.shape[:1] == (4,):  # the layers that give logits
            tensor.zero_()
            if name.endswith("bias"):
                tensor[label] = 1
    save_file(weights, folder.final_checkpoint)


def predict(run, plan, splits=SPLITS):
    notes = Notes()
    link = find_link(run, plan, CASCADE, splits)
    stored = prepare_stage_input(link, device="cpu", progress=notes)
    return stored, notes.totals


def read_labels(run, plan, case):
    (stage_map,) = open_training_case(run, plan, CASCADE, case).further_maps
    return np.unique(stage_map[:]).tolist()


def test_every_case_is_predicted_by_the_fold_that_held_it_out(run, plan):
    stored, counts = predict(run, plan)
    assert counts == [3]
    assert stored.input == MaskInput(plan.configurations[CASCADE].previous_stage, plan.labels, (1.0, 1.0, 1.0))
    assert {case: read_labels(run, plan, case) for case in CASES} == {"a": [3], "b": [1], "c": [2]}
    opened = open_training_case(run, plan, CASCADE, "a")
    assert [part.shape for part in opened.maps] == [(10, 12, 8)] * 2


def test_the_network_gets_the_image_and_one_mask_per_foreground_label(run, plan):
    predict(run, plan)
    case = open_training_case(run, plan, CASCADE, "b")
    full = read_network_input(case, plan, CASCADE)
    assert (full.shape, full.dtype) == ((4, 10, 12, 8), np.float32)
    assert np.array_equal(full[:1], case.image[:])
    assert [np.unique(mask).tolist() for mask in full[1:]] == [[1], [0], [0]]


def test_without_a_previous_stage_the_network_gets_the_image(run, plan):
    case = open_training_case(run, plan, "3d_fullres", "b")
    assert case.further_maps == ()
    assert np.array_equal(read_network_input(case, plan, "3d_fullres"), case.image[:])


def test_held_out_cases_are_no_occasion_to_try_executions(run, plan, monkeypatch):
    chosen = []

    def load(*arguments, **choices):
        chosen.append(choices["execution"])
        return load_model(*arguments, **choices)

    monkeypatch.setattr(held_out, "load_model", load)
    predict(run, plan)
    assert chosen == ["eager"] * 3
    chosen.clear()
    with pytest.raises(RunError):  # nothing is preprocessed
        validate_fold(run, "3d_lowres", "0", cases=["z"], device="cpu", progress=SilentProgress())
    assert chosen == ["eager"]


def test_predictions_that_are_current_are_kept(run, plan):
    first, _ = predict(run, plan)
    files = {path: path.stat().st_mtime_ns for path in run.preprocessed(CASCADE).iterdir()}
    second, counts = predict(run, plan)
    assert counts == [0]
    assert second == first
    assert {path: path.stat().st_mtime_ns for path in run.preprocessed(CASCADE).iterdir()} == files


def test_trainings_that_begin_at_the_same_time_predict_every_case_once(run, plan, monkeypatch):
    predicted, write_map = [], StageLink.write_map

    def slowly(link, case, stage_map, **options):
        predicted.append(case)
        time.sleep(0.5)
        write_map(link, case, stage_map, **options)

    monkeypatch.setattr(StageLink, "write_map", slowly)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: predict(run, plan)[0], range(2))
    assert sorted(predicted) == ["a", "b", "c"]
    assert first == second


def test_a_fold_that_was_trained_again_predicts_again(run, plan):
    first, _ = predict(run, plan)
    train_first_stage(run, plan, "1", label=0)
    second, counts = predict(run, plan)
    assert counts == [1]
    assert {case: read_labels(run, plan, case) for case in CASES} == {"a": [3], "b": [1], "c": [0]}
    assert second.digest != first.digest


def test_another_division_into_folds_predicts_again(run, plan):
    predict(run, plan)
    swapped = Splits(folds=(SPLITS.folds[1], SPLITS.folds[0], SPLITS.folds[2]))
    _, counts = predict(run, plan, swapped)
    assert counts == [2]
    assert {case: read_labels(run, plan, case) for case in CASES} == {"a": [3], "b": [2], "c": [1]}


def test_a_lost_prediction_is_made_again(run, plan):
    first, _ = predict(run, plan)
    (run.preprocessed(CASCADE) / "b.previous.json").unlink()
    second, counts = predict(run, plan)
    assert (counts, second.digest) == ([1], first.digest)


def test_untrained_folds_of_the_previous_stage_are_listed(run, plan):
    link = find_link(run, plan, CASCADE, SPLITS)
    assert (link.previous, tuple(link.folds)) == ("3d_lowres", ("0", "1", "2"))
    assert link.list_untrained_folds() == ()
    run.fold("3d_lowres", "1").final_checkpoint.unlink()
    assert link.list_untrained_folds() == ("1",)


def test_a_first_stage_of_another_plan_is_refused(run, plan):
    wider = plan.configurations["3d_lowres"].model_copy(update={"spacing_mm": (3.0, 3.0, 3.0)})
    edited = plan.model_copy(update={"configurations": plan.configurations | {"3d_lowres": wider}})
    with pytest.raises(PredictionError, match="stages of a cascade must follow one plan"):
        predict(run, edited)


def test_a_configuration_without_a_previous_stage_has_no_link(run, plan):
    assert find_link(run, plan, "3d_fullres", SPLITS) is None


def test_a_case_that_no_fold_holds_out_is_named():
    with pytest.raises(TrainingError, match=r"found none for 1 of 3 \(a\)"):
        find_holders([("c",), ("b",)], ("a", "b", "c"))


def test_a_case_that_several_folds_hold_out_belongs_to_the_first():
    assert find_holders([("b",), ("a", "b", "c")], ("a", "c")) == {"b": "0", "a": "1", "c": "1"}


def test_folds_and_cases_that_a_network_drive_shows_late_are_not_missed(run, plan, monkeypatch):
    record = run.preprocessed("3d_lowres") / "b.json"
    show_late(monkeypatch, {run.fold("3d_lowres", "1").final_checkpoint: None, record: None})
    assert find_link(run, plan, CASCADE, SPLITS).list_untrained_folds() == ()
    check_preprocessed(run, plan, "3d_lowres", CASES)


def test_folds_that_cannot_be_read_do_not_keep_a_model_from_predicting(run):
    model = load_model(run, configuration="3d_lowres", device="cpu", execution="eager")
    run.splits.write_text("{")
    assert list(warn_of_stale_stages(run, [model, replace(model, configuration=CASCADE)])) == []


def test_every_command_hashes_a_checkpoint_once_for_all_questions(run, plan, monkeypatch):
    """Whether folds are up to date, which weights a selection and a prediction use, who predicted which case."""
    read = []
    hash_file = checksums._read_sha256
    monkeypatch.setattr(checksums, "_read_sha256", lambda path: read.append(path) or hash_file(path))
    paths = [run.fold("3d_lowres", str(fold)).final_checkpoint for fold in range(3)]
    for path in paths:
        os.utime(path, (1e9, 1e9))
    ensemble = Ensemble(members=(load_model(run, configuration="3d_lowres", device="cpu", execution="eager"),))
    monkeypatch.setattr(cascade, "read_description", lambda path: build_checkpoint_description())

    def ask():
        sources = find_link(run, plan, CASCADE, SPLITS).find_sources()
        (hashed,) = hash_ensemble(run, ensemble)
        listed = list_weights(run, plan, "3d_lowres", ("0", "1", "2"))
        assert list_stale_folds(run, plan, SPLITS, configuration=CASCADE, folds=("0",)) == ("0",)
        assert {source.weights_sha256 for source in sources.values()} == set(hashed) == set(listed)
        return listed

    before = ask()
    assert ask() == before
    assert sorted(read) == sorted(paths)
    content = bytearray(paths[0].read_bytes())
    content[-1] ^= 1
    paths[0].write_bytes(content)  # of the same size
    os.utime(paths[0], (1.1e9, 1.1e9))
    assert [old == new for old, new in zip(before, ask(), strict=True)] == [False, True, True]
    assert len(read) == 4
