"""A configuration that sees neighbouring slices, in a run: loaded, averaged, and as the second stage of a cascade."""

import zipfile

import numpy as np
import pytest
from builders.labels import build_plain_labels
from builders.plans import build_configuration, build_plan

from autoseg.dataset.folds import Fold
from autoseg.errors import ExchangeError, PredictionError
from autoseg.exchange.nnunet_export import drop_unknown_configurations, write_model_description
from autoseg.inference.ensemble import Ensemble
from autoseg.inference.model import check_stages_compatible, load_model
from autoseg.plan import MasksOfPreviousStage, Plan
from autoseg.processes.progress import SilentProgress
from autoseg.stages.training_cases import open_training_case, read_network_input
from autoseg.training.data.batches import build_batch_source
from autoseg.training.data.randomness import BatchKey
from autoseg.workflows.cascade import find_link, prepare_stage_input
from autoseg.workflows.exchange.exporting import export_model
from autoseg.workflows.exchange.request import ExportRequest

FIRST, CONTEXT, CASCADE = "3d_lowres", "2.5d", "2.5d_cascade"
SHAPE = (1, 10, 12, 8)


def plan_slices(context_slices, *, channels=1, **changes):
    network = {
        "input_channels": channels * (2 * context_slices + 1),
        "output_channels": 4,
        "features_per_stage": (2, 2),
    }
    return build_configuration((8, 8), network=network, context_slices=context_slices, **{"data_of": "2d"} | changes)


@pytest.fixture
def plan(describe_plan) -> Plan:
    chain = Plan.model_validate(describe_plan())
    others = {name: chain.configurations[name] for name in (FIRST, "3d_fullres")}
    slices = {"2d": plan_slices(0), CONTEXT: plan_slices(1, mirror_axes=(0, 1, 2))}
    cascade = {CASCADE: plan_slices(1, channels=4, previous=FIRST, data_of="3d_fullres")}
    return build_plan({**others, **slices, **cascade}, orientation=None, labels=build_plain_labels(3))


def draw_image():
    return np.random.default_rng(0).normal(1, 0.1, SHAPE).astype(np.float32)


def test_it_is_loaded_and_predicts_whole_volumes(plan, run, train, grid):
    train(plan, CONTEXT, "0", is_random=True)
    model = load_model(run, configuration=CONTEXT, folds=("0",), device="cpu")
    case = model.preprocess(draw_image(), grid)
    assert model.predict_case(case).shape == (4, *SHAPE[1:])
    assert model.predict_volume(draw_image(), grid).shape == SHAPE[1:]
    assert model.inference_batch_size != 0


def test_it_is_averaged_with_a_volume_network(plan, run, train, grid):
    for name in (CONTEXT, "3d_fullres"):
        train(plan, name, "0", is_random=True)
    members = tuple(load_model(run, configuration=name, folds=("0",), device="cpu") for name in (CONTEXT, "3d_fullres"))
    assert Ensemble(members=members).predict_volume(draw_image(), grid).shape == SHAPE[1:]


def test_models_that_see_another_number_of_slices_are_not_taken_for_each_other(plan):
    stage = MasksOfPreviousStage(configuration=CONTEXT)
    second = plan.configurations["3d_fullres"].model_copy(update={"previous_stage": stage})
    wide = plan.configurations[CONTEXT].model_copy(update={"context_slices": 2})
    first = plan.model_copy(update={"configurations": plan.configurations | {CONTEXT: wide}})
    both = plan.model_copy(update={"configurations": plan.configurations | {"second": second}})
    with pytest.raises(PredictionError, match="must follow one plan"):
        check_stages_compatible(first, both, "second")


def test_masks_of_a_previous_stage_have_neighbouring_slices_as_well(plan, run, splits, *, train, grid):
    for fold in range(3):
        train(plan, FIRST, str(fold), is_random=True)
    stored = prepare_stage_input(find_link(run, plan, CASCADE, splits), device="cpu", progress=SilentProgress())
    fold = Fold(training=("a",), validation=("b",))
    part, data = plan.configurations[CASCADE], run.preprocessed("3d_fullres")
    source = build_batch_source(part, plan.channels, data_folder=data, fold=fold, seed=0, previous=stored)
    image = source.make_batch(BatchKey(stream="training", epoch=0, iteration=0)).image
    assert image.shape == (2, 12, 8, 8)
    assert set(image[:, 3:].unique().tolist()) <= {0.0, 1.0}
    train(plan, CASCADE, "0", is_random=True)
    case = open_training_case(run, plan, CASCADE, "a")
    model = load_model(run, configuration=CASCADE, folds=("0",), device="cpu", with_previous=False)
    assert model.predict_preprocessed(read_network_input(case, plan, CASCADE)).shape == (4, *SHAPE[1:])


def test_it_is_not_exported_to_nnunet_and_does_not_keep_others_from_it(plan, tmp_path):
    with pytest.raises(ExchangeError, match=r"2.5d sees 1 neighbouring slices .*'context_slices'.*--format autoseg"):
        write_model_description(tmp_path, plan, None)
    kept = drop_unknown_configurations(plan, "3d_fullres")
    assert set(kept.configurations) == {FIRST, "3d_fullres", "2d"}
    write_model_description(tmp_path, kept, None)
    assert CONTEXT in drop_unknown_configurations(plan, CONTEXT).configurations


def test_it_is_shared_with_its_description(plan, run, train, tmp_path):
    train(plan, CONTEXT, "0", is_random=True)
    output = tmp_path / "shared.zip"
    export_model(run.root, output, ExportRequest(format="autoseg", configuration=CONTEXT), progress=SilentProgress())
    with zipfile.ZipFile(output) as archive:
        assert f"{CONTEXT} sees 1 neighbouring slices on either side of each." in archive.read("README.md").decode()
