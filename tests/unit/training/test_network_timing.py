import pytest
import torch

from autoseg.network_cost import estimate_host_training_bytes
from autoseg.networks.cost import measure_cost
from autoseg.training import network_timing
from autoseg.training.execution import TrainingExecution
from autoseg.training.network_timing import time_network
from autoseg.training.objectives import OBJECTIVES
from autoseg.training.objectives.segmentation import Segmentation
from autoseg.training.step import build_learner


def test_training_and_prediction_are_timed(plan_configuration, labels):
    plan = plan_configuration()
    cost = time_network(plan, labels, device=torch.device("cpu"), dtype="float32")
    assert cost.iteration_seconds > cost.window_seconds > 0
    assert cost.window_seconds * plan.training.batch_size == cost.validation_seconds
    counted = measure_cost(plan.network, plan.patch_voxels, plan.training.batch_size)
    assert cost.memory_bytes == estimate_host_training_bytes(plan, "float32", counted)


def test_validation_is_timed_with_the_objective_in_evaluation_mode(plan_configuration, labels, monkeypatch):
    modes = []

    class Watched(Segmentation):
        def forward(self, network, batch):
            modes.append((torch.is_inference_mode_enabled(), self.training))
            return super().forward(network, batch)

    monkeypatch.setitem(OBJECTIVES, "segmentation", Watched)
    time_network(plan_configuration(), labels, device=torch.device("cpu"), dtype="float32")
    assert set(modes) == {(False, True), (True, False)}


@pytest.mark.parametrize("is_measured", [False, True])
def test_a_device_that_trains_the_fastest_way_is_timed_so(plan_configuration, labels, monkeypatch, *, is_measured):
    built, chosen = [], TrainingExecution(memory_format=torch.channels_last, is_captured=True)
    monkeypatch.setattr(network_timing, "measures_execution", lambda device: is_measured)

    def build(*arguments, execution, **options):
        built.append(execution)
        return build_learner(*arguments, execution=execution, **options)

    def choose(build, batch, **options):
        assert batch.image.shape == (2, 1, 16, 16)
        build(TrainingExecution(memory_format=torch.contiguous_format))
        return chosen

    monkeypatch.setattr(network_timing, "build_learner", build)
    monkeypatch.setattr(network_timing, "choose_execution", choose)
    time_network(plan_configuration(), labels, device=torch.device("cpu"), dtype="float32")
    assert built[-1] == (chosen if is_measured else None)
    assert len(built) == 1 + is_measured
