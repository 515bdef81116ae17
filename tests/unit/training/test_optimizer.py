import math

import pytest
import torch

from autoseg.network_cost import count_checkpoint_bytes
from autoseg.plan import ConfigurationPlan, CrossEntropyTerm, DiceTerm
from autoseg.training.data.batch import Batch
from autoseg.training.optimization.optimizer import OPTIMIZERS
from autoseg.training.step import build_learner, run_training_step

CPU = torch.device("cpu")


@pytest.fixture
def batch():
    image = torch.randn((2, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    return Batch(image=image, label_map=(image[:, 0] > 1).to(torch.int16))


def test_the_first_step_of_adamw_has_the_length_of_the_learning_rate_and_decays_apart(
    plan_configuration, labels, batch
):
    plan = plan_configuration(optimizer="adamw", momentum=0.8, second_moment_decay=0.95, weight_decay=0.1)
    learner = build_learner(plan, labels, device=CPU, seed=0)
    learner.set_learning_rate(0.01)
    before = [parameter.detach().clone() for parameter in learner.parameters]
    run_training_step(learner, batch)
    group = learner.optimizer.param_groups[0]
    assert (group["betas"], group["weight_decay"]) == ((0.8, 0.95), 0.1)
    for old, parameter in zip(before, learner.parameters, strict=True):
        moved = parameter.detach() - old * (1 - 0.01 * 0.1)
        clear = parameter.grad.abs() > 1e-4  # elsewhere the small constant in the denominator counts
        assert torch.allclose(moved[clear].abs(), torch.tensor(0.01), rtol=1e-2)


RATE, DECAY = 0.01, 0.1


def _step_of_sgd(gradient, momentum):
    del momentum
    return RATE * gradient


def _step_of_nesterov(gradient, momentum):
    return RATE * (1 + momentum) * gradient


def _step_of_adam(gradient, momentum):
    """Corrected for their beginning, both moments are those of the gradient."""
    del momentum
    return RATE * gradient / (gradient.abs() + 1e-8)


def _step_of_rmsprop(gradient, momentum):
    """The mean square begins at zero, so that it is a twentieth of the square."""
    del momentum
    return RATE * gradient / ((0.05 * gradient**2).sqrt() + 1e-8)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ("sgd", _step_of_sgd),
        ("sgd_nesterov", _step_of_nesterov),
        ("adam", _step_of_adam),
        ("rmsprop", _step_of_rmsprop),
    ],
)
def test_the_first_step_is_that_of_the_formula_with_weight_decay_in_the_gradient(
    plan_configuration, labels, batch, *, optimizer, expected
):
    plan = plan_configuration(optimizer=optimizer, momentum=0.9, second_moment_decay=0.95, weight_decay=DECAY)
    learner = build_learner(plan, labels, device=CPU, seed=0)
    learner.set_learning_rate(RATE)
    before = [parameter.detach().clone() for parameter in learner.parameters]
    run_training_step(learner, batch)
    for old, parameter in zip(before, learner.parameters, strict=True):
        step = expected(parameter.grad + DECAY * old, 0.9)
        torch.testing.assert_close(old - parameter.detach(), step, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_keeps_as_many_moments_as_disk_is_planned_for(
    plan_configuration, labels, batch, *, optimizer, momentum
):
    if (optimizer, momentum) == ("sgd_nesterov", 0.0):
        pytest.skip("refused")
    plan = plan_configuration(optimizer=optimizer, momentum=momentum)
    learner = build_learner(plan, labels, device=CPU, seed=0)
    run_training_step(learner, batch)
    parameter = learner.parameters[0]
    kept = [value for value in learner.optimizer.state[parameter].values() if isinstance(value, torch.Tensor)]
    assert sum(value.shape == parameter.shape for value in kept) == plan.training.moment_count
    count = sum(parameter.numel() for parameter in learner.parameters)
    assert count_checkpoint_bytes(plan, count)[1] == 4 * count * (1 + plan.training.moment_count)


def test_the_weights_of_the_loss_decide_what_counts(plan_configuration, labels, batch):
    losses = {}
    for dice, entropy in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (2.0, 0.5)):
        plan = plan_configuration(losses=(DiceTerm(weight=dice, batch_dice=True), CrossEntropyTerm(weight=entropy)))
        losses[dice, entropy] = run_training_step(build_learner(plan, labels, device=CPU, seed=0), batch)
    assert losses[1.0, 1.0] == pytest.approx(losses[1.0, 0.0] + losses[0.0, 1.0], rel=1e-5)
    assert losses[2.0, 0.5] == pytest.approx(2 * losses[1.0, 0.0] + 0.5 * losses[0.0, 1.0], rel=1e-5)
    assert all(map(math.isfinite, losses.values()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"momentum": 0.0}, "momentum must be above 0 for the optimizer 'sgd_nesterov'"),
        ({"weight_average_decay": 1.0}, "weight_average_decay"),
        ({"optimizer": "admaw"}, r"must be one of .* \(got 'admaw'\) \(did you mean 'adamw'\?\)"),
        ({"schedule": {"name": "on_plateau", "factor": 1.0}}, "schedule"),
    ],
)
def test_plans_that_cannot_learn_are_refused(plan_configuration, changes, message):
    with pytest.raises(ValueError, match=message):
        plan_configuration(**changes)


@pytest.mark.parametrize("axes", [(2,), (0, 0)])
def test_only_axes_of_the_patch_are_mirrored_and_each_once(plan_configuration, plan_transforms, axes):
    with pytest.raises(ValueError, match=r"transforms\.1 \(mirror\): axes must be different axes below 2 \(got"):
        plan_configuration(transforms=plan_transforms(noise={}, mirror={"axes": axes}))
    mirrored = plan_configuration(dimensions=3, transforms=plan_transforms(mirror={"axes": (2, 0)}))
    assert mirrored.training.mirror_axes == (2, 0)
    assert plan_configuration(transforms=()).training.mirror_axes == ()


def test_transforms_of_masks_need_a_previous_stage(plan_configuration, plan_transforms):
    cascade = plan_configuration(transforms=plan_transforms(noise={}, mask_morphology={}))
    content = cascade.model_dump(mode="json")
    assert ConfigurationPlan.model_validate(content) == cascade
    with pytest.raises(ValueError, match=r"transforms\.1 \(mask_morphology\): changes masks of a previous stage, and"):
        ConfigurationPlan.model_validate(content | {"previous_stage": None})
