"""A configuration that corrects the boundaries of another one: its patches, and its place in a run."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders.labels import build_labels, build_plain_labels
from builders.networks import build_small_network_plan
from builders.plans import build_configuration, build_plan

from autoseg.dataset.folds import Fold
from autoseg.document import parse_part, write_document
from autoseg.errors import DocumentError, ExchangeError, PredictionError, TrainingError
from autoseg.exchange.nnunet_export import write_model_description
from autoseg.inference.ensemble import MemberChoice
from autoseg.inference.model import load_model
from autoseg.inference.view_disagreement import record_normalizers
from autoseg.networks import build_network
from autoseg.networks.weights import read_weights
from autoseg.plan import ConfigurationPlan, Plan
from autoseg.plan.objectives import PlausibilityPlan
from autoseg.preprocessing.cache import open_case
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import FoldFolder
from autoseg.stages.boundary import ClassArray, find_boundary, has_boundary, select_centres
from autoseg.stages.stored_maps import open_stage_map
from autoseg.training.checkpoint import read_description
from autoseg.training.data.batches import build_batch_source
from autoseg.training.data.data_placement import DataPlacement
from autoseg.training.data.device_batches import build_device_batch_source
from autoseg.training.data.randomness import BatchKey
from autoseg.training.data.training_data import TrainingData
from autoseg.training.monitoring.events import EpochDone
from autoseg.training.options import TrainingOptions
from autoseg.training.trainer import train as train_network
from autoseg.workflows.cascade import find_link, prepare_stage_input
from autoseg.workflows.predict.attention_maps import check_attention_maps
from autoseg.workflows.train.label_prior import train_label_autoencoder

FIRST, BOUNDARY = "3d_fullres", "boundary_refinement"
SHAPE = (10, 12, 8)
CPU = torch.device("cpu")


def plan_boundary(dimensions=3, **changes):
    stage = {"input": "boundary", "configuration": FIRST, "overlap_limit": 0.25}
    network = {"input_channels": 2, "output_channels": 2, "features_per_stage": (2, 2)}
    training = {"foreground_fraction": 1.0, "batch_size": 4}
    return build_configuration((8,) * dimensions, previous_stage=stage, network=network, training=training, **changes)


@pytest.fixture
def plan(describe_plan) -> Plan:
    chain = Plan.model_validate(describe_plan())
    parts = {name: chain.configurations[name] for name in ("3d_lowres", FIRST)} | {BOUNDARY: plan_boundary()}
    return build_plan(parts, orientation=None, labels=build_plain_labels(3))


@pytest.fixture
def stored(plan, run, splits, train):
    """Predictions of three folds with random weights."""
    for fold in range(3):
        train(plan, FIRST, str(fold), is_random=True)
    return prepare_stage_input(find_link(run, plan, BOUNDARY, splits), device="cpu", progress=SilentProgress())


def test_a_boundary_is_where_a_box_of_three_voxels_is_neither_empty_nor_full():
    mask = np.zeros((1, 6, 6), bool)
    mask[0, :, 3:] = True  # reaches the border of the image, which is no boundary
    expected = np.zeros((1, 6, 6), bool)
    expected[0, :, 2:4] = True
    assert np.array_equal(find_boundary(mask, axes=2), expected)
    deep = np.zeros((5, 5, 5), bool)
    deep[2, 2, 2] = True
    assert find_boundary(deep, axes=3).sum() == 27
    assert find_boundary(deep, axes=2).sum() == 9


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_a_boundary_is_found_in_a_box_as_in_the_whole_image(axes, share):
    mask = np.random.default_rng(0).random((3, 6, 7)) < share
    padded = np.pad(mask, [(0, 0)] * (3 - axes) + [(1, 1)] * axes, mode="edge")
    window = (1,) * (3 - axes) + (3,) * axes
    sums = np.lib.stride_tricks.sliding_window_view(padded, window).sum(axis=(-3, -2, -1))
    expected = (sums > 0) & (sums < 3**axes)
    assert np.array_equal(find_boundary(mask, axes=axes), expected)
    assert has_boundary(mask, axes=axes) == expected.any()


def test_every_boundary_voxel_is_a_centre_where_overlap_has_no_limit():
    boundary = np.random.default_rng(0).random((4, 9, 9)) < 0.3
    centres = select_centres(boundary, (2, 4, 4), overlap_limit=1.0)
    assert np.array_equal(centres, np.argwhere(boundary))


@pytest.mark.parametrize(("overlap_limit", "places"), [(0.25, [0, 3, 6]), (0.34, [0, 2, 4, 6]), (0.7, list(range(7)))])
def test_centres_are_as_close_as_the_overlap_allows(overlap_limit, places):
    # Patches of 4 that are moved by 1, 2 and 3 have 3/5, 2/6 and 1/7 of their union in common.
    centres = select_centres(np.ones((1, 1, 7), bool), (1, 1, 4), overlap_limit=overlap_limit)
    assert centres[:, 2].tolist() == places


def select_one_after_the_other(boundary, patch, overlap_limit):
    waiting, selected = [tuple(place) for place in np.argwhere(boundary)], []
    while waiting:
        first, *waiting = waiting
        selected.append(first)
        shared = [
            np.prod([max(0, 1 - abs(a - b) / extent) for a, b, extent in zip(first, other, patch, strict=True)])
            for other in waiting
        ]
        waiting = [
            other for other, part in zip(waiting, shared, strict=True) if part <= overlap_limit * (2 - part) + 1e-12
        ]
    return selected


@pytest.mark.parametrize("patch", [(1, 4, 3), (3, 2, 5), (8, 8, 8)])
@pytest.mark.parametrize("overlap_limit", [0.1, 0.25, 0.55])
def test_centres_of_volumes_are_those_that_all_earlier_ones_leave(patch, overlap_limit):
    boundary = np.random.default_rng(0).random((5, 6, 7)) < 0.4
    centres = select_centres(boundary, patch, overlap_limit=overlap_limit)
    assert list(map(tuple, centres)) == select_one_after_the_other(boundary, patch, overlap_limit)
    assert select_centres(boundary & False, patch, overlap_limit=overlap_limit).shape == (0, 3)


def test_no_map_stays_open_once_its_boundary_is_found(run, stored):
    case, stage_map = open_case(run.preprocessed(FIRST), "a"), np.zeros(SHAPE, np.int16)
    stage_map[4:7, 4:7, 4:7] = 1
    opened = weakref.ref(stage_map)
    part = stored.input.open_part(case, stage_map, "a:class 0", key=(run.root, "digest"))
    assert len(part.locations.of_class(0)) == 5**3 - 1
    del stage_map
    assert opened() is not None
    del part
    gc.collect()
    assert opened() is None


def test_patches_are_placed_where_the_boundary_is_annotated(run, stored):
    labels = build_labels({"one": (1,), "two": (2,), "three": (3,)}, ignore_value=4)
    ignoring, case = replace(stored.input, labels=labels), open_case(run.preprocessed(FIRST), "a")
    label_map, stage_map = case.label_map[:].copy(), np.zeros(SHAPE, np.int16)
    stage_map[4:7, 4:7, 2:7] = 1
    boundary = find_boundary(stage_map == 1, axes=3)
    label_map[:, :, :5] = labels.ignore_label
    annotated = boundary & (label_map != labels.ignore_label)
    for ignored, expected in ((slice(5), annotated), (slice(None), boundary)):  # where none is, all of it
        label_map[:, :, ignored] = labels.ignore_label
        opened = replace(case, label_map=label_map)
        part = ignoring.open_part(opened, stage_map, "a:class 0", key=(run.root, f"up to {ignored.stop}"))
        assert np.array_equal(part.locations.of_class(0), np.argwhere(expected))


def test_slices_have_centres_of_their_own():
    centres = select_centres(np.ones((3, 1, 2), bool), (1, 4, 4), overlap_limit=0.25)
    assert centres.tolist() == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]


def test_a_class_is_one_and_what_is_ignored_two():
    array = ClassArray(array=np.array([[[-1, 0, 1, 2, 3]]], np.int16), members=(1, 3), ignored=2)
    assert array[0, 0].tolist() == [-1, 0, 1, 2, 1]
    assert array.shape == (1, 1, 5)


@pytest.mark.parametrize("where", [None, "device", "disk"])
def test_patches_lie_around_boundaries_of_out_of_fold_predictions(plan, run, stored, where):
    data = run.preprocessed(FIRST)
    fold = Fold(training=("a", "b"), validation=("c",))
    part = plan.configurations[BOUNDARY]
    source = build_batch_source(part, plan.channels, data_folder=data, fold=fold, seed=0, previous=stored)
    names = source.training.sampler.case_names
    if where is not None:
        placement = DataPlacement(where=where, because="")
        source = build_device_batch_source(source, part, plan.channels, device=CPU, placement=placement)
    key = BatchKey(stream="training", epoch=0, iteration=0)
    batch = source.make_batch(key)
    assert batch.image.shape == (4, 2, 8, 8, 8)
    assert set(batch.image[:, 1].unique().tolist()) == {0.0, 1.0}
    assert set(batch.label_map.unique().tolist()) <= {0, 1}
    for name in names:
        case, mark, index = name.partition(":class ")
        assert mark
        opened = open_case(data, case)
        predicted = open_stage_map(run.preprocessed(BOUNDARY), case, opened.geometry)[:] == int(index) + 1
        part = stored.open_case(data, name)
        assert np.array_equal(part.further_maps[0][:] == 1, predicted)
        assert np.array_equal(part.label_map[:] == 1, opened.label_map[:] == int(index) + 1)
        places = part.locations.of_class(0)
        assert np.array_equal(places, np.argwhere(find_boundary(predicted, axes=3)))


def test_a_stage_that_predicts_nothing_leaves_nothing_to_correct(plan, run, splits, *, train):
    for fold in range(3):
        train(plan, FIRST, str(fold), label=0)
    stored = prepare_stage_input(find_link(run, plan, BOUNDARY, splits), device="cpu", progress=SilentProgress())
    with pytest.raises(TrainingError, match=r"3d_fullres predicts no class with a boundary in 2 cases \(a, b\)"):
        stored.list_cases(run.preprocessed(FIRST), ("a", "b"))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_new_image_is_corrected_where_its_stage_found_boundaries(plan, run, train, *, grid, dimensions):
    parts = plan.configurations | {BOUNDARY: plan_boundary(dimensions)}
    plan = Plan.model_validate(plan.model_copy(update={"configurations": parts}).model_dump())
    write_document(run.plan, plan)
    for name in (FIRST, BOUNDARY):
        train(plan, name, "0", is_random=True)
    model = load_model(run, configuration=BOUNDARY, folds=("0",), device="cpu")
    image = np.random.default_rng(0).normal(1, 0.1, (1, *SHAPE)).astype(np.float32)
    case = model.preprocess(image, grid)
    assert model.predict_case(case).shape == (4, *SHAPE)
    assert model.predict_volume(image, grid).shape == SHAPE
    with pytest.raises(PredictionError, match=r"boundary_refinement sees one at a time; .*--configuration 3d_fullres"):
        record_normalizers(model)
    chosen = MemberChoice(configuration=BOUNDARY, folds=("0",))
    with pytest.raises(PredictionError, match=r"boundary_refinement sees patches of one class at a time"):
        check_attention_maps(run, [chosen], execution="auto")


def test_it_is_not_exported_to_nnunet(plan, tmp_path):
    with pytest.raises(ExchangeError, match=r"boundary"):
        write_model_description(tmp_path, plan, None)


def test_the_network_tells_inside_from_outside(plan):
    labels = plan.configurations[BOUNDARY].choose_network_labels(plan.labels)
    assert (labels.class_names, labels.output_channel_count, labels.ignore_label) == (("inside",), 2, None)
    ignoring = build_labels({"liver": (5,), "tumour": (9,)}, ignore_value=7)
    assert plan_boundary().choose_network_labels(ignoring).ignore_label == 2
    assert plan.configurations[FIRST].choose_network_labels(plan.labels) is plan.labels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"border": "mirror"}, r"border must be 'zeros' where previous_stage.input is 'boundary'"),
        ({"previous_stage": {"input": "boundary", "configuration": FIRST, "overlap_limit": 0}}, r"overlap_limit"),
    ],
)
def test_what_does_not_go_with_placed_patches_is_refused(changes, message):
    content = plan_boundary().model_dump(mode="json") | changes
    with pytest.raises(DocumentError, match=message):
        parse_part(content, ConfigurationPlan, where="plan.json")


def test_slices_across_several_axes_are_refused():
    with pytest.raises(ValueError, match=r"plane_axes must be \(0,\) where previous_stage.input is 'boundary'"):
        plan_boundary(2, plane_axes=(0, 1), spacing_mm=(1.0,) * 3, median_shape_voxels=(8,) * 3)


def test_a_label_autoencoder_learns_the_classes_one_at_a_time_as_the_network_does(plan, run, stored, tmp_path):
    part = plan.configurations[BOUNDARY]
    autoencoder = build_small_network_plan("label_autoencoder", 3, input_channels=2, output_channels=2)
    beside = PlausibilityPlan(autoencoder=autoencoder, autoencoder_iterations=2)
    part = part.model_copy(update={"training": part.training.model_copy(update={"plausibility": beside})})
    data = TrainingData(
        labels=part.choose_network_labels(plan.labels),  # two of the four that label maps hold
        channels=plan.channels,
        folder=run.preprocessed(FIRST),
        fold=Fold(training=("a", "b"), validation=("c",)),
        previous=stored,
    )
    options = TrainingOptions(device=CPU, seed=0, workers=0)
    trained = train_label_autoencoder(part, data, folder=tmp_path / "fold", options=options)
    assert trained is not None
    assert read_weights(trained).keys() == build_network(autoencoder).state_dict().keys()
    assert read_description(trained).identity.previous_digest == stored.digest


def test_a_training_that_is_continued_is_that_which_was_not_interrupted(plan, run, stored, tmp_path):
    part = plan.configurations[BOUNDARY]
    short = {"epochs": 2, "iterations_per_epoch": 2, "validation_iterations_per_epoch": 1}
    part = part.model_copy(update={"training": part.training.model_copy(update=short)})
    data = TrainingData(
        labels=part.choose_network_labels(plan.labels),
        channels=plan.channels,
        folder=run.preprocessed(FIRST),
        fold=Fold(training=("a", "b"), validation=("c",)),
        previous=stored,
    )

    def train_until(name, *, stop_after=None):
        options = TrainingOptions(device=CPU, seed=0, workers=0)
        for event in train_network(part, data, output=FoldFolder(tmp_path / name), options=options):
            if isinstance(event, EpochDone) and event.record.epoch == stop_after:
                break

    train_until("whole")
    train_until("halves", stop_after=0)
    train_until("halves")
    whole, halves = (read_weights(FoldFolder(tmp_path / name).final_checkpoint) for name in ("whole", "halves"))
    assert all(torch.equal(weight, halves[name]) for name, weight in whole.items())
