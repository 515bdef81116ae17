"""A stage that is trained and predicts only in the box of what the previous stage finds."""

import logging
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from builders.geometries import build_geometry
from builders.labels import build_plain_labels
from builders.plans import build_transforms
from builders.progress import skip_drawing

from autoseg.dataset.folds import Fold
from autoseg.document import parse_part, read_document
from autoseg.errors import DocumentError, ExchangeError, TrainingError
from autoseg.evaluation.summary import SUMMARY_JSON, EvaluationSummary
from autoseg.exchange.nnunet_export import write_model_description
from autoseg.inference.ensemble import Ensemble
from autoseg.inference.model import load_model
from autoseg.inference.sliding_window.box import predict_in_box
from autoseg.labels import LabelScheme
from autoseg.networks.cost import count_cost
from autoseg.plan import BoxOfPreviousStage, Plan
from autoseg.preprocessing.cache import open_case
from autoseg.preprocessing.class_locations import find_class_locations
from autoseg.processes.progress import SilentProgress
from autoseg.stages.box import ArrayPart, BoxInput, covers_foreground, crop_case
from autoseg.stages.previous_input import StagePrediction
from autoseg.stages.training_cases import open_training_case, read_box, read_network_input
from autoseg.training.data.batches import build_batch_source
from autoseg.training.data.data_placement import DataPlacement
from autoseg.training.data.device_batches import build_device_batch_source
from autoseg.training.data.randomness import BatchKey
from autoseg.validation_conditions import ValidationConditions
from autoseg.workflows.cascade import find_link, prepare_stage_input
from autoseg.workflows.evaluate.evaluation import EvaluationJob
from autoseg.workflows.evaluate.validation import measure_box_recall, measure_box_share
from autoseg.workflows.select.candidates import ModelCandidate, add_costs
from autoseg.workflows.select.held_out import HeldOut
from autoseg.workflows.train.request import TrainingRequest
from autoseg.workflows.train.training import train_run

FIRST, ROI = "3d_lowres", "3d_cascade_fullres"
CPU = torch.device("cpu")
WHOLE = ((0, 10), (0, 12), (0, 8))


_no_drawing = pytest.fixture(autouse=True)(skip_drawing)


@pytest.fixture
def describe_roi(describe_plan):
    """The JSON of a plan of which the second stage gets a box."""

    def describe():
        content = describe_plan()
        del content["configurations"]["third"]
        second = content["configurations"][ROI]
        second["previous_stage"] = {"input": "box", "configuration": FIRST, "margin_mm": 1.0}
        second["network"]["input_channels"] = 1
        return content

    return describe


@pytest.fixture
def plan(describe_roi):
    return Plan.model_validate(describe_roi())


class Notes(SilentProgress):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def predict_box(found, *, target, margin_mm=0.0, shape=(5, 6, 4), spacing_mm=2.0):
    """The box of a first stage that finds label 2 in a box of its own grid, or nothing."""
    geometry = build_geometry(shape, target_spacing_mm=(spacing_mm,) * 3)
    label_map = np.zeros(shape, np.int16)
    if found is not None:
        label_map[tuple(slice(*axis) for axis in found)] = 2
    prediction = StagePrediction(geometry=geometry, restore_label_map=lambda between: label_map)
    box = BoxInput(BoxOfPreviousStage(configuration=FIRST, margin_mm=margin_mm), build_plain_labels(3))
    stage_map = box.convert_for_training(prediction, target)
    return box.find_box(stage_map), box.explain_fallback(stage_map)


