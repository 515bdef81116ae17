"""One more kind of input from a previous stage is two classes and a row in each of two tables."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
import torch

from autoseg.dataset.folds import Fold
from autoseg.errors import ExchangeError
from autoseg.exchange.nnunet_export import write_model_description
from autoseg.inference.model import load_model
from autoseg.plan import Plan, PreviousStagePlan
from autoseg.plan.stages import PREVIOUS_STAGE_PLANS
from autoseg.processes.progress import SilentProgress
from autoseg.stages.inputs import PREVIOUS_STAGE_INPUTS
from autoseg.stages.previous_input import PreviousStageInput
from autoseg.stages.training_cases import open_training_case, read_network_input
from autoseg.training.data.batches import build_batch_source
from autoseg.training.data.data_placement import DataPlacement
from autoseg.training.data.device_batches import build_device_batch_source
from autoseg.training.data.randomness import BatchKey
from autoseg.workflows.cascade import find_link, prepare_stage_input

FIRST, SECOND = "3d_lowres", "3d_cascade_fullres"
CPU = torch.device("cpu")


class SidesOfPreviousStage(PreviousStagePlan):
    """Whether the previous stage predicts a label above a threshold, and whether one up to it."""

    input: Literal["sides"]
    threshold: int

    def count_channels(self, labels):
        return 2


@dataclass(frozen=True, slots=True)
class SidesInput(PreviousStageInput):
    def convert_for_training(self, prediction, target):
        shape = target.resampled_shape_voxels
        return np.full(shape, prediction.restore_label_map(prediction.geometry).max(), np.int16)

    def convert_for_prediction(self, prediction, case, *, resampling):
        return self.convert_for_training(prediction, case.geometry)

    def list_channels(self, stage_map):
        return [stage_map > self.plan.threshold, (stage_map > 0) & (stage_map <= self.plan.threshold)]


@pytest.fixture
def plan(describe_plan, monkeypatch):
    monkeypatch.setitem(PREVIOUS_STAGE_PLANS, "sides", SidesOfPreviousStage)
    monkeypatch.setitem(PREVIOUS_STAGE_INPUTS, "sides", SidesInput)
    content = describe_plan()
    del content["configurations"]["third"]
    second = content["configurations"][SECOND]
    second["previous_stage"] = {"input": "sides", "configuration": FIRST, "threshold": 2}
    second["network"]["input_channels"] = 3
    return Plan.model_validate(content)


@pytest.fixture
def stored(plan, run, splits, train):
    """Of the cases a, b and c the previous stage predicts 3, 1 and 2 everywhere."""
    for fold in range(3):
        train(plan, FIRST, str(fold), label=fold + 1)
    return prepare_stage_input(find_link(run, plan, SECOND, splits), device="cpu", progress=SilentProgress())


def test_it_survives_reading_and_writing(plan):
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert plan.configurations[SECOND].previous_stage.threshold == 2


def test_it_reaches_whole_training_cases(plan, run, stored):
    case = open_training_case(run, plan, SECOND, "a")
    full = read_network_input(case, plan, SECOND)
    assert np.array_equal(full[:1], case.image[:])
    assert [np.unique(channel).tolist() for channel in full[1:]] == [[1], [0]]


@pytest.mark.parametrize("is_device", [False, True])
@pytest.mark.parametrize("stream", ["training", "validation"])
def test_it_reaches_training_patches(plan, run, stored, *, is_device, stream):
    configuration = plan.configurations[SECOND]
    source = build_batch_source(
        configuration,
        plan.channels,
        data_folder=run.preprocessed("3d_fullres"),
        fold=Fold(training=("a",), validation=("b",)),
        seed=0,
        previous=stored,
    )
    if is_device:
        placement = DataPlacement(where="disk", because="")
        source = build_device_batch_source(source, configuration, plan.channels, device=CPU, placement=placement)
    image = source.make_batch(BatchKey(stream=stream, epoch=0, iteration=0)).image
    assert image.shape == (2, 3, 8, 8, 8)
    expected, other = (image[:, 1], image[:, 2]) if stream == "training" else (image[:, 2], image[:, 1])
    assert expected.any()
    assert not other.any()


def test_it_reaches_images_that_are_to_be_segmented(plan, run, train):
    train(plan, FIRST, "0", label=3)
    train(plan, SECOND, "0", is_random=True)
    model = load_model(run, configuration=SECOND, folds=("0",), device="cpu")
    array = np.random.default_rng(5).normal(1, 0.1, (1, 10, 12, 8)).astype(np.float32)
    case = model.preprocess(array, open_training_case(run, plan, "3d_fullres", "a").geometry.grid)
    full = np.concatenate([case.image, np.ones_like(case.image), np.zeros_like(case.image)])
    assert torch.equal(model.predict_case(case), model.predict_preprocessed(full))


def test_it_is_not_exported_to_a_tool_that_does_not_know_it(plan, tmp_path):
    with pytest.raises(ExchangeError, match=r"3d_cascade_fullres gets 'sides' from 3d_lowres.*--format autoseg"):
        write_model_description(tmp_path, plan, None)
