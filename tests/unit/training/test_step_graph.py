from dataclasses import replace
from subprocess import CalledProcessError

import pytest
import torch
from builders.clocks import Clock
from builders.graphs import TapeGraphs
from torch.nn.functional import dropout
from torch.optim import rmsprop

from autoseg.training import execution_choice
from autoseg.training.checkpoint import read_checkpoint, restore_learner, write_resumable_checkpoint
from autoseg.training.data.batch import Batch
from autoseg.training.execution import TrainingExecution
from autoseg.training.execution_choice import choose_execution
from autoseg.training.loop_state import LoopState, TrainingIdentity
from autoseg.training.optimization import optimizer
from autoseg.training.optimization.schedule import Schedule
from autoseg.training.step import build_learner, run_training_step, run_validation_step
from autoseg.training.step_graph import StepGraph, build_step_graph

CPU = torch.device("cpu")
CAPTURED = TrainingExecution(memory_format=torch.contiguous_format, is_captured=True)


def make_batch(seed=0, size=2):
    image = torch.randn((size, 1, 16, 16), generator=torch.Generator().manual_seed(seed))
    return Batch(image=image, label_map=(image[:, 0] > 1).to(torch.int16))


def add_graph(learner, graphs, announce=lambda text: None):
    return replace(learner, graph=StepGraph(backend=graphs, announce=announce))


@pytest.fixture
def build(plan_configuration, labels, monkeypatch):
    """Makes learners with optimizers as for a CUDA device."""
    monkeypatch.setattr(optimizer, "is_on_gpu", lambda weights: True)
    monkeypatch.setattr(rmsprop, "_get_capturable_supported_devices", lambda: ["cpu"])

    def make(*, scale=0.0, dtype="float32", **training):
        learner = build_learner(plan_configuration(**training), labels, device=CPU, seed=0, dtype=dtype)
        return replace(learner, scaler=torch.amp.GradScaler("cpu", init_scale=scale)) if scale else learner

    return make


def train(learner, steps):
    """As the training loop does: a learning rate, a seed and a batch of its own for every step."""
    losses = []
    for step in steps:
        learner.set_learning_rate(0.05 / (step + 1))
        torch.manual_seed(step)
        losses.append(run_training_step(learner, make_batch(step)))
    return losses


def assert_same_state(found, expected):
    assert all(map(torch.equal, found.parameters, expected.parameters))
    if expected.average is not None:
        assert all(map(torch.equal, found.average.values, expected.average.values))
    assert found.scaler.state_dict() == expected.scaler.state_dict()


@pytest.mark.parametrize(
    "settings",
    [
        {"stages": 4},
        {"optimizer": "adamw", "momentum": 0.9, "weight_average_decay": 0.9},
        {"optimizer": "rmsprop", "momentum": 0.9},
        {"scale": 1024.0, "dtype": "bfloat16", "gradient_norm_limit": 0.05},
        {"network": {"family": "residual_encoder_unet"}},
        {
            "losses": (
                {"name": "focal", "weight": 1.0, "gamma": 2.0, "background_weights": (1.0,), "class_weights": (2.0,)},
            )
        },
    ],
    ids=["deep supervision", "moments and average", "rmsprop", "scaled gradients", "residual", "weights of classes"],
)
def test_replayed_steps_are_the_steps_that_would_have_been_run(build, settings):
    graphs = TapeGraphs()
    plain, captured = build(**settings), add_graph(build(**settings), graphs)
    assert train(captured, range(7)) == train(plain, range(7))
    assert_same_state(captured, plain)
    assert graphs.calls == ["warm up"] * 2 + ["capture"] + ["replay"] * 5
    before = run_validation_step(plain, make_batch(9)).loss
    assert run_validation_step(captured, make_batch(9)).loss == before


def test_dropout_draws_anew_in_every_replay(build):
    graphs = TapeGraphs()
    plain, captured = build(), add_graph(build(), graphs)
    for learner in (plain, captured):
        learner.network.register_forward_pre_hook(lambda network, inputs: dropout(inputs[0], 0.5, network.training))
    assert train(captured, range(6)) == train(plain, range(6))
    twice = [run_training_step(captured, make_batch()) for _ in range(2)]
    assert twice[0] != twice[1]


def test_a_training_goes_on_with_a_graph_as_if_it_had_not_been_interrupted(build, tmp_path):
    settings = {"optimizer": "adamw", "momentum": 0.9, "weight_average_decay": 0.9, "scale": 1024.0}
    whole, first, second = (add_graph(build(**settings), TapeGraphs()) for _ in range(3))
    losses = train(whole, range(8))
    assert train(first, range(4)) == losses[:4]
    schedule = Schedule(iterations_per_epoch=8, validation_iterations_per_epoch=1, end_epoch=1)
    identity = TrainingIdentity(plan_digest="1", fold_digest="2", seed=0)
    write_resumable_checkpoint(tmp_path / "latest", LoopState(learner=first, identity=identity, schedule=schedule))
    restore_learner(read_checkpoint(tmp_path / "latest"), second)
    assert train(second, range(4, 8)) == losses[4:]
    assert_same_state(second, whole)


@pytest.mark.parametrize("at", [3, 5])
def test_a_batch_of_another_shape_is_trained_without_the_graph(build, at):
    told, graphs = [], TapeGraphs()
    plain, captured = build(), add_graph(build(), graphs, told.append)
    for learner in (plain, captured):
        for step in range(8):
            run_training_step(learner, make_batch(step, size=1 if step == at else 2))
    assert_same_state(captured, plain)
    assert graphs.calls.count("replay") == 5
    assert told == [
        "a batch of another shape is trained without the CUDA graph ((1, 1, 16, 16), captured with (2, 1, 16, 16))"
    ]


