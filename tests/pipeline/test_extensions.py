"""A family, a loss, a transform, an objective, a stage input and a planner from outside, by one row in each table.

They stand in the folder `extensions`, and `extensions/extended_autoseg.py` is autoseg with their rows.
"""

import json
import os
import re
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from builders.balls import make_case, save, write_balls
from builders.command_line import Done, run_autoseg, start_server
from builders.folds import read_arrays

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # several trainings, each with the start of its processes
EXTENSIONS = Path(__file__).parent / "extensions"
EXTENDED = (sys.executable, str(EXTENSIONS / "extended_autoseg.py"))
FIRST, SECOND = "3d_fullres", "3d_cascade_fullres"
ON_CPU = ("--device", "cpu", "--precision", "float32")
IMAGE, REFERENCE = make_case(50)
run_extended = partial(run_autoseg, autoseg=EXTENDED)


def check(done: Done) -> Done:
    assert done.code == 0, done.out + done.err
    return done


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Planned by the planner from outside; a fold of the second stage trained, and both folds of the first before."""
    folder = tmp_path_factory.mktemp("extensions")
    run = folder / "balls.autoseg"
    dataset = write_balls(folder / "Dataset001_Balls", cases=2)
    check(run_extended("plan", dataset, "--run", run, "--planner", "extended", "--workers", 1))
    check(run_extended("train", run, "--configuration", SECOND, "--fold", "0", *ON_CPU, "--workers", 0))
    return run


@pytest.fixture(scope="module")
def selected(trained: Path) -> Path:
    """And the best of them chosen."""
    check(run_extended("select", trained, "--device", "cpu"))
    return trained


def test_the_plan_holds_what_the_new_kinds_are_given(trained: Path) -> None:
    plan = json.loads((trained / "plan.json").read_text())
    assert plan["planner"] == "extended"
    first, second = (plan["configurations"][name] for name in (FIRST, SECOND))
    assert first["network"] == {
        "family": "twin_heads",
        "dimensions": 3,
        "input_channels": 1,
        "output_channels": 3,
        "features": 8,
    }
    assert second["network"]["input_channels"] == 2
    assert second["previous_stage"] == {"input": "foreground", "configuration": FIRST}
    training = second["training"]
    assert training["losses"][1] == {"name": "power_error", "weight": 0.5, "exponent": 2.0}
    assert training["objective"] == {"name": "perturbed", "noise_std": 0.1}
    assert {"name": "offset", "probability": 0.5, "limit": 0.2} in training["transforms"]


def test_processes_that_train_one_fold_each_know_the_new_kinds(trained: Path) -> None:
    status = json.loads(check(run_extended("status", trained, "--json")).out)
    finished = {(fold["configuration"], fold["fold"]) for fold in status if fold["state"] == "finished"}
    assert finished == {(FIRST, "0"), (FIRST, "1"), (SECOND, "0")}
    records = (trained / "preprocessed" / SECOND).glob("*.previous.json")
    assert sorted(json.loads(path.read_text())["source"]["fold"] for path in records) == ["0", "1"]


def test_an_interrupted_training_goes_on_and_ends_as_if_nothing_had_happened(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    folder = run / "models" / SECOND / "fold_0"
    expected = read_arrays(folder / "checkpoint_final.safetensors")
    shutil.rmtree(folder)
    train = ("train", str(run), "--configuration", SECOND, "--fold", "0", *ON_CPU, "--workers", "1")
    interrupt_after_an_epoch(train, folder / "training_log.jsonl")
    state = read_arrays(folder / "checkpoint_latest.safetensors")
    assert 50 < state["objective.steps"] < 100
    assert state["objective.share_logits"].all()
    continued = check(run_extended(*train[:-1], "0"))
    assert "fold 0: continues, in epoch 2 of 2" in continued.out
    found = read_arrays(folder / "checkpoint_final.safetensors")
    assert found.keys() == expected.keys()
    assert {"network.mean", "network.heads.1.weight"} <= found.keys()
    assert found["network.mean"].all()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def interrupt_after_an_epoch(arguments: tuple[str, ...], log: Path) -> None:
    process = start_server(EXTENDED[1:]).start(arguments)
    deadline = time.monotonic() + 200
    while not (log.is_file() and log.read_text()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    done = process.finish()
    assert done.code == 143, done.err


def test_configurations_of_new_kinds_are_compared_and_paired(selected: Path) -> None:
    selection = json.loads((selected / "selection.json").read_text())
    candidates = {tuple(candidate["configurations"]) for candidate in selection["candidates"]}
    assert candidates == {(FIRST,), (SECOND,), (FIRST, SECOND)}


def test_new_images_are_predicted_with_both_stages(selected: Path, tmp_path: Path) -> None:
    save(tmp_path / "images" / "new_0000.nii.gz", IMAGE)
    out = tmp_path / "out"
    check(run_extended("predict", selected, tmp_path / "images", out, "--configuration", SECOND, "--device", "cpu"))
    assert len(json.loads((out / "prediction.json").read_text())["weights_sha256"]) == 3  # two of the first stage
    label_map = np.asarray(nib.load(out / "new.nii.gz").dataobj)
    overlap = ((label_map > 0) & (REFERENCE > 0)).sum()
    assert 2 * overlap / ((label_map > 0).sum() + (REFERENCE > 0).sum()) > 0.5


def test_the_selected_model_predicts_the_same_from_one_file(selected: Path, tmp_path: Path) -> None:
    save(tmp_path / "images" / "new_0000.nii.gz", IMAGE)
    model = tmp_path / "model.zip"
    check(run_extended("export", selected, "--format", "autoseg", "--output", model))
    label_maps = []
    for source, out in ((selected, tmp_path / "run"), (model, tmp_path / "file")):
        check(run_extended("predict", source, tmp_path / "images", out, "--device", "cpu"))
        label_maps.append(np.asarray(nib.load(out / "new.nii.gz").dataobj))
    np.testing.assert_array_equal(*label_maps)
    assert len(np.unique(label_maps[0])) > 1


def test_what_others_do_not_have_is_refused_by_name(trained: Path, tmp_path: Path) -> None:
    options = ("--format", "nnunet", "--output", tmp_path / "out", "--configuration", FIRST)
    exported = run_extended("export", trained, *options)
    assert exported.code == 1
    assert "nnU-Net has no network of the family 'twin_heads'" in " ".join(exported.err.split())
    without_rows = run_autoseg("status", trained)
    assert without_rows.code == 1
    message = " ".join(without_rows.err.split())
    assert re.search(r"network: 'family' must be one of plain_unet, .* \(got 'twin_heads'\)", message)


@pytest.fixture
def offset(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The transform from outside, with its row."""
    monkeypatch.syspath_prepend(EXTENSIONS)
    from offset import Offset, OffsetPlan

    from autoseg.training.augmentation.transforms import TRANSFORMS

    monkeypatch.setitem(TRANSFORMS, "offset", Offset)
    return SimpleNamespace(plan=OffsetPlan(probability=0.5, limit=2.0))


