"""Latent diffusion is planned for the weights of Stable Diffusion, with pictures that stand for label maps."""

from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from builders.fingerprints import build_fingerprint
from builders.labels import build_labels, build_plain_labels

from autoseg.cli.choices import find_planner
from autoseg.errors import PlanError
from autoseg.fingerprint import Fingerprint, Machine
from autoseg.network_cost import Convolution, NetworkCost
from autoseg.networks.parts.diffusion.label_pictures import LabelPictures
from autoseg.plan import Plan
from autoseg.plan.label_prior import plan_autoencoder_training
from autoseg.plan.network import LatentDiffusionPlan, NetworkPlan
from autoseg.plan.network.base import PretrainedPlan
from autoseg.plan.objectives import LatentDiffusionObjective
from planners import ARCHITECTURES, PLANNERS
from planners.architectures.stable_diffusion import LatentDiffusionProfile
from planners.rules.label_pictures import choose_colours, choose_pictures

MACHINE = Machine(accelerator_memory_gb=None)
WHOLE = ("autoencoder", "denoiser")
REGIONS = {
    1: build_labels({"whole": (1, 2)}, region_write_values=(1,)),
    2: build_labels({"whole": (1, 2), "core": (2,)}, region_write_values=(1, 2)),
    3: build_labels({"whole": (1, 2, 3), "core": (2, 3), "seed": (3,)}, region_write_values=(1, 2, 3)),
    4: build_labels(
        {"whole": (1, 2, 3, 4), "core": (2, 3, 4), "seed": (3, 4), "pip": (4,)}, region_write_values=(1, 2, 3, 4)
    ),
}


def count_little(network: NetworkPlan, patch_voxels: tuple[int, ...], batch_size: int) -> NetworkCost:
    """A made-up cost, as counting such networks takes seconds."""
    elements = 1000 * batch_size * prod(patch_voxels)
    convolution = Convolution(channels_in=1, channels_out=1, output_elements=elements, multiply_adds=elements)
    return NetworkCost(
        kept_bytes=4 * elements,
        parameter_count=1,
        parameter_bytes=4,
        multiply_adds=elements,
        matrix_multiply_adds=0,
        convolutions=(convolution,),
        normalized_elements=elements,
        output_elements=elements,
    )


def plan_for(fingerprint: Fingerprint, parts: tuple[str, ...] = WHOLE) -> Plan:
    given = {"path": "/weights.ckpt", "sha256": "0" * 64, "first_kernels": "mean", "parts": parts}
    profile = LatentDiffusionProfile(pretrained=PretrainedPlan.model_validate(given))
    architecture = replace(ARCHITECTURES["latent_diffusion"], choose_network=profile, topology=profile.topology)
    return PLANNERS["default"].with_architecture(architecture).plan(fingerprint, MACHINE, measure_cost=count_little)


def find_network(plan: Plan, name: str = "2d") -> LatentDiffusionPlan:
    network = plan.configurations[name].network
    assert isinstance(network, LatentDiffusionPlan)
    return network


def test_with_a_denoiser_everything_is_as_published() -> None:
    plan = plan_for(build_fingerprint((1.0, 1.0, 1.0), (1, 300, 420), count=50))
    network, configuration = find_network(plan), plan.configurations["2d"]
    published = LatentDiffusionProfile().build_published()
    assert network.denoiser == published.denoiser
    assert network.vision_features_per_stage == published.vision_features_per_stage
    assert (network.estimate, network.patch_divisors) == ("noise", (128, 128))
    assert configuration.patch_voxels == (384, 512)
    assert network.noise_grid == (48, 64)
    assert network.autoencoder.pictures is not None
    assert network.autoencoder.pictures.colours == ((-1, -1, -1), (1, 1, 1))
    objective = configuration.training.objective
    assert isinstance(objective, LatentDiffusionObjective)
    assert (objective.last_step_fraction, objective.segmentation_weight) == (0, 0)
    assert configuration.training.initial_learning_rate == 1e-5
    reasons = {reason.subject: reason for reason in plan.reasons}
    assert reasons["2d: first weights"].value == "/weights.ckpt"
    assert "halved 7 times, as the weights of Stable Diffusion demand" in reasons["2d: topology"].because
    assert reasons["2d: pictures of label maps"].value == "2 colours"
    assert reasons["2d: first kernels"].value == "mean"


