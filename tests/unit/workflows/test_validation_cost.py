"""What of a validation fits into a time, on a machine of known pace."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders.geometries import build_geometry
from builders.graphs import TapeGraphs
from builders.labels import build_plain_labels
from builders.networks import build_small_network_plan
from builders.plans import build_configuration, build_plan

from autoseg.inference.execution.choice import Setting, prepare_networks
from autoseg.inference.model import SegmentationModel
from autoseg.inference.options import ONE_IMAGE, PredictionOptions
from autoseg.networks import build_network
from autoseg.networks.parts.planes import list_planes
from autoseg.plan.objectives import PlausibilityPlan, ShapePriorObjective
from autoseg.preprocessing.cache import open_case, write_case
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.preprocessing.class_locations import ClassLocations
from autoseg.run_folder import RunFolder
from autoseg.runtime.captured_network import capture_networks
from autoseg.workflows.evaluate import validation_cost
from autoseg.workflows.evaluate.validation_cost import (
    ESTIMATE_MARGIN,
    WORKER_START_SECONDS,
    ValidationCost,
    fit_validation,
    measure_validation_cost,
    sample_cases,
)

CASES = tuple(f"case_{index}" for index in range(10))
PLAIN, SPARSE = PredictionOptions(mirroring=False), PredictionOptions(mirroring=False, step_fraction=0.75)


def make_cost(*, mirrored_views=4):
    """Of pictures of 7 x 7 windows usually and 5 x 5 with less overlap, each 0.1 s for one view."""
    return ValidationCost(
        shapes_voxels=dict.fromkeys(CASES, (1, 256, 256)),
        configuration=build_configuration((64, 64)),
        mirrored_views=mirrored_views,
        window_seconds=0.1,
        finishing_seconds_per_voxel=0.0,
        evaluation_seconds_per_voxel=0.0,
    )


def estimate(seconds):
    return pytest.approx(seconds * ESTIMATE_MARGIN + WORKER_START_SECONDS)


WHOLE, UNMIRRORED, SPREAD = 10 * 49 * 4 * 0.1, 10 * 49 * 0.1, 10 * 25 * 0.1


def test_views_windows_and_cases_are_counted():
    cost = make_cost()
    assert cost.estimate_seconds(CASES, PredictionOptions()) == estimate(WHOLE)
    assert cost.estimate_seconds(CASES, PLAIN) == estimate(UNMIRRORED)
    assert cost.estimate_seconds(CASES[:3], SPARSE) == estimate(0.3 * SPREAD)


@pytest.mark.parametrize(
    ("seconds", "options", "count"),
    [
        (230.0, PredictionOptions(), 10),
        (210.0, PLAIN, 10),
        (50.0, SPARSE, 10),
        (20.0, SPARSE, 6),
        (5.0, SPARSE, 1),
        (0.1, SPARSE, 1),
    ],
)
def test_mirrored_views_go_first_then_overlap_then_cases(seconds, options, count):
    choice = fit_validation(make_cost(), CASES, limit_seconds=seconds)
    assert (choice.options, len(choice.cases), choice.held_out_cases) == (options, count, 10)
    assert choice.seconds <= seconds or count == 1
    assert choice.whole_seconds == estimate(WHOLE)
    assert bool(choice.limits) == (choice.options != PredictionOptions() or count < 10)


def test_where_nothing_is_mirrored_overlap_goes_first():
    cost = make_cost(mirrored_views=1)
    choice = fit_validation(cost, CASES, limit_seconds=50.0)
    assert choice.options == PredictionOptions(step_fraction=0.75)
    assert choice.limits == ("windows 0.75 of a patch apart instead of 0.5",)


def test_a_sample_is_spread_over_all_cases_and_always_the_same():
    assert sample_cases(CASES, 3) == ("case_0", "case_3", "case_6")
    assert sample_cases(CASES, 10) == CASES


def test_mirrored_views_are_worth_more_than_overlap_and_overlap_more_than_cases():
    def choose(seconds):
        return fit_validation(make_cost(), CASES, limit_seconds=seconds)

    best_first = [choose(seconds) for seconds in (230.0, 210.0, 50.0, 20.0, 5.0)]
    for better, worse in itertools.pairwise(best_first):
        assert better.is_better_than(worse)
        assert not worse.is_better_than(better)


@pytest.mark.parametrize("count", [10, 100])
def test_windows_are_counted_a_few_times_for_each_case_however_many_choices_there_are(count, monkeypatch):
    compute, calls = validation_cost.count_windows, []

    def count_and_compute(*arguments):
        calls.append(arguments)
        return compute(*arguments)

    monkeypatch.setattr(validation_cost, "count_windows", count_and_compute)
    names = [f"case_{index}" for index in range(count)]
    cost = replace(make_cost(), shapes_voxels=dict.fromkeys(names, (1, 256, 256)))
    assert len(fit_validation(cost, names, limit_seconds=0.1).cases) == 1
    assert len(calls) == 5 * count  # the whole validation, and three ways to reduce it, the last one twice


class OpenCase:
    """A preprocessed case that counts how many are open."""

    number = most = 0

    def __init__(self, *arguments):
        self.label_map = np.zeros((1, 64, 64), np.int16)
        OpenCase.number += 1
        OpenCase.most = max(OpenCase.most, OpenCase.number)

    def __del__(self):
        OpenCase.number -= 1


def test_one_case_is_open_while_the_sizes_of_all_are_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(validation_cost, "open_training_case", OpenCase)
    monkeypatch.setattr(
        validation_cost,
        "_build_untrained_model",
        lambda *arguments, **named: SimpleNamespace(configuration_plan=build_configuration((64, 64))),
    )
    monkeypatch.setattr(validation_cost, "_time_window", lambda model: 0.1)
    monkeypatch.setattr(validation_cost, "_measure", lambda model, case, *arguments, rough, **options: rough)
    plan = build_plan({"3d_fullres": build_configuration((64, 64))})
    cost = measure_validation_cost(
        RunFolder(tmp_path), plan, "3d_fullres", cases=CASES, device=torch.device("cpu"), limit_seconds=60.0
    )
    assert set(cost.shapes_voxels.values()) == {(1, 64, 64)}
    assert len(cost.shapes_voxels) == len(CASES)
    assert OpenCase.most <= 2


def test_the_networks_of_all_planes_are_timed_as_a_validation_computes_with_them(monkeypatch):
    monkeypatch.setattr(validation_cost, "find_dtype", lambda *_: "bfloat16")
    network = {"output_channels": 2, "features_per_stage": (2, 2, 2), "planes": 3}
    volume = {"spacing_mm": (1.0,) * 3, "median_shape_voxels": (8, 8, 8)}
    part = build_configuration((8, 8), data_of="2d", network=network, plane_axes=(0, 1, 2), **volume)
    plan = build_plan({"2d": part}, labels=build_plain_labels(1))
    model = validation_cost._build_untrained_model(plan, "2d", torch.device("cpu"), images=1)
    setting = Setting(configuration=model.configuration_plan, device=torch.device("cpu"), dtype="bfloat16")
    network = build_network(model.configuration_plan.network).eval()
    validated = prepare_networks([network], setting, choice="eager", workload=ONE_IMAGE).networks
    planes, expected = (list_planes(networks[0]) for networks in (model.networks, validated))
    assert [type(one) for one in planes] == [type(one) for one in expected]


@pytest.mark.parametrize("weight", [None, 0.0, 1.0])
def test_the_plausibility_of_a_case_is_measured_where_there_will_be_an_autoencoder(monkeypatch, tmp_path, weight):
    autoencoder = build_small_network_plan("label_autoencoder", 2, input_channels=2, output_channels=2)
    own = {"autoencoder": autoencoder, "autoencoder_iterations": 3}
    plain = build_configuration((8, 8), data_of="2d", network={"output_channels": 2, "features_per_stage": (2, 2, 2)})
    changes = {"plausibility": PlausibilityPlan(**own)}
    if weight is not None:
        changes = {"objective": ShapePriorObjective(shape_prior_weight=weight, **own)}
    beside = plain.model_copy(update={"training": plain.training.model_copy(update=changes)})
    write_case(
        tmp_path / "data",
        "a",
        PreprocessedCase(
            image=np.zeros((1, 1, 8, 8), np.float32),
            label_map=np.zeros((1, 8, 8), np.int16),
            geometry=build_geometry((1, 8, 8)),
        ),
        locations=ClassLocations(coordinates=np.zeros((0, 3), np.int32), class_ranges=((0, 0),), annotated_range=None),
        patch_voxels=(1, 8, 8),
    )
    measured = []
    monkeypatch.setattr(validation_cost, "find_reference", lambda run, name: tmp_path / "a.nii.gz")
    monkeypatch.setattr(validation_cost, "write_label_map", lambda *arguments, **named: None)
    monkeypatch.setattr(validation_cost, "evaluate_job", lambda job: None)
    monkeypatch.setattr(
        validation_cost, "measure_network_features", lambda *arguments, models: measured.append(models[0])
    )
    for configuration in (plain, beside):
        plan = build_plan({"2d": configuration}, labels=build_plain_labels(1))
        model = validation_cost._build_untrained_model(plan, "2d", torch.device("cpu"), images=1)
        case, options = open_case(tmp_path / "data", "a"), PredictionOptions()
        assert len(list(validation_cost._time_steps(model, case, "a", options, run=RunFolder(tmp_path)))) == 3
    assert [len(model.label_autoencoders) for model in measured] == ([] if weight == 0 else [1])


def test_the_time_of_a_window_is_that_of_a_replayed_pass_where_passes_are_captured():
    configuration, graphs = build_configuration((16, 16)), TapeGraphs()
    captured = capture_networks([build_network(configuration.network).eval()], graphs, inference_batch_size=2)
    model = SegmentationModel(
        plan=build_plan({"3d_fullres": configuration}),
        configuration="3d_fullres",
        folds=("0",),
        networks=captured,
        device=torch.device("cpu"),
        inference_batch_size=2,
    )
    assert validation_cost._time_window(model) > 0
    assert graphs.calls == ["warm up"] * 2 + ["capture"] + ["replay"] * 2, "the last call is timed"