def test_a_new_transform_changes_batches_on_a_device(offset: SimpleNamespace) -> None:
    from autoseg.training.augmentation.pipeline import SampleAugmentation, build_device_augmentation
    from autoseg.training.augmentation.tensors.transfer import copy_together
    from autoseg.training.augmentation.transform import Patches
    from autoseg.training.augmentation.transforms import build_transforms, list_without_device_form

    transforms = build_transforms((offset.plan,), (4, 4))
    assert list_without_device_form(transforms) == []
    augmentation = build_device_augmentation(SampleAugmentation(transforms=transforms, masked_channels=()))
    drawn = augmentation.draw([np.random.SeedSequence(index) for index in range(16)], channels=1)
    images, label_maps = torch.zeros(16, 1, 4, 4), torch.zeros(16, 1, 4, 4, dtype=torch.int16)
    patches = Patches(image=images, label_maps=label_maps)
    nothing = Patches(image=images[:0], label_maps=label_maps[:0])
    arrays = copy_together([array for group in drawn.arrays for array in group], torch.device("cpu"))
    changed, _ = augmentation(patches=patches, cuts=nothing, parameters=drawn, arrays=arrays)
    (offsets,) = drawn.of_transforms
    assert 4 < np.count_nonzero(offsets) < 12
    np.testing.assert_allclose(changed.mean((1, 2, 3)).numpy(), offsets, rtol=1e-5)