FINE = build_geometry((10, 12, 8), target_spacing_mm=(1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("found", "margin_mm", "expected"),
    [
        (((1, 3), (2, 3), (0, 4)), 0.0, ((2, 6), (4, 6), (0, 8))),
        (((1, 3), (2, 3), (0, 4)), 1.5, ((0, 8), (2, 8), (0, 8))),
        (((4, 5), (0, 1), (3, 4)), 1.0, ((7, 10), (0, 3), (5, 8))),
        (((0, 5), (0, 6), (0, 4)), 100.0, WHOLE),
    ],
)
def test_the_box_holds_every_voxel_that_the_foreground_touches_and_the_margin(found, margin_mm, expected):
    assert predict_box(found, target=FINE, margin_mm=margin_mm) == (expected, None)


def test_grids_that_do_not_align_give_the_larger_box():
    target = build_geometry((7, 7, 7), target_spacing_mm=(1.0, 1.0, 1.0))
    assert predict_box(((1, 2), (2, 3), (1, 3)), target=target)[0] == ((1, 3), (2, 4), (1, 6))


def test_without_foreground_there_is_no_box_and_it_is_explained():
    box, fallback = predict_box(None, target=FINE)
    assert box is None
    assert fallback == "3d_lowres predicts no foreground, so there is no box and the whole image is taken"


def test_a_part_of_an_array_is_read_like_any_other():
    array = np.arange(2 * 4 * 5 * 6).reshape(2, 4, 5, 6)
    inside = (slice(None), slice(1, 4), slice(2, 5), slice(1, 3))
    part = ArrayPart(array=array, box=((1, 4), (2, 5), (1, 3)))
    whole = array[inside]
    assert (part.shape, part.dtype) == (whole.shape, whole.dtype)
    for key in (slice(None), (0,), (slice(None), 1), (..., 0)[1:], (slice(None), slice(1, 9), slice(-1, None), 0)):
        assert np.array_equal(part[key], whole[key])


def test_a_cropped_case_has_the_locations_inside_its_box(plan, run):
    case = open_case(run.preprocessed("3d_fullres"), "a")
    box = ((1, 4), (4, 12), (0, 5))
    inside = tuple(slice(*axis) for axis in box)
    cropped = crop_case(case, box)
    assert np.array_equal(cropped.image[:], case.image[:][:, *inside])
    label_map = case.label_map[:][inside]
    assert np.array_equal(cropped.label_map[:], label_map)
    expected = find_class_locations(np.ascontiguousarray(label_map), plan.labels)
    assert cropped.locations.class_ranges == expected.class_ranges
    assert np.array_equal(cropped.locations.coordinates, expected.coordinates)


def test_locations_of_annotated_voxels_are_cropped_as_well(run):
    case = open_case(run.preprocessed("3d_fullres"), "a")
    of_class = len(case.locations.coordinates)
    both = np.concatenate([case.locations.coordinates, np.argwhere(case.label_map[:] >= 0).astype(np.int32)])
    locations = replace(case.locations, coordinates=both, annotated_range=(of_class, len(both)))
    cropped = crop_case(replace(case, locations=locations), ((0, 3), (0, 4), (0, 2)))
    assert len(cropped.locations.of_annotated) == 3 * 4 * 2


@pytest.fixture
def find(monkeypatch):
    """Lets a first stage find a box on its own grid of (5, 6, 4) voxels, whatever its weights."""

    def write(found):
        label_map = np.zeros((5, 6, 4), np.int16)
        if found is not None:
            label_map[tuple(slice(*axis) for axis in found)] = 1
        monkeypatch.setattr(StagePrediction, "restore_on", lambda prediction, shape: label_map)

    return write


SMALL = ((1, 3), (1, 3), (1, 3))
SMALL_BOX = ((1, 7), (1, 7), (1, 7))  # at twice the resolution, with a margin of one voxel


def prepare(plan, run, splits, train):
    for fold in range(3):
        train(plan, FIRST, str(fold))
    progress = Notes()
    return prepare_stage_input(find_link(run, plan, ROI, splits), device="cpu", progress=progress), progress.notes


@pytest.mark.parametrize("where", [None, "device", "disk"])
def test_patches_come_from_the_box_alone(plan, run, splits, *, train, find, where):
    find(SMALL)
    stored, notes = prepare(plan, run, splits, train)
    assert notes == []
    part = plan.configurations[ROI]
    source = build_batch_source(
        part,
        plan.channels,
        data_folder=run.preprocessed("3d_fullres"),
        fold=Fold(training=("a",), validation=("b",)),
        seed=0,
        previous=stored,
    )
    if where is not None:
        placement = DataPlacement(where=where, because="")
        source = build_device_batch_source(source, part, plan.channels, device=CPU, placement=placement)
    batch = source.make_batch(BatchKey(stream="training", epoch=0, iteration=0))
    assert batch.image.shape == (2, 1, 8, 8, 8)
    whole = open_case(run.preprocessed("3d_fullres"), "a").image[:][0][1:7, 1:7, 1:7]
    padded = np.pad(whole, 8)
    for image in batch.image.numpy()[:, 0]:
        starts = product(range(15), repeat=3)
        assert any(np.array_equal(image, padded[z : z + 8, y : y + 8, x : x + 8]) for z, y, x in starts)


def test_training_sees_what_surrounds_the_box_and_prediction_the_box_alone(
    plan, run, splits, *, train, find, describe_roi
):
    find(SMALL)
    content = describe_roi()
    content["configurations"][ROI]["previous_stage"]["training_margin_voxels"] = (1, 3, 2)
    wider = Plan.model_validate(content)
    stored, _ = prepare(wider, run, splits, train)
    data = run.preprocessed("3d_fullres")
    whole, seen = open_case(data, "a"), stored.open_case(data, "a")
    expected = crop_case(whole, ((0, 8), (0, 10), (0, 8)))  # the image ends one voxel below the box, and at 8 along x
    assert np.array_equal(seen.image[:], expected.image[:])
    assert np.array_equal(seen.locations.coordinates, expected.locations.coordinates)
    assert read_box(open_training_case(run, wider, ROI, "a"), wider, ROI) == SMALL_BOX
    link = find_link(run, plan, ROI, splits)  # the stored boxes are those of a plan without
    assert link.list_outdated_cases(link.find_sources()) == []


def test_plans_of_earlier_versions_train_in_the_box_alone_and_are_written_as_before():
    stage = BoxOfPreviousStage(configuration=FIRST, margin_mm=1.0)
    assert stage.training_margin_voxels == (0, 0, 0)
    assert "training_margin_voxels" not in stage.model_dump(mode="json")
    wider = stage.model_copy(update={"training_margin_voxels": (1, 0, 0)})
    assert wider.model_dump(mode="json")["training_margin_voxels"] == [1, 0, 0]


def test_a_training_case_without_foreground_is_taken_whole_and_announced(plan, run, splits, *, train, find):
    find(None)
    stored, notes = prepare(plan, run, splits, train)
    assert [note.partition(":")[0] for note in notes] == ["b", "c", "a"]
    assert all("predicts no foreground, so there is no box and the whole image is taken" in note for note in notes)
    assert stored.open_case(run.preprocessed("3d_fullres"), "a").image.shape == (1, 10, 12, 8)
    assert read_box(open_training_case(run, plan, ROI, "a"), plan, ROI) is None


def test_boxes_are_found_again_when_the_margin_of_the_plan_changes(plan, run, splits, *, train, find, describe_roi):
    find(SMALL)
    prepare(plan, run, splits, train)
    link = find_link(run, plan, ROI, splits)
    assert link.list_outdated_cases(link.find_sources()) == []
    content = describe_roi()
    content["configurations"][ROI]["previous_stage"]["margin_mm"] = 2.0
    wider = Plan.model_validate(content)
    stored = prepare_stage_input(find_link(run, wider, ROI, splits), device="cpu", progress=SilentProgress())
    assert stored.open_case(run.preprocessed("3d_fullres"), "a").image.shape == (1, 8, 8, 8)


def test_validation_and_prediction_give_the_same_logits_in_the_box_and_background_outside(
    plan, run, splits, *, train, find
):
    find(SMALL)
    prepare(plan, run, splits, train)
    train(plan, ROI, "0", is_random=True)
    model = load_model(run, configuration=ROI, folds=("0",), device="cpu")
    case = open_training_case(run, plan, ROI, "a")
    image, box = read_network_input(case, plan, ROI), read_box(case, plan, ROI)
    assert box == SMALL_BOX
    assert np.array_equal(image, case.image[:])
    logits = model.predict_preprocessed(image, box=box)
    inside = (slice(None), *(slice(*axis) for axis in box))
    assert torch.equal(logits[inside], model.predict_preprocessed(np.ascontiguousarray(image[inside])))
    label_map = logits.argmax(0)
    label_map[inside[1:]] = 0
    assert logits.shape == (4, 10, 12, 8)
    assert not label_map.any()
    new = model.preprocess(np.random.default_rng(0).normal(1, 0.1, WHOLE_SHAPE).astype(np.float32), case.geometry.grid)
    predicted = model.predict_case(new)
    assert torch.equal(predicted, model.predict_preprocessed(new.image, box=SMALL_BOX))


WHOLE_SHAPE = (1, 10, 12, 8)


def test_fewer_windows_are_predicted(plan, run, train, find):
    find(((2, 3), (2, 3), (1, 2)))
    train(plan, FIRST, "0")
    train(plan, ROI, "0")
    model = load_model(run, configuration=ROI, folds=("0",), device="cpu")
    grid = open_case(run.preprocessed("3d_fullres"), "a").geometry.grid
    case = model.preprocess(np.random.default_rng(0).normal(1, 0.1, WHOLE_SHAPE).astype(np.float32), grid)
    counts = []
    model.predict_case(case, on_window=lambda done, total: counts.append(total))
    assert counts[-1] == 1
    model.predict_preprocessed(case.image, on_window=lambda done, total: counts.append(total))
    assert counts[-1] == 4


def test_an_image_without_foreground_is_predicted_whole_and_announced(plan, run, train, *, find, caplog):
    find(None)
    train(plan, FIRST, "0")
    train(plan, ROI, "0", is_random=True)
    model = load_model(run, configuration=ROI, folds=("0",), device="cpu")
    grid = open_case(run.preprocessed("3d_fullres"), "a").geometry.grid
    case = model.preprocess(np.random.default_rng(0).normal(1, 0.1, WHOLE_SHAPE).astype(np.float32), grid)
    with caplog.at_level(logging.WARNING):
        predicted = model.predict_case(case)
    assert torch.equal(predicted, model.predict_preprocessed(case.image))
    assert f"{ROI}: {FIRST} predicts no foreground" in caplog.text


@pytest.mark.parametrize("has_regions", [False, True])
def test_outside_the_box_the_probability_of_foreground_is_nothing(has_regions):
    labels = build_plain_labels(3)
    if has_regions:
        content = labels.model_dump(mode="json")
        content["classes"] = [
            {"name": "whole", "values": [1, 2]},
            {"name": "core", "values": [2]},
        ]
        labels = LabelScheme.model_validate(content | {"region_write_values": [1, 2]})
    channels = labels.output_channel_count + 1  # one more than classes, such as a map of attention
    image = np.ones((1, 4, 4, 4), np.float32)
    logits = predict_in_box(image, ((0, 2),) * 3, lambda part: torch.ones(channels, *part.shape[1:]), labels=labels)
    outside = logits[:, 3, 3, 3]
    probabilities = outside[:-1].sigmoid() if has_regions else outside[:-1].softmax(0)[1:]
    assert probabilities.max() < 1e-12
    assert outside[-1] == 0
    assert (logits[:, :2, :2, :2] == 1).all()


def test_a_model_with_a_box_is_averaged_with_others(plan, run, train, find):
    find(SMALL)
    for name in (FIRST, ROI, "3d_fullres"):
        train(plan, name, "0", is_random=True)
    members = tuple(load_model(run, configuration=name, folds=("0",), device="cpu") for name in (ROI, "3d_fullres"))
    ensemble = Ensemble(members=members)
    array = np.random.default_rng(0).normal(1, 0.1, WHOLE_SHAPE).astype(np.float32)
    grid = open_case(run.preprocessed("3d_fullres"), "a").geometry.grid
    assert ensemble.predict_volume(array, grid).shape == grid.shape_voxels


def start(run):
    request = TrainingRequest(configuration=ROI, folds=("0",), device="cpu", precision="float32", workers=0)
    return list(train_run(run.root, request, progress=SilentProgress()))


ALL_OF_IT = ((1, 3), (1, 4), (0, 3))


@pytest.mark.parametrize(("found", "recall"), [(SMALL, 0.0), (ALL_OF_IT, 1.0), (None, 1.0)])
def test_box_recall_is_the_fraction_of_cases_of_which_nothing_is_lost(plan, run, splits, *, train, find, found, recall):
    find(found)
    prepare(plan, run, splits, train)
    assert measure_box_recall(run, plan, ROI, ["a", "b"]) == recall
    assert measure_box_recall(run, plan, FIRST, ["a", "b"]) is None
    share = {SMALL: 6**3 / (10 * 12 * 8), ALL_OF_IT: 6 * 8 * 7 / (10 * 12 * 8), None: 1.0}[found]
    assert measure_box_share(run, plan, ROI, ["a", "b"]) == pytest.approx(share)
    assert measure_box_share(run, plan, FIRST, ["a", "b"]) is None


def test_the_cost_of_an_image_is_that_of_its_box_and_of_the_first_stage(plan, run, splits, *, train, find):
    find(SMALL)
    prepare(plan, run, splits, train)
    path = run.references / "a.nii.gz"
    jobs = (EvaluationJob(case="a", prediction=path, reference=path, labels=plan.labels),)
    candidates = [
        ModelCandidate(
            members=(HeldOut(configuration=name, plan=plan, folds=("0",), holders={}),), jobs=jobs, dice=np.ones((1, 1))
        )
        for name in ("3d_fullres", ROI)
    ]
    whole, roi = (candidate.image_cost for candidate in add_costs(run, candidates))
    first, full = (
        count_cost(plan.configurations[name].network, (8, 8, 8), 1).multiply_adds / 1e9 for name in (FIRST, ROI)
    )
    assert (whole, roi) == pytest.approx((4 * full, full + first))  # windows of the image, and of the box


def test_a_training_writes_the_box_recall_and_is_left_alone_when_it_is_finished(plan, run, train, find):
    find(SMALL)
    for fold in range(3):
        train(plan, FIRST, str(fold))
    assert [done.fold for done in start(run)] == ["0"]
    fold = run.fold(ROI, "0")
    conditions = read_document(fold.validation / SUMMARY_JSON, EvaluationSummary).validation
    assert (conditions.box_recall, conditions.box_share) == (0.0, pytest.approx(6**3 / (10 * 12 * 8)))
    before = fold.final_checkpoint.stat().st_mtime_ns
    start(run)
    assert fold.final_checkpoint.stat().st_mtime_ns == before
    find(ALL_OF_IT)
    train(plan, FIRST, "1", label=1)  # another first stage predicts other boxes
    with pytest.raises(TrainingError, match="the weights of the previous stage changed"):
        start(run)


def test_labels_that_are_not_foreground_may_lie_outside_the_box():
    label_map = np.zeros((4, 4, 4), np.int16)
    label_map[3, 3, 3] = 5
    assert covers_foreground(((0, 2),) * 3, label_map, (1, 2))
    assert not covers_foreground(((0, 2),) * 3, label_map, (5,))
    assert covers_foreground(None, label_map, (5,))


def test_a_box_that_loses_foreground_is_warned_of():
    conditions = ValidationConditions(
        validated_cases=4, held_out_cases=4, trained_iterations=10, sufficient_iterations=None, box_recall=0.75
    )
    (warning,) = conditions.list_warnings()
    assert warning.startswith("in 1 of 4 cases the reference reaches beyond the box of the previous stage")
    assert conditions.model_copy(update={"box_recall": 1.0}).list_warnings() == ()
    assert conditions.describe_box() is None  # written by an earlier version
    assert conditions.model_copy(update={"box_share": 0.1925}).describe_box() == (
        "box of the previous stage: 19.2% of the image on average, and the whole reference in 75.0% of the cases"
    )


def test_it_is_not_exported_to_nnunet(plan, tmp_path):
    with pytest.raises(ExchangeError, match=r"3d_cascade_fullres gets 'box' from 3d_lowres.*--format autoseg"):
        write_model_description(tmp_path, plan, None)


def test_transforms_of_masks_are_refused(describe_roi):
    content = describe_roi()
    (transform,) = build_transforms(mask_morphology={})
    content["configurations"][ROI]["training"]["transforms"] = [transform.model_dump(mode="json")]
    with pytest.raises(DocumentError, match="changes masks of a previous stage, and this configuration has none"):
        parse_part(content, Plan, where="plan.json")


@pytest.mark.parametrize("margin", [-1.0, None])
def test_a_margin_is_needed_and_not_negative(describe_roi, margin):
    content = describe_roi()
    content["configurations"][ROI]["previous_stage"]["margin_mm"] = margin
    with pytest.raises(DocumentError, match="margin_mm"):
        parse_part(content, Plan, where="plan.json")