def test_the_weights_of_an_autoencoder_are_not_trained_before_the_network() -> None:
    configuration = plan_for(build_fingerprint((1.0, 1.0, 1.0), (1, 128, 128))).configurations["2d"]
    assert plan_autoencoder_training(configuration) is None
    forgotten = configuration.model_copy(update={"network": configuration.network.with_pretrained(None)})
    assert plan_autoencoder_training(forgotten) is not None


def test_without_a_denoiser_in_the_file_a_small_one_estimates_latents() -> None:
    plan = plan_for(build_fingerprint((1.0, 1.0, 1.0), (1, 200, 260), count=50), ("autoencoder",))
    network = find_network(plan)
    assert (network.estimate, network.denoiser.features_per_stage[0]) == ("latent", 64)
    assert network.denoiser.strides == ((1, 1), (2, 2), (2, 2))
    assert plan.configurations["2d"].patch_voxels == (224, 288)
    (reason,) = (reason for reason in plan.reasons if reason.subject == "2d: estimate")
    assert "those that attend to a text cannot take an image" in reason.because


def test_volumes_are_planned_slice_by_slice_alone() -> None:
    plan = plan_for(build_fingerprint((1.0, 1.0, 1.0), (96, 128, 128)))
    assert set(plan.configurations) == {"2d"}
    (reason,) = (reason for reason in plan.reasons if reason.subject == "3d_fullres")
    assert "the weights of Stable Diffusion are those of a 2D network, so there is none in 3D" in reason.because


def test_regions_get_channels_of_their_own() -> None:
    fingerprint = build_fingerprint((1.0, 1.0, 1.0), (1, 128, 128), labels=REGIONS[2])
    pictures = find_network(plan_for(fingerprint)).autoencoder.pictures
    assert pictures is not None
    assert (pictures.kind, pictures.colours) == ("regions", ((1, -1, -1), (-1, 1, 1)))


@pytest.mark.parametrize("count", [2, 3, 8, 9, 27])
def test_labels_are_painted_in_colours_that_differ_and_told_from_them(count: int) -> None:
    painter = LabelPictures(choose_pictures(build_plain_labels(count - 1)).value)
    labels = torch.arange(count).reshape(1, 1, count)
    masks = torch.nn.functional.one_hot(labels, count).movedim(-1, 1).float()
    painted = painter.paint(masks)
    assert (painted.abs() <= 1).all()
    logits = painter.find_logits(painted + 0.2)
    assert torch.equal(logits.argmax(1), labels)
    top, second = painter.find_logits(painted).topk(2, dim=1).values.unbind(1)
    torch.testing.assert_close((top - second).min(), torch.tensor(4.0))


def test_one_class_is_black_and_white_and_its_logit_the_mean_of_the_channels() -> None:
    painter = LabelPictures(choose_pictures(build_plain_labels(1)).value)
    background, white = painter.find_logits(torch.tensor([0.5, -0.2, 0.6]).reshape(1, 3, 1, 1)).flatten().tolist()
    assert white - background == pytest.approx(4 * 0.3)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_regions_that_overlap_are_painted_and_told_from_pictures(count: int) -> None:
    painter = LabelPictures(choose_pictures(REGIONS[count]).value)
    masks = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * count).reshape(2**count, count).T[None, :, None]
    painted = painter.paint(masks)
    assert set(painted.unique().tolist()) == {-1, 1}
    torch.testing.assert_close(painter.find_logits(painted), 8 * masks - 4)


def test_more_labels_or_regions_than_colours_are_refused() -> None:
    with pytest.raises(PlanError, match=r"label maps of 28 labels .* at most 27 colours apart; plan without"):
        choose_colours(28)
    with pytest.raises(PlanError, match="4 regions cannot be told from pictures"):
        choose_pictures(REGIONS[4])


def test_a_file_of_something_else_is_refused_before_anything_is_planned(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"features.0.weight": torch.ones(2)}, path)
    with pytest.raises(
        PlanError, match=r"do not fit latent_diffusion: expected first_stage_model.decoder.conv_in.bias"
    ):
        find_planner("default", "latent_diffusion", pretrained=path)
