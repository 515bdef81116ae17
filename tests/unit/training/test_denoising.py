"""Training of diffusion of label maps."""

import pytest
import torch
from builders.labels import build_labels
from builders.networks import build_small_network_plan
from builders.threads import use_one_thread

from autoseg.plan import ConfigurationPlan
from autoseg.plan.losses import SegmentationObjective
from autoseg.plan.objectives import DenoisingObjective
from autoseg.runtime.distributed import BatchPart
from autoseg.training.data.batch import Batch
from autoseg.training.losses.targets import build_output_masks
from autoseg.training.step import build_learner, run_training_step, run_validation_step

CPU = torch.device("cpu")
LABELS = build_labels({"one": (1,), "two": (2,)})
IGNORING = build_labels({"one": (1,), "two": (2,)}, ignore_value=3)
DENOISING = DenoisingObjective(estimate_weight=1.0, segmentation_weight=0.0, last_step_fraction=0.5, image_dropout=0.0)

_one_thread = pytest.fixture(autouse=True)(use_one_thread)


def plan_with(plan_configuration, objective=DENOISING, **changes) -> ConfigurationPlan:
    plan = plan_configuration(dimensions=2)
    network = build_small_network_plan("diffusion_unet", 2, **changes)
    training = plan.training.model_copy(update={"objective": objective})
    return plan.model_copy(update={"network": network, "training": training, "patch_voxels": (8, 8)})


def draw_batch(classes: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        image=torch.randn(2, 2, 8, 8, generator=generator),
        label_map=torch.randint(classes, (2, 8, 8), generator=generator).to(torch.int16),
    )


@pytest.mark.parametrize("estimate", ["bits", "noise"])
def test_the_loss_of_bits_or_noise_is_zero_for_the_true_ones_and_a_mean_square(
    plan_configuration, estimate: str
) -> None:
    learner = build_learner(plan_with(plan_configuration, estimate=estimate), LABELS, device=CPU, seed=0)

    for distance, expected in ((0.5, 0.25), (0.0, 0.0)):

        def be_off(image, masks, *further, distance=distance):
            return masks, (2 * masks - 1 if estimate == "bits" else further[0]) + distance

        loss, _ = learner.objective(be_off, draw_batch())
        assert loss.item() == pytest.approx(expected)


def test_ignored_voxels_count_in_no_difference(plan_configuration) -> None:
    learner = build_learner(plan_with(plan_configuration), IGNORING, device=CPU, seed=0)
    batch = draw_batch(classes=4)
    ignored = (batch.label_map == 3)[:, None]
    assert bool(ignored.any())

    def be_off(image, masks, noise, steps):
        return masks, 2 * masks - 1 + torch.where(ignored, 100.0, 0.5)

    loss, _ = learner.objective(be_off, batch)
    assert loss.item() == pytest.approx(0.25)


def test_a_training_learns_and_changes_all_but_the_noise(plan_configuration) -> None:
    objective = DENOISING.model_copy(update={"segmentation_weight": 1.0})
    learner = build_learner(plan_with(plan_configuration, objective), LABELS, device=CPU, seed=0)
    learner.set_learning_rate(0.02)
    noise, losses = learner.network.get_buffer("noise").clone(), []
    for number in range(12):
        torch.manual_seed(number)  # as the loop does
        learner.train()
        losses.append(run_training_step(learner, draw_batch()))
    assert min(losses[-3:]) < losses[0]
    assert torch.equal(learner.network.get_buffer("noise"), noise)


def test_validation_repeats_itself_and_scores_what_prediction_gives(plan_configuration) -> None:
    learner = build_learner(plan_with(plan_configuration), LABELS, device=CPU, seed=0)
    learner.train(is_training=False)
    first, second = (run_validation_step(learner, draw_batch()) for _ in range(2))
    assert first.loss == second.loss
    calls = []

    def call(image, *further):
        calls.append(len(further))
        return learner.call_network(image, *further)

    _, logits = learner.objective(call, draw_batch())
    assert calls == [3, 0]
    assert torch.equal(logits, learner.network(draw_batch().image)[0])


@pytest.mark.parametrize("is_training", [True, False])
def test_images_are_dropped_in_training_alone(plan_configuration, *, is_training: bool) -> None:
    plan = plan_with(plan_configuration, DENOISING.model_copy(update={"image_dropout": 1.0}))
    learner, batch, seen = build_learner(plan, LABELS, device=CPU, seed=0), draw_batch(), []
    learner.train(is_training=is_training)

    def watch(image, masks=None, *further):
        seen.append(image)
        return build_output_masks(batch.label_map, LABELS), build_output_masks(batch.label_map, LABELS)

    learner.objective(watch, batch)
    assert torch.equal(seen[0], torch.zeros_like(batch.image) if is_training else batch.image)


@pytest.mark.parametrize(
    ("changes", "objective", "expected"),
    [
        ({}, SegmentationObjective(), "objective must be 'denoising' for a network of the family diffusion_unet"),
        ({"guidance_scale": 2.0}, DENOISING, "image_dropout must be above 0, .* guidance_scale other than 1"),
    ],
)
def test_objectives_that_do_not_fit_the_network_are_refused(plan_configuration, changes, objective, expected) -> None:
    content = plan_with(plan_configuration, objective, **changes).model_dump()
    with pytest.raises(ValueError, match=expected):
        ConfigurationPlan.model_validate(content)


def test_a_denoising_of_logits_is_refused(plan_configuration) -> None:
    content = plan_configuration(dimensions=2).model_dump()
    content["training"]["objective"] = DENOISING.model_dump()
    with pytest.raises(ValueError, match="'denoising' needs a network of the family diffusion_unet"):
        ConfigurationPlan.model_validate(content)


@pytest.mark.parametrize("is_training", [True, False])
def test_parts_of_a_batch_draw_what_the_whole_batch_draws(plan_configuration, *, is_training: bool) -> None:
    """Of three samples, the first process sees one, the second two."""
    plan = plan_with(plan_configuration, estimate="noise")
    learner = build_learner(plan, LABELS, device=CPU, seed=0)
    learner.train(is_training=is_training)
    objective, batch = learner.objective, draw_batch()
    batch = Batch(image=batch.image[[0, 1, 0]], label_map=batch.label_map[[0, 1, 0]])
    losses, noises = [], []

    def estimate(image, masks=None, noise=None, steps=None):
        if masks is None:
            return (torch.zeros(len(image), 3, 8, 8),)
        noises.append(noise)
        return masks, noise * steps.reshape(-1, 1, 1, 1)

    whole, parts = slice(0, 3), (slice(0, 1), slice(1, 3))
    for place in (whole, *parts):
        count = place.stop - place.start
        objective.part = BatchPart(share=count / 3, first=place.start, batch_size=3)
        torch.manual_seed(0)
        loss, _ = objective(estimate, Batch(image=batch.image[place], label_map=batch.label_map[place]))
        losses.append(loss.item())
    assert torch.equal(noises[0], torch.cat(noises[1:]))
    assert losses[0] == pytest.approx(sum(losses[1:]))
