"""Masks and clicks of a previous stage become channels of the network."""

import json
import shutil

import numpy as np
import pytest
import torch
from builders.labels import build_plain_labels
from builders.plans import build_transforms

from autoseg.dataset.folds import Fold
from autoseg.document import write_document
from autoseg.errors import ExchangeError, TrainingError
from autoseg.exchange.nnunet_export import write_model_description
from autoseg.inference.model import load_model
from autoseg.networks.weights import read_weights
from autoseg.plan import ClicksOfPreviousStage, Plan
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.stages.clicks import ClickInput, build_locator
from autoseg.stages.training_cases import open_training_case, read_network_input
from autoseg.training.data.batches import build_batch_source
from autoseg.training.data.data_placement import DataPlacement
from autoseg.training.data.device_batches import build_device_batch_source
from autoseg.training.data.randomness import BatchKey
from autoseg.workflows.cascade import find_link, prepare_stage_input
from autoseg.workflows.train.initial_weights import find_stage_weights
from autoseg.workflows.train.request import TrainingRequest
from autoseg.workflows.train.training import train_run

FIRST, SECOND, REFINE = "3d_lowres", "3d_cascade_fullres", "3d_lowres_refine"
CPU = torch.device("cpu")
CLICKS = ClicksOfPreviousStage(configuration=FIRST, reach_mm=3.0, edge_mm=0.5, first_weights="previous_stage")


@pytest.fixture
def clicks():
    """Two foreground labels, so that 4, 5 and 6 mark clicks of the labels 0, 1 and 2."""
    return ClickInput(CLICKS, build_plain_labels(2), (1.0, 1.0, 1.0))


@pytest.fixture
def stage_map():
    """Two labels, background outside the nonzero region, and a click of every label."""
    content = np.zeros((6, 7, 8), np.int16)
    content[:3], content[3, :3], content[5] = 1, 2, -1
    content[0, 0, 0], content[4, 4, 4], content[5, 6, 7] = 4, 6, 5
    return content


def test_masks_get_the_clicks_and_each_label_has_a_map_of_proximity(clicks, stage_map):
    image = np.zeros((1, 6, 7, 8), np.float32)
    full = clicks.append_to(image, stage_map)
    assert len(full) == 1 + CLICKS.count_channels(clicks.labels) == 6
    _, first, second, *near = full
    assert (first.sum(), second.sum()) == (3 * 7 * 8 - 1 + 1, 3 * 8 + 1)
    assert (first[0, 0, 0], first[5, 6, 7], second[4, 4, 4]) == (0, 1, 1)
    places = [(0, 0, 0), (5, 6, 7), (4, 4, 4)]
    assert [np.argwhere(part == 1).tolist() for part in near] == [[list(place)] for place in places]
    assert near[2][4, 4, 5] == pytest.approx(2 / 3)
    assert near[2][4, 4, 7] == 0


def test_without_clicks_the_masks_are_those_of_a_cascade(clicks):
    content = np.random.default_rng(0).integers(-1, 3, (4, 5, 6)).astype(np.int16)
    full = clicks.append_to(np.ones((1, 4, 5, 6), np.float32), content)
    assert np.array_equal(full[1:3], [content == 1, content == 2])
    assert not full[3:].any()


def test_a_batch_on_a_device_has_the_same_channels(clicks, stage_map):
    images = np.random.default_rng(1).normal(size=(2, 1, 6, 7, 8)).astype(np.float32)
    maps = np.stack([stage_map, stage_map[::-1]])
    found = clicks.list_image_channels(torch.from_numpy(images), torch.from_numpy(maps.copy()))
    expected = [clicks.list_image_channels(*pair) for pair in zip(images, maps, strict=True)]
    assert np.array_equal(torch.stack([part.float() for part in found], dim=1).numpy(), expected)


