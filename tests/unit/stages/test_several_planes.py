"""A configuration of slices across several axes, in a run: loaded, averaged, shared, as a stage and with one."""

import zipfile

import numpy as np
import pytest
import torch
from builders.labels import build_plain_labels
from builders.plans import build_configuration, build_plan

from autoseg.api import predict_volume
from autoseg.errors import ExchangeError, PredictionError
from autoseg.exchange.nnunet_export import drop_unknown_configurations, write_model_description
from autoseg.geometry import Grid
from autoseg.inference.ensemble import Ensemble
from autoseg.inference.model import check_stages_compatible, load_model
from autoseg.inference.view_disagreement import record_normalizers
from autoseg.plan import MasksOfPreviousStage, Plan
from autoseg.processes.progress import SilentProgress
from autoseg.stages.training_cases import open_training_case, read_network_input
from autoseg.workflows.cascade import find_link, prepare_stage_input
from autoseg.workflows.exchange.exporting import export_model
from autoseg.workflows.exchange.request import ExportRequest

PLANES, FIRST, SECOND = "2d_triplanar", "3d_lowres", "after_planes"
SHAPE = (1, 10, 12, 8)


def plan_planes(plane_axes=(0, 1, 2), *, channels=1, networks=1, **changes):
    network = {"input_channels": channels, "output_channels": 4, "features_per_stage": (2, 2), "planes": networks}
    volume = {"spacing_mm": (1.0,) * 3, "median_shape_voxels": SHAPE[1:]}
    return build_configuration((8, 8), network=network, plane_axes=plane_axes, **volume | changes)


@pytest.fixture(params=[1, 3], ids=["one network", "a network for each plane"])
def plan(describe_plan, request) -> Plan:
    chain = Plan.model_validate(describe_plan())
    others = {name: chain.configurations[name] for name in (FIRST, "3d_fullres")}
    planes = {
        PLANES: plan_planes(mirror_axes=(0, 1), networks=request.param),
        SECOND: plan_planes(channels=4, previous=PLANES, networks=request.param),
    }
    return build_plan({**others, **planes}, orientation=None, labels=build_plain_labels(3))


def draw_image():
    return np.random.default_rng(0).normal(1, 0.1, SHAPE).astype(np.float32)


def test_it_is_loaded_and_predicts_volumes_and_refuses_pictures(plan, run, train, grid):
    train(plan, PLANES, "0", is_random=True)
    model = load_model(run, configuration=PLANES, folds=("0",), device="cpu")
    assert model.predict_case(model.preprocess(draw_image(), grid)).shape == (4, *SHAPE[1:])
    assert model.predict_volume(draw_image(), grid).shape == SHAPE[1:]
    with pytest.raises(PredictionError, match=r"found float32 of \(12, 8\); give the whole volume"):
        predict_volume(model, draw_image()[0, 0], spacing_mm=(1, 1, 1))


def test_folds_that_differ_in_the_number_of_networks_are_no_ensemble(plan, run, train):
    train(plan, PLANES, "0", is_random=True)
    part = plan.configurations[PLANES]
    other = part.model_copy(update={"network": part.network.with_planes(4 - part.network.planes)})
    train(plan.model_copy(update={"configurations": plan.configurations | {PLANES: other}}), PLANES, "1")
    with pytest.raises(PredictionError, match="must follow one plan"):
        load_model(run, configuration=PLANES, folds=("0", "1"), device="cpu")


def test_maps_of_uncertainty_do_not_change_the_prediction(plan, run, train, grid):
    train(plan, PLANES, "0", is_random=True)
    model = load_model(run, configuration=PLANES, folds=("0",), device="cpu")
    case = model.preprocess(draw_image(), grid)
    expected = model.predict_case(case)
    found = record_normalizers(model).predict_case(case)
    assert torch.equal(found[:4], expected)
    assert found.shape == (5, *SHAPE[1:])


def test_volumes_are_resampled_along_all_axes(plan, run, train):
    train(plan, PLANES, "0", is_random=True)
    model = load_model(run, configuration=PLANES, folds=("0",), device="cpu")
    thick = Grid(shape_voxels=SHAPE[1:], spacing_mm=(2.0, 1.0, 1.0))
    assert model.preprocess(draw_image(), thick).image.shape == (1, 20, 12, 8)


def test_it_is_averaged_with_a_volume_network(plan, run, train, grid):
    for name in (PLANES, "3d_fullres"):
        train(plan, name, "0", is_random=True)
    members = tuple(load_model(run, configuration=name, folds=("0",), device="cpu") for name in (PLANES, "3d_fullres"))
    assert Ensemble(members=members).predict_volume(draw_image(), grid).shape == SHAPE[1:]


def test_models_of_other_planes_are_not_taken_for_each_other(plan):
    stage = MasksOfPreviousStage(configuration=PLANES)
    second = plan.configurations["3d_fullres"].model_copy(update={"previous_stage": stage})
    part = plan.configurations[PLANES]
    count = min(part.network.planes, 2)
    fewer = part.model_copy(update={"plane_axes": (0, 1), "network": part.network.with_planes(count)})
    first = plan.model_copy(update={"configurations": plan.configurations | {PLANES: fewer}})
    both = plan.model_copy(update={"configurations": plan.configurations | {"second": second}})
    with pytest.raises(PredictionError, match="must follow one plan"):
        check_stages_compatible(first, both, "second")


def test_it_is_the_previous_stage_of_another_of_its_kind(plan, run, splits, *, train, grid):
    for fold in range(3):
        train(plan, PLANES, str(fold), is_random=True)
    prepare_stage_input(find_link(run, plan, SECOND, splits), device="cpu", progress=SilentProgress())
    train(plan, SECOND, "0", is_random=True)
    case = open_training_case(run, plan, SECOND, "b")  # held out by fold 0, as by the stage before
    model = load_model(run, configuration=SECOND, folds=("0",), device="cpu")
    stored = model.predict_preprocessed(read_network_input(case, plan, SECOND))
    given = np.random.default_rng(1).normal(1, 0.1, SHAPE).astype(np.float32)
    del grid
    assert stored.shape == (4, *SHAPE[1:])
    assert torch.isfinite(model.predict_case(model.preprocess(given, case.geometry.grid))).all()


def test_it_is_not_exported_to_nnunet_and_does_not_keep_others_from_it(plan, tmp_path):
    with pytest.raises(ExchangeError, match=r"2d_triplanar averages .* across 3 axes \('plane_axes'\)"):
        write_model_description(tmp_path, plan, None)
    kept = drop_unknown_configurations(plan, "3d_fullres")
    assert set(kept.configurations) == {FIRST, "3d_fullres"}


def test_it_is_shared_with_its_description(plan, run, train, tmp_path):
    train(plan, PLANES, "0", is_random=True)
    output = tmp_path / "shared.zip"
    export_model(run.root, output, ExportRequest(format="autoseg", configuration=PLANES), progress=SilentProgress())
    with zipfile.ZipFile(output) as archive:
        readme = archive.read("README.md").decode()
    assert f"{PLANES} averages what it predicts in slices across 3 axes." in readme
    assert "| 2d_triplanar | 0 | plain_unet, 2D | z 1, y 1, x 1 | 8 x 8 |" in readme
