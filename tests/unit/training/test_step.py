import math
from dataclasses import replace

import pytest
import torch

from autoseg.training.data.batch import Batch
from autoseg.training.step import build_learner, run_training_step, run_validation_step

CPU = torch.device("cpu")


def make_batch(dimensions=2):
    image = torch.randn((2, 1, *(16,) * dimensions), generator=torch.Generator().manual_seed(0))
    return Batch(image=image, label_map=(image[:, 0] > 1).to(torch.int16))


def copy_weights(learner):
    return [parameter.detach().clone() for parameter in learner.parameters]


def test_the_seed_decides_about_the_first_weights_and_nothing_else_does(plan_configuration, labels):
    first = copy_weights(build_learner(plan_configuration(), labels, device=CPU, seed=1))
    torch.manual_seed(99)
    second = copy_weights(build_learner(plan_configuration(), labels, device=CPU, seed=1))
    other = copy_weights(build_learner(plan_configuration(), labels, device=CPU, seed=2))
    assert all(map(torch.equal, first, second))
    assert not all(map(torch.equal, first, other))


def test_a_step_is_nesterov_descent_along_the_clipped_gradient(plan_configuration, labels):
    plan = plan_configuration(gradient_norm_limit=0.05)
    learner, twin = (build_learner(plan, labels, device=CPU, seed=0) for _ in range(2))
    learner.set_learning_rate(0.5)
    before = copy_weights(learner)
    batch = make_batch()
    run_training_step(learner, batch)
    loss, _ = twin.compute_loss(batch)
    loss.backward()
    gradients = [parameter.grad for parameter in twin.parameters]
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
    assert norm > 0.05
    for old, new, gradient in zip(before, copy_weights(learner), gradients, strict=True):
        decayed = gradient * (0.05 / norm) + 3e-5 * old
        assert torch.allclose(new, old - 0.5 * (decayed + 0.99 * decayed), atol=1e-6)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_networks_of_any_depth_learn(plan_configuration, labels, stages):
    learner = build_learner(plan_configuration(stages=stages), labels, device=CPU, seed=0)
    batch = make_batch()
    losses = [run_training_step(learner, batch) for _ in range(12)]
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]


def test_the_reference_s_weight_zero_is_an_output_that_is_not_there(plan_configuration, labels):
    learner = build_learner(plan_configuration(stages=4), labels, device=CPU, seed=0)
    outputs = learner.network(make_batch().image)
    assert [tuple(output.shape[2:]) for output in outputs] == [(16, 16), (8, 8)]
    assert learner.network.output_weights == pytest.approx((2 / 3, 1 / 3))


def test_validation_changes_nothing_and_counts_every_voxel(plan_configuration, labels):
    learner = build_learner(plan_configuration(dimensions=3), labels, device=CPU, seed=0)
    learner.network.eval()
    before = copy_weights(learner)
    batch = make_batch(dimensions=3)
    outcome = run_validation_step(learner, batch)
    assert all(map(torch.equal, before, copy_weights(learner)))
    found = (outcome.counts.true_positive + outcome.counts.false_negative).item()
    assert found == (batch.label_map == 1).sum().item()
    assert outcome.loss == pytest.approx(learner.compute_loss(batch)[0].item())


def scale_loss(learner, scale):
    """The same learner with a gradient scaler, as float16 needs it."""
    return replace(learner, scaler=torch.amp.GradScaler("cpu", init_scale=scale))


@pytest.mark.parametrize(("dtype", "is_scaled"), [("float32", False), ("bfloat16", False), ("float16", True)])
def test_only_float16_needs_scaled_gradients(plan_configuration, labels, dtype, is_scaled):
    learner = build_learner(plan_configuration(), labels, device=CPU, seed=0, dtype=dtype)
    assert learner.scaler.is_enabled() is is_scaled


def test_scaled_gradients_are_unscaled_before_they_are_clipped(plan_configuration, labels):
    plan = plan_configuration(gradient_norm_limit=0.05)
    plain, scaled = (build_learner(plan, labels, device=CPU, seed=0) for _ in range(2))
    run_training_step(plain, make_batch())
    run_training_step(scale_loss(scaled, 2.0**10), make_batch())
    assert all(map(torch.equal, copy_weights(plain), copy_weights(scaled)))


def test_a_step_that_overflows_is_skipped_and_lowers_the_scale(plan_configuration, labels):
    learner = scale_loss(build_learner(plan_configuration(), labels, device=CPU, seed=0), 2.0**10)
    before, batch = copy_weights(learner), make_batch()
    run_training_step(learner, Batch(image=batch.image * float("inf"), label_map=batch.label_map))
    assert all(map(torch.equal, before, copy_weights(learner)))
    assert learner.scaler.get_scale() == 2.0**9
    run_training_step(learner, batch)
    assert not all(map(torch.equal, before, copy_weights(learner)))