def test_where_the_network_sees_slices_clicks_stay_in_their_slice(stage_map):
    clicks = ClickInput(CLICKS, build_plain_labels(2), (1.0, 1.0))
    image = np.random.default_rng(2).normal(size=(1, 6, 7, 8)).astype(np.float32)
    whole = clicks.append_to(image, stage_map)
    slices = [clicks.append_to(image[:, index], stage_map[index]) for index in range(6)]
    assert np.array_equal(whole, np.stack(slices, axis=1))
    assert [bool(part[-1].any()) for part in slices] == [False, False, False, False, True, False]


@pytest.fixture
def plan(describe_plan):
    content = describe_plan()
    del content["configurations"]["third"], content["configurations"][SECOND]
    chosen = content["configurations"]["3d_fullres"] | {"previous_stage": CLICKS.model_dump()}
    transforms = [part.model_dump() for part in build_transforms(simulated_clicks={})]
    chosen["network"] = chosen["network"] | {"input_channels": 1 + 3 + 4}
    chosen["training"] = chosen["training"] | {"transforms": transforms}
    content["configurations"][REFINE] = chosen
    return Plan.model_validate(content)


@pytest.fixture
def stored(plan, run, splits, train):
    """Of every case the previous stage predicts background alone, so all objects are errors."""
    for fold in range(3):
        train(plan, FIRST, str(fold))
    return prepare_stage_input(find_link(run, plan, REFINE, splits), device="cpu", progress=SilentProgress())


@pytest.mark.parametrize("is_device", [False, True])
def test_training_patches_get_clicks_and_validation_patches_none(plan, run, stored, *, is_device):
    configuration = plan.configurations[REFINE]
    source = build_batch_source(
        configuration,
        plan.channels,
        data_folder=run.preprocessed("3d_fullres"),
        fold=Fold(training=("a", "c"), validation=("b",)),
        seed=0,
        previous=stored,
    )
    if is_device:
        placement = DataPlacement(where="disk", because="")
        source = build_device_batch_source(source, configuration, plan.channels, device=CPU, placement=placement)
    batches = [source.make_batch(BatchKey(stream="training", epoch=0, iteration=0)) for _ in range(2)]
    assert torch.equal(batches[0].image, batches[1].image)  # so a resumed training gets them, too
    image = batches[0].image
    assert image.shape == (2, 8, 8, 8, 8)
    background, first, *others = image[:, 4:].movedim(1, 0)
    assert first.flatten(1).amax(1).tolist() == [1, 1]
    assert not background.any()
    assert not any(part.any() for part in others)
    validation = source.make_batch(BatchKey(stream="validation", epoch=0, iteration=0)).image
    assert not validation[:, 4:].any()


def test_validation_and_prediction_give_the_network_no_clicks(plan, run, stored, train):
    case = open_training_case(run, plan, REFINE, "a")
    assert not read_network_input(case, plan, REFINE)[1:].any()
    train(plan, REFINE, "0", is_random=True)
    model = load_model(run, configuration=REFINE, folds=("0",), device="cpu")
    array = np.random.default_rng(5).normal(1, 0.1, (1, 10, 12, 8)).astype(np.float32)
    new = model.preprocess(array, case.geometry.grid)
    full = np.concatenate([new.image, np.zeros((7, *new.image.shape[1:]), np.float32)])
    assert torch.equal(model.predict_case(new), model.predict_preprocessed(full))


@pytest.mark.usefixtures("stored")
def test_a_training_begins_with_the_weights_of_the_same_fold_of_the_previous_stage(plan, run, splits):
    link = find_link(run, plan, REFINE, splits)
    assert link.begins_with_previous
    assert find_stage_weights(link, "2") == run.fold(FIRST, "2").final_checkpoint
    assert find_stage_weights(link, "all") == run.fold(FIRST, "0").final_checkpoint
    run.fold(FIRST, "1").root.rename(run.fold(FIRST, "all").root)
    assert find_stage_weights(link, "all") == run.fold(FIRST, "all").final_checkpoint
    with pytest.raises(TrainingError, match=r"fold 1 begins with the weights of .* fold 1, which is not trained"):
        find_stage_weights(link, "1")  # others were trained on the cases that it holds out


