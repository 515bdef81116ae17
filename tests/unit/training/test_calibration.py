from dataclasses import replace

import pytest
import torch
from builders.clocks import Clock
from builders.graphs import TapeGraphs

from autoseg.training import calibration
from autoseg.training.budget.pace import Forecast
from autoseg.training.calibration import MOST_ITERATIONS, measure_step_times
from autoseg.training.data.batch_making import make_batches
from autoseg.training.data.batches import BatchSource, build_batch_source, list_batch_keys
from autoseg.training.optimization import optimizer
from autoseg.training.optimization.schedule import Schedule
from autoseg.training.step import build_learner
from autoseg.training.step_graph import StepGraph
from autoseg.workflows.train.report import describe_forecast

CPU = torch.device("cpu")


@pytest.fixture
def times(plan_configuration, labels, channels, data_folder, *, fold, monkeypatch):
    """Of a machine that makes a batch in 1 s, computes outputs in 2 s, and needs 4 s for what follows in training."""
    clock = Clock()
    monkeypatch.setattr(calibration, "time", clock)
    monkeypatch.setattr(calibration, "run_training_step", clock.after(calibration.run_training_step, 4.0))
    monkeypatch.setattr(BatchSource, "make_batch", clock.after(BatchSource.make_batch, 1.0))
    plan = plan_configuration()
    source = build_batch_source(plan, channels, data_folder=data_folder, fold=fold, seed=0)
    learner = build_learner(plan, labels, device=CPU, seed=0)
    learner.network.register_forward_hook(clock.after(lambda *arguments: None, 2.0))
    batches = make_batches(source, list_batch_keys(MOST_ITERATIONS, 1, first_epoch=0), workers=0, device=CPU)
    return measure_step_times(learner, batches, source.make_batch)


def test_data_forward_and_backward_are_measured_apart(times):
    assert (times.data_seconds, times.forward_seconds, times.backward_seconds) == (1.0, 2.0, 4.0)
    assert times.iteration_seconds == 7.0  # nothing is made beside the network without a worker
    assert times.validation_seconds == 2.0


@pytest.mark.parametrize("is_captured", [False, True])
def test_beside_a_captured_step_nothing_is_kept_for_another_backward_pass(
    plan_configuration, labels, channels, data_folder, *, fold, is_captured, monkeypatch
):
    plan = plan_configuration()
    source = build_batch_source(plan, channels, data_folder=data_folder, fold=fold, seed=0)
    monkeypatch.setattr(optimizer, "is_on_gpu", lambda weights: True)
    learner = build_learner(plan, labels, device=CPU, seed=0)
    graph = StepGraph(backend=TapeGraphs(), announce=pytest.fail)
    learner, eager = replace(learner, graph=graph if is_captured else None), []

    def note(module, inputs, outputs):
        if graph.is_captured:
            eager.append(torch.is_grad_enabled())

    learner.network.register_forward_hook(note)
    keys = list_batch_keys(MOST_ITERATIONS, 1, first_epoch=0)
    found = measure_step_times(learner, make_batches(source, keys, workers=0, device=CPU), source.make_batch)
    assert found.forward_seconds > 0
    assert graph.is_captured == is_captured
    assert not any(eager)
    assert bool(eager) == is_captured


def test_the_forecast_reports_them_apart(times):
    schedule = Schedule(iterations_per_epoch=10, validation_iterations_per_epoch=2, end_epoch=100)
    forecast = Forecast(
        times=times, schedule=schedule, budget_seconds=7800.0, training_seconds=7200.0, reserved_seconds=300.0
    )
    told = describe_forecast(forecast)
    assert "7 s per iteration (forward 2 s, loss and backward 4 s; a batch of patches 1 s, made beside it)" in told
    assert "forecast: training 2:00:00, validation 5:00, together 2:05:00 of 2:10:00" in told
    without_budget = replace(forecast, budget_seconds=None, reserved_seconds=None)
    assert describe_forecast(without_budget).endswith("forecast: training 2:00:00, validation not counted")
