import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.optim import rmsprop
from torch.utils._python_dispatch import TorchDispatchMode

from autoseg.training.data.batch import Batch
from autoseg.training.monitoring.late_losses import LateLosses
from autoseg.training.monitoring.pseudo_dice import compute_pseudo_dice
from autoseg.training.optimization import optimizer
from autoseg.training.step import (
    build_learner,
    launch_training_step,
    launch_validation_step,
    run_training_step,
    run_validation_step,
)

CPU = torch.device("cpu")


class OperationCount(TorchDispatchMode):
    """Counts the operations that are called within the context."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **kwargs or {})


def make_batch():
    image = torch.randn((2, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    return Batch(image=image, label_map=(image[:, 0] > 1).to(torch.int16))


@pytest.fixture
def on_gpu(monkeypatch):
    """Optimizers are built as for a CUDA device."""
    monkeypatch.setattr(optimizer, "is_on_gpu", lambda weights: True)
    monkeypatch.setattr(rmsprop, "_get_capturable_supported_devices", lambda: ["cpu"])


@pytest.fixture
def build(plan_configuration, labels):
    def make(*, scale=0.0, **training):
        learner = build_learner(plan_configuration(**training), labels, device=CPU, seed=0)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale) if scale else learner.scaler
        return replace(learner, scaler=scaler)

    return make


@pytest.mark.parametrize("scale", [0.0, 1024.0])
@pytest.mark.parametrize("name", ["sgd", "sgd_nesterov", "adam", "adamw"])
def test_no_step_reads_a_value_from_the_device(build, on_gpu, name, scale):
    learner, batch = build(optimizer=name, momentum=0.9, weight_average_decay=0.9, scale=scale), make_batch()
    losses = LateLosses(read_together=4)
    with OperationCount() as operations:
        known = []
        for iteration in range(7):
            learner.set_learning_rate(0.01 / (iteration + 1))
            known += losses.add(launch_training_step(learner, batch))
    assert known == []
    assert operations.counts["convolution"] > 0
    assert operations.counts["_local_scalar_dense"] == 0
    assert len(losses.read_all()) == 7


def test_no_step_of_validation_reads_a_value_from_the_device(build):
    learner, losses = build(), LateLosses(read_together=4)
    learner.train(is_training=False)
    with OperationCount() as operations:
        for _ in range(3):
            loss, counts = launch_validation_step(learner, make_batch())
            losses.add(loss)
    assert operations.counts["conv2d"] > 0  # in inference mode operations are seen before they are divided
    assert not {"item", "_local_scalar_dense", "is_nonzero"}.intersection(operations.counts)
    outcome = run_validation_step(learner, make_batch())
    assert losses.read_all() == [outcome.loss] * 3
    assert compute_pseudo_dice([counts]) == compute_pseudo_dice([outcome.counts])


def test_rmsprop_reads_no_value_either(build, on_gpu):
    learner = build(optimizer="rmsprop", momentum=0.9)
    with OperationCount() as operations:
        launch_training_step(learner, make_batch())
    assert operations.counts["_local_scalar_dense"] == 0


@pytest.mark.parametrize("name", ["sgd", "sgd_nesterov", "adam", "adamw", "rmsprop"])
def test_optimizers_for_a_gpu_take_the_same_steps(build, monkeypatch, name):
    plain = build(optimizer=name, momentum=0.9)
    monkeypatch.setattr(optimizer, "is_on_gpu", lambda weights: True)
    monkeypatch.setattr(rmsprop, "_get_capturable_supported_devices", lambda: ["cpu"])
    other = build(optimizer=name, momentum=0.9)
    losses = [[], []]
    for rate in (0.01, 0.001, 0.1):
        for learner, of_learner in zip((plain, other), losses, strict=True):
            learner.set_learning_rate(rate)
            of_learner.append(run_training_step(learner, make_batch()))
    assert len({round(loss, 4) for loss in losses[0]}) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_first_step_that_overflows_leaves_a_momentum_of_zero(build, on_gpu):
    learner, batch = build(scale=1024.0), make_batch()
    run_training_step(learner, Batch(image=batch.image * math.inf, label_map=batch.label_map))
    for parameter in learner.parameters:
        assert not learner.optimizer.state[parameter]["momentum_buffer"].any()


def test_losses_arrive_in_their_order_at_most_two_copies_later():
    losses = LateLosses(read_together=3)
    known = [losses.add(torch.tensor(float(step))) for step in range(8)]
    assert known == [[], [], [], [], [], [0.0, 1.0, 2.0], [], []]
    assert losses.read_all() == [3.0, 4.0, 5.0, 6.0, 7.0]
    assert losses.read_all() == []
    assert LateLosses(read_together=1).add(torch.tensor(2.5)) == [2.5]
