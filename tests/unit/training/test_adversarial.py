"""Training against a discriminator."""

import json

import pytest
import torch
from builders.labels import build_labels
from builders.networks import build_small_network_plan
from builders.threads import use_one_thread
from torch.nn import functional

from autoseg.plan import ConfigurationPlan
from autoseg.plan.losses import SegmentationObjective
from autoseg.plan.objectives import AdversarialObjective
from autoseg.run_folder import FoldFolder
from autoseg.training.checkpoint import TrainingIdentity, read_checkpoint, restore_learner, write_resumable_checkpoint
from autoseg.training.data.batch import Batch
from autoseg.training.loop_state import LoopState
from autoseg.training.monitoring.event_files import list_scalars
from autoseg.training.monitoring.history import read_training_log
from autoseg.training.objectives.adversarial import soften
from autoseg.training.optimization.schedule import Schedule
from autoseg.training.options import TrainingOptions
from autoseg.training.step import build_learner, run_training_step, run_validation_step
from autoseg.training.trainer import train

CPU = torch.device("cpu")
LABELS = build_labels({"one": (1,), "two": (2,)})
IGNORING = build_labels({"one": (1,), "two": (2,)}, ignore_value=3)
REGIONS = build_labels({"all": (1, 2, 3), "two": (2, 3), "three": (3,)}, region_write_values=(1, 2, 3), ignore_value=4)
ADVERSARIAL = AdversarialObjective(
    adversarial_weight=0.5, discriminator_features=(4, 6), discriminator_strides=((2, 2), (2, 1))
)

_one_thread = pytest.fixture(autouse=True)(use_one_thread)


def weigh(weight: float) -> AdversarialObjective:
    return ADVERSARIAL.model_copy(update={"adversarial_weight": weight})


def plan_with(plan_configuration, objective=ADVERSARIAL, network: str = "plain_unet") -> ConfigurationPlan:
    plan = plan_configuration(dimensions=2)
    training = plan.training.model_copy(update={"objective": objective})
    own = build_small_network_plan(network, 2)
    return plan.model_copy(update={"network": own, "training": training, "patch_voxels": (8, 8)})


def draw_batch(classes: int = 3, extent: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        image=torch.randn(2, 2, extent, extent, generator=generator),
        label_map=torch.randint(classes, (2, extent, extent), generator=generator).to(torch.int16),
    )


def take_step(learner, number: int, batch: Batch) -> float:
    torch.manual_seed(number)  # as the loop does
    learner.train()
    return run_training_step(learner, batch)


def test_a_weight_of_zero_changes_no_bit(plan_configuration) -> None:
    states = []
    for objective in (SegmentationObjective(), weigh(0.0), ADVERSARIAL):
        learner = build_learner(plan_with(plan_configuration, objective), LABELS, device=CPU, seed=0)
        losses = [take_step(learner, number, draw_batch()) for number in range(3)]
        states.append((losses, learner.network.state_dict()))
        assert bool(list(learner.objective.parameters())) == (objective == ADVERSARIAL)
    (plain, own), (zero, same), (_, others) = states
    assert zero == plain
    assert all(torch.equal(value, same[name]) for name, value in own.items())
    assert any(not torch.equal(value, others[name]) for name, value in own.items())


def test_both_learn_in_one_step_and_the_loss_holds_no_part_of_the_discriminator(plan_configuration) -> None:
    learner = build_learner(plan_with(plan_configuration), LABELS, device=CPU, seed=0)
    objective, batch = learner.objective, draw_batch()
    logits = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(3)).requires_grad_()
    loss, _ = objective(lambda image: (logits,) * len(objective.output_weights), batch)
    loss.backward()
    image, found, true = objective._build_inputs(logits.detach(), batch)
    with torch.no_grad():
        of_found, of_true = objective.discriminator(image, found), objective.discriminator(image, true)
    deceiving = functional.binary_cross_entropy_with_logits(of_found, torch.ones_like(of_found))
    segmentation, _ = build_learner(plan_with(plan_configuration, weigh(0.0)), LABELS, device=CPU, seed=0).objective(
        lambda image: (logits,) * len(objective.output_weights), batch
    )
    assert loss.item() == pytest.approx((segmentation + 0.5 * deceiving).item())
    assert logits.grad is not None
    received = [parameter.grad.clone() for parameter in objective.discriminator.parameters()]
    objective.zero_grad()
    learning = functional.binary_cross_entropy_with_logits(
        objective.discriminator(image, found), torch.zeros_like(of_found)
    ) + functional.binary_cross_entropy_with_logits(objective.discriminator(image, true), torch.ones_like(of_true))
    learning.backward()
    for own, parameter in zip(received, objective.discriminator.parameters(), strict=True):
        torch.testing.assert_close(own, parameter.grad)


def test_a_discriminator_learns_to_tell_and_its_accuracy_is_counted_in_training_alone(plan_configuration) -> None:
    learner = build_learner(plan_with(plan_configuration), LABELS, device=CPU, seed=0)
    learner.set_learning_rate(0.0)
    objective, batch = learner.objective, draw_batch()
    optimizer = torch.optim.Adam(objective.parameters(), 0.01)
    learner.train()
    for _ in range(40):
        optimizer.zero_grad()
        learner.compute_loss(batch)[0].backward()
        optimizer.step()
    objective.summarize_epoch()
    assert objective.summarize_epoch() == {}
    take_step(learner, 0, batch)
    before = objective.decisions.clone()
    learner.train(is_training=False)
    run_validation_step(learner, batch)
    assert torch.equal(objective.decisions, before)
    assert before[1] == 1
    accuracy = objective.summarize_epoch()["discriminator_accuracy"]
    assert accuracy == before[0]
    assert (accuracy * 2 * 2 * 2 * 4).is_integer()  # two kinds, two samples, 2 x 4 blocks of each
    assert accuracy > 0.7


