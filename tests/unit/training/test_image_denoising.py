"""Training of diffusion of images, given their label maps."""

import pytest
import torch
from builders.labels import build_labels
from builders.networks import build_small_network_plan
from builders.threads import use_one_thread

from autoseg.networks import build_network
from autoseg.networks.families.diffusion_unet import DiffusionUNet
from autoseg.plan import ConfigurationPlan
from autoseg.plan.objectives import ChannelRange, DenoisingObjective, ImageDenoisingObjective
from autoseg.training.data.batch import Batch
from autoseg.training.objectives.image_denoising import build_condition, restore_intensities, standardize
from autoseg.training.step import build_learner, run_training_step, run_validation_step

CPU = torch.device("cpu")
LABELS = build_labels({"one": (1,), "two": (2,)})
RANGES = tuple(ChannelRange(mean=mean, std=2.0, lowest=-4.0, highest=8.0) for mean in (0.0, 1.0, 2.0))
OBJECTIVE = ImageDenoisingObjective(channels=RANGES, mask_dropout=0.0)

_one_thread = pytest.fixture(autouse=True)(use_one_thread)


def build_network_plan(**changes):
    """A denoiser of images of three channels, given two masks."""
    return build_small_network_plan("diffusion_unet", 2, **({"estimate": "image", "sampler_steps": 3} | changes))


def plan_with(plan_configuration) -> ConfigurationPlan:
    plan = plan_configuration(dimensions=2)
    training = plan.training.model_copy(update={"objective": OBJECTIVE, "transforms": ()})
    network = build_network_plan().model_copy(update={"input_channels": 3})
    network = network.model_copy(update={"denoiser": network.denoiser.model_copy(update={"input_channels": 6})})
    return plan.model_copy(update={"network": network, "training": training, "patch_voxels": (8, 8)})


def draw_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        image=torch.randn(2, 3, 8, 8, generator=generator),
        label_map=torch.randint(3, (2, 8, 8), generator=generator).to(torch.int16),
    )


def test_the_loss_is_zero_for_the_image_itself_and_a_mean_square(plan_configuration) -> None:
    learner = build_learner(plan_with(plan_configuration), LABELS, device=CPU, seed=0)
    for distance, expected in ((0.5, 0.25), (0.0, 0.0)):

        def be_off(masks, start, *further, distance=distance):
            assert masks.shape == (2, 3, 8, 8)
            return (start + distance,)

        loss, logits = learner.objective(be_off, draw_batch())
        assert loss.item() == pytest.approx(expected)
        assert logits.shape == (0, 3, 8, 8)


def test_a_training_learns_and_validation_scores_no_class(plan_configuration) -> None:
    learner = build_learner(plan_with(plan_configuration), LABELS, device=CPU, seed=0)
    learner.set_learning_rate(0.02)
    losses = []
    for number in range(12):
        torch.manual_seed(number)  # as the loop does
        learner.train()
        losses.append(run_training_step(learner, draw_batch()))
    assert min(losses[-3:]) < losses[0]
    learner.train(is_training=False)
    first, again = (run_validation_step(learner, draw_batch()) for _ in range(2))
    assert first.loss == again.loss
    assert (first.counts.true_positive + first.counts.false_positive + first.counts.false_negative).tolist() == [0, 0]


def test_the_condition_is_one_hot_and_ignored_voxels_have_a_channel_of_their_own() -> None:
    label_map = torch.tensor([[[0, 1, 2, 3]]], dtype=torch.int16)
    ignoring = build_labels({"one": (1,), "two": (2,)}, ignore_value=3)
    expected = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert build_condition(label_map, ignoring)[0, :, 0].tolist() == expected
    regions = build_labels({"all": (1, 2), "two": (2,)}, region_write_values=(1, 2), ignore_value=3)
    assert build_condition(label_map, regions)[0, :, 0].tolist() == [[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_intensities_are_standardized_and_restored() -> None:
    image = draw_batch().image
    found = standardize(image, RANGES)
    torch.testing.assert_close(found[:, 1], (image[:, 1] - 1) / 2)
    torch.testing.assert_close(restore_intensities(found, RANGES), image)


def test_the_network_samples_the_image_that_it_always_estimates() -> None:
    network = build_network(build_network_plan(), torch.Generator().manual_seed(0)).eval()
    assert isinstance(network, DiffusionUNet)
    known = torch.randn(1, 3, 8, 8)
    network.denoiser.forward = lambda noisy, steps: known
    torch.testing.assert_close(network(torch.zeros(1, 2, 8, 8))[0], known)
    with torch.no_grad():
        (estimate,) = network.train()(torch.zeros(1, 2, 8, 8), known, torch.zeros_like(known), torch.tensor([3]))
    torch.testing.assert_close(estimate, known)


def test_networks_and_objectives_that_do_not_fit_are_refused_by_name() -> None:
    assert OBJECTIVE.find_problem(build_network_plan()) is None
    labels = build_network_plan(estimate="bits")
    assert "whose estimate is 'image'" in str(OBJECTIVE.find_problem(labels))
    denoising = DenoisingObjective(
        estimate_weight=1.0, segmentation_weight=0.0, last_step_fraction=0.5, image_dropout=0.0
    )
    assert denoising.find_problem(build_network_plan()) is not None
    fewer = OBJECTIVE.model_copy(update={"channels": RANGES[:2]})
    assert "3 channels (got 2)" in str(fewer.find_problem(build_network_plan()))
    assert "mask_dropout" in str(OBJECTIVE.find_problem(build_network_plan(guidance_scale=2.0)))


def test_what_is_drawn_depends_on_the_label_map(plan_configuration) -> None:
    """Images whose intensity is the label; a denoiser that has learned them draws what a label map says."""
    plan = plan_with(plan_configuration)
    training = plan.training.model_copy(update={"optimizer": "adamw", "momentum": 0.9})
    learner = build_learner(plan.model_copy(update={"training": training}), LABELS, device=CPU, seed=0)
    learner.set_learning_rate(0.02)
    generator = torch.Generator().manual_seed(0)
    for number in range(40):
        label_map = torch.randint(3, (4, 1, 1), generator=generator).expand(4, 8, 8).to(torch.int16)
        torch.manual_seed(number)
        learner.train()
        run_training_step(
            learner, Batch(image=3.0 * label_map[:, None].float().expand(4, 3, 8, 8), label_map=label_map)
        )
    network = learner.network.eval()
    with torch.no_grad():
        dark, bright = (
            restore_intensities(
                network(build_condition(torch.full((1, 8, 8), label, dtype=torch.int16), LABELS))[0], RANGES
            )
            for label in (0, 2)
        )
    assert bright.mean() > dark.mean() + 1