def test_steps_that_cannot_be_captured_are_run_as_they_are_and_why_is_announced(build):
    told, graphs = [], TapeGraphs(failure=RuntimeError("operation not permitted\nand more"))
    plain, captured = (build(scale=1024.0) for _ in range(2))
    captured = add_graph(captured, graphs, told.append)
    assert train(captured, range(5)) == train(plain, range(5))
    assert_same_state(captured, plain)
    assert graphs.calls == ["warm up"] * 2 + ["capture"]
    assert told == [
        "training steps are not replayed as a CUDA graph: capturing one failed (RuntimeError: operation not permitted)"
    ]


@pytest.mark.parametrize(
    "failure", [RuntimeError("no"), OSError("no compiler"), CalledProcessError(1, "gcc"), LookupError("no kernel")]
)
def test_a_first_step_that_fails_beside_the_training_is_run_as_it_is_and_why_is_announced(build, failure):
    class Failing(TapeGraphs):
        def warm_up(self, work):
            raise failure

    told = []
    plain, captured = build(scale=1024.0), add_graph(build(scale=1024.0), Failing(), told.append)
    assert train(captured, range(3)) == train(plain, range(3))
    assert_same_state(captured, plain)
    assert len(told) == 1
    assert f"a step before the first one failed ({type(failure).__name__}: " in told[0]


def test_a_first_step_that_lacks_memory_ends_the_training(build):
    class Full(TapeGraphs):
        def warm_up(self, work):
            msg = "full"
            raise torch.OutOfMemoryError(msg)

    with pytest.raises(torch.OutOfMemoryError, match="full"):
        train(add_graph(build(), Full()), range(1))


def test_a_step_that_reads_a_value_cannot_be_captured(plan_configuration, labels, monkeypatch):
    """AdamW as PyTorch has it on a CPU reads the number of its steps, after it has changed nothing."""
    told, graphs = [], TapeGraphs()
    learner = build_learner(plan_configuration(optimizer="adamw", momentum=0.9), labels, device=CPU, seed=0)
    learner = add_graph(learner, graphs, told.append)
    train(learner, range(3))
    assert told == ["training steps are not replayed as a CUDA graph: _local_scalar_dense waits for the device"]
    assert graphs.calls == ["warm up"] * 2  # a capture that fails may harm the process


@pytest.mark.parametrize(
    ("loss", "problem"),
    [
        (
            {"name": "boundary", "weight": 1.0, "final_weight": 1.0},
            "the loss term boundary computes distances on the CPU",
        ),
        ({"name": "dice", "weight": 1.0, "batch_dice": True}, None),
    ],
)
def test_a_loss_that_needs_the_cpu_is_not_captured(plan_configuration, labels, loss, problem):
    objective = build_learner(plan_configuration(losses=(loss,)), labels, device=CPU, seed=0).objective
    assert objective.find_capture_problem() == problem


@pytest.mark.parametrize(("name", "is_captured"), [("rmsprop", False), ("adamw", True), ("sgd", True)])
def test_an_optimizer_whose_overflows_the_cpu_reads_is_not_captured(build, name, is_captured):
    scaled = build(optimizer=name, momentum=0.9, scale=1024.0)
    problem = optimizer.find_scaling_problem(scaled.optimizer, scaled.scaler)
    assert (problem is None) == is_captured
    graph = build_step_graph(scaled.objective, CPU, announce=print, problem=problem)
    assert graph.problem == (problem or "cpu has no CUDA graphs")
    plain = build(optimizer=name, momentum=0.9)
    assert optimizer.find_scaling_problem(plain.optimizer, plain.scaler) is None


def test_a_device_without_graphs_says_so(plan_configuration, labels):
    learner = build_learner(plan_configuration(), labels, device=CPU, seed=0, execution=CAPTURED)
    assert learner.graph.problem == "cpu has no CUDA graphs"
    plain = build_learner(plan_configuration(), labels, device=CPU, seed=0)
    assert train(learner, range(3)) == train(plain, range(3))


@pytest.mark.parametrize(("failure", "is_captured"), [(None, True), (RuntimeError("no memory for it"), False)])
def test_the_choice_of_execution_tries_graphs_and_says_why_there_is_none(build, failure, is_captured, monkeypatch):
    told, clock, tried = [], Clock(), []
    step = execution_choice.run_training_step

    def run(learner, batch):
        clock.now += 1.0 if learner.graph is None else 0.5
        return step(learner, batch)

    monkeypatch.setattr(execution_choice, "time", clock)
    monkeypatch.setattr(execution_choice, "run_training_step", run)

    def make(execution):
        learner = replace(build(stages=1), memory_format=execution.memory_format)
        if not execution.is_captured:
            return learner
        tried.append(execution)
        return add_graph(learner, TapeGraphs(failure=failure))

    taken = choose_execution(make, make_batch(), iterations=10, announce=told.append)
    assert taken.is_captured == is_captured
    assert len(tried) > 1 if is_captured else len(tried) == 1
    if is_captured:
        assert "channels first, CUDA graph 0.5 s" in told[-1]
        assert told[-1].endswith("taken: channels last, CUDA graph")
    else:
        assert "not captured as a CUDA graph, because capturing one failed" in told[-1]
        assert "no memory for it" in told[-1]
        assert told[-1].endswith("taken: channels last")