def test_the_place_of_a_label_map_is_as_unsure_as_a_prediction() -> None:
    found = torch.tensor([0.5, 0.3, 0.2]).reshape(1, 3, 1)
    masks = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1)
    torch.testing.assert_close(soften(masks, found, has_regions=False)[0, :, 0], torch.tensor([0.9, 0.06, 0.04]))
    sure = torch.tensor([0.96, 0.03, 0.01]).reshape(1, 3, 1)
    torch.testing.assert_close(soften(masks, sure, has_regions=False), sure)
    softened = soften(torch.tensor([1.0, 1.0, 0.0]).reshape(1, 3, 1), found, has_regions=True)
    torch.testing.assert_close(softened[0, :, 0], torch.tensor([0.9, 0.9, 0.1]))
    certain = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1)
    assert bool(soften(masks, certain, has_regions=False).isfinite().all())


@pytest.mark.parametrize(("labels", "classes", "ignored"), [(IGNORING, 4, 3), (REGIONS, 5, 4)])
def test_ignored_voxels_are_hidden_and_get_no_gradient(plan_configuration, labels, classes: int, ignored: int) -> None:
    objective = build_learner(plan_with(plan_configuration), labels, device=CPU, seed=0).objective
    batch = draw_batch(classes)
    logits = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(3)).requires_grad_()
    objective._compete(logits, batch).backward()
    is_ignored = (batch.label_map == ignored)[:, None].expand_as(logits)
    assert logits.grad is not None
    assert bool((logits.grad[is_ignored] == 0).all())
    assert bool((logits.grad[~is_ignored] != 0).any())
    _, found, true = objective._build_inputs(logits, batch)
    assert bool((found[is_ignored] == 0).all())
    assert bool((true[is_ignored] == 0).all())


def test_a_training_is_resumed_bit_for_bit_with_its_discriminator(plan_configuration, tmp_path) -> None:
    plan, batch = plan_with(plan_configuration), draw_batch(5)
    learner, resumed = (build_learner(plan, REGIONS, device=CPU, seed=seed) for seed in (0, 1))
    take_step(learner, 0, batch)
    state = LoopState(
        learner=learner,
        identity=TrainingIdentity(plan_digest="", fold_digest="", seed=0),
        schedule=Schedule(iterations_per_epoch=2, validation_iterations_per_epoch=1, end_epoch=1),
    )
    write_resumable_checkpoint(tmp_path / "checkpoint_latest.safetensors", state)
    restore_learner(read_checkpoint(tmp_path / "checkpoint_latest.safetensors"), resumed)
    assert take_step(resumed, 1, batch) == take_step(learner, 1, batch)
    for module, other in ((learner.network, resumed.network), (learner.objective, resumed.objective)):
        found = other.state_dict()
        assert module.state_dict()
        assert all(torch.equal(value, found[name]) for name, value in module.state_dict().items())
    assert resumed.objective.summarize_epoch() == learner.objective.summarize_epoch() != {}


def test_networks_with_margins_compete_where_they_see(plan_configuration) -> None:
    plan = plan_with(plan_configuration, network="valid convolutions")
    learner, extent = build_learner(plan, LABELS, device=CPU, seed=0), 48
    image, found, _ = learner.objective._build_inputs(
        learner.network(draw_batch(extent=extent).image)[0], draw_batch(extent=extent)
    )
    assert image.shape[2:] == found.shape[2:]
    assert max(found.shape[2:]) < extent
    middle = [slice((extent - own) // 2, (extent + own) // 2) for own in found.shape[2:]]
    assert torch.equal(image, draw_batch(extent=extent).image[:, :, middle[0], middle[1]])


def test_the_accuracy_of_every_epoch_is_in_the_log(plan_configuration, training_data, tmp_path) -> None:
    plan = plan_configuration(epochs=2, iterations_per_epoch=2, validation_iterations_per_epoch=1)
    objective = AdversarialObjective(
        adversarial_weight=0.1, discriminator_features=(4,), discriminator_strides=((2,) * plan.dimensions,)
    )
    plan = plan.model_copy(update={"training": plan.training.model_copy(update={"objective": objective})})
    folder = FoldFolder(tmp_path / "fold_0")
    for _ in train(plan, training_data, output=folder, options=TrainingOptions(device=CPU, seed=0, workers=0)):
        pass
    records = read_training_log(folder.training_log)
    accuracies = [record.discriminator_accuracy for record in records]
    assert len(accuracies) == 2
    assert all(accuracy is not None and 0 <= accuracy <= 1 for accuracy in accuracies)
    assert list_scalars(records[0], training_data.labels.class_names)["discriminator_accuracy"] == accuracies[0]
    final = read_checkpoint(folder.final_checkpoint)
    assert not any("discriminator" in name for name in final.tensors)
    assert json.loads(folder.training_log.read_text().splitlines()[0])["discriminator_accuracy"] == accuracies[0]


@pytest.mark.parametrize(
    ("changes", "network", "expected"),
    [
        ({"discriminator_strides": ((2, 2),)}, "plain_unet", "must describe the 2 convolutions .*got 1"),
        ({"discriminator_strides": ((2, 2, 2),) * 2}, "plain_unet", "must have 2 values each"),
        ({}, "diffusion_unet", "objective must be 'denoising'"),
    ],
)
def test_discriminators_that_do_not_fit_are_refused(plan_configuration, changes, network: str, expected: str) -> None:
    content = plan_with(plan_configuration, ADVERSARIAL.model_copy(update=changes), network).model_dump()
    with pytest.raises(ValueError, match=expected):
        ConfigurationPlan.model_validate(content)
