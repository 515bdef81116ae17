import torch

from autoseg.network_cost import estimate_host_training_bytes
from autoseg.networks.cost import measure_cost
from autoseg.training.network_timing import time_network
from autoseg.training.objectives import OBJECTIVES
from autoseg.training.objectives.segmentation import Segmentation


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