@pytest.fixture
def _no_drawing(monkeypatch):
    """Drawing takes longer than a tiny training."""
    monkeypatch.setattr("autoseg.training.monitoring.history_files.write_progress_picture", lambda *_, **__: None)


@pytest.mark.usefixtures("_no_drawing")
def test_a_training_is_repeated_bit_by_bit(plan, run, train, tmp_path):
    write_document(run.plan, plan)
    for fold in range(3):
        train(plan, FIRST, str(fold))
    other = RunFolder(tmp_path / "other")
    shutil.copytree(run.root, other.root)
    request = TrainingRequest(configuration=REFINE, folds=("0",), device="cpu", workers=0)
    for folder in (run, other):
        assert len(tuple(train_run(folder.root, request, progress=SilentProgress()))) == 1
    first, second = (read_weights(folder.fold(REFINE, "0").final_checkpoint) for folder in (run, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    told = json.loads((run.fold(REFINE, "0").root / "training.json").read_text())
    assert told["initial_weights"] == str(run.fold(FIRST, "0").final_checkpoint)


@pytest.mark.usefixtures("_no_drawing")
def test_a_training_is_continued_though_it_would_begin_with_other_weights_now(plan, run, train):
    write_document(run.plan, plan)
    for fold in range(3):
        train(plan, FIRST, str(fold))
    request = TrainingRequest(configuration=REFINE, folds=("all",), device="cpu", workers=0)
    assert len(tuple(train_run(run.root, request, progress=SilentProgress()))) == 1
    shutil.copytree(run.fold(FIRST, "1").root, run.fold(FIRST, "all").root)
    tuple(train_run(run.root, request, progress=SilentProgress()))
    told = json.loads((run.fold(REFINE, "all").root / "training.json").read_text())
    assert told["initial_weights"] == str(run.fold(FIRST, "0").final_checkpoint)


def test_clicks_are_not_exported_to_a_tool_that_knows_none(plan, tmp_path):
    with pytest.raises(ExchangeError, match=r"3d_lowres_refine gets 'clicks' from 3d_lowres.*--format autoseg"):
        write_model_description(tmp_path, plan, None)


def test_clicks_without_a_stage_that_gets_them_are_refused(plan):
    content = plan.model_dump(mode="json")
    content["configurations"]["3d_fullres"]["training"]["transforms"] = content["configurations"][REFINE]["training"][
        "transforms"
    ]
    with pytest.raises(ValueError, match="this configuration has none"):
        Plan.model_validate(content)
    last = content["configurations"][REFINE]["training"]["transforms"]
    last.append(build_transforms(mask_component_removal={})[0].model_dump(mode="json"))
    with pytest.raises(ValueError, match="'simulated_clicks' must be the last transform"):
        Plan.model_validate(content)


def test_voxels_of_the_file_are_found_on_the_grid_of_the_network(run, plan, stored):
    geometry = open_training_case(run, plan, REFINE, "a").geometry
    changed = geometry.model_copy(
        update={
            "axis_permutation": (2, 0, 1),
            "crop_box": ((2, 6), (0, 10), (4, 12)),
            "resampled_shape_voxels": (8, 5, 8),
        }
    )
    locate = build_locator(changed)
    marked = np.zeros((10, 12, 8), np.int16)  # z, y, x of the file
    for voxel in [(0, 4, 2), (3, 7, 5), (9, 11, 3)]:
        marked[voxel] = 1
        ((z, y, x),) = np.argwhere(changed.reorientation.apply(marked)[changed.crop_slices]).tolist()
        marked[voxel] = 0
        assert locate(voxel) == (2 * z, y // 2, x) or locate(voxel) == (2 * z + 1, y // 2, x)
    assert locate((0, 3, 2)) is None
    assert locate((0, 4, 6)) is None
