"""Diffusion of label maps: the published network, and how prediction samples."""

import pytest
import torch
from builders.networks import build_small_network_plan
from builders.plans import build_channels, build_configuration, build_plan
from builders.threads import use_one_thread

from autoseg.networks import build_network
from autoseg.networks.families.diffusion_unet import DiffusionUNet, find_bits, find_logits
from autoseg.networks.parts.diffusion.denoiser import Denoiser
from autoseg.plan.network.diffusion_unet import DiffusionUNetPlan
from autoseg.plan.network.latent_diffusion import DenoiserPlan
from planners.architectures import ARCHITECTURES
from planners.reasons import format_amount
from planners.refinement import add_refinement
from planners.rules.cascade import choose_cascade
from planners.rules.context_slices import with_context
from planners.rules.topology import UNET_TOPOLOGY
from planners.rules.training import choose_objective

_one_thread = pytest.fixture(autouse=True)(use_one_thread)


def build(seed: int = 0, **changes) -> DiffusionUNet:
    """A network in evaluation mode, whose weights are not those that it begins with."""
    generator = torch.Generator().manual_seed(seed)
    network = build_network(build_small_network_plan("diffusion_unet", 2, **changes), generator).eval()
    assert isinstance(network, DiffusionUNet)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def draw_image(batch: int = 2) -> torch.Tensor:
    return torch.randn((batch, 2, 8, 8), generator=torch.Generator().manual_seed(1))


def test_the_denoiser_has_the_parameters_of_ddpm() -> None:
    plan = DenoiserPlan(
        dimensions=2,
        input_channels=3,
        output_channels=3,
        features_per_stage=(128, 256, 256, 256),
        kernel_sizes=((3, 3),) * 4,
        strides=((1, 1), (2, 2), (2, 2), (2, 2)),
        form="ddpm",
        heads=4,
        blocks_per_stage=2,
        attention_stages=(3,),
        dropout=0.0,
    )
    with torch.device("meta"):
        denoiser = Denoiser(plan)
    assert sum(parameter.numel() for parameter in denoiser.parameters()) == 35_741_699
    (published,) = ARCHITECTURES["diffusion_unet"].published
    assert published.parameter_count == 35_741_699
    assert published.plan.denoiser == plan.model_copy(update={"input_channels": 6})


@pytest.mark.parametrize(
    ("spacing_mm", "patch", "features", "attending"),
    [
        ((1.0, 1.0), (256, 256), (64, 128, 128, 128, 128, 128, 128), (3, 4, 5, 6)),
        ((1.0, 1.0), (1024, 1024), (64, *(128,) * 8), (4, 5, 6, 7, 8)),
        ((1.0, 1.0, 1.0), (24, 36, 24), (32, 64, 64), (2,)),
    ],
)
def test_coarse_stages_attend_where_they_are_small_enough(spacing_mm, patch, features, attending) -> None:
    topology = UNET_TOPOLOGY.compute(spacing_mm, patch)
    network, reasons = ARCHITECTURES["diffusion_unet"].choose_network(topology, input_channels=1, output_channels=2)
    assert network.denoiser.features_per_stage == features
    assert network.denoiser.attention_stages == attending
    assert network.noise_grid == topology.patch_voxels
    assert [reason.value for reason in reasons][1:] == [
        format_amount(len(attending), "stage"),
        "4 samples of 1 step",
    ]


def test_heads_that_do_not_divide_the_features_are_refused() -> None:
    fields = build_small_network_plan("diffusion_unet", 2).denoiser.model_dump()
    with pytest.raises(ValueError, match=r"heads must divide the features .* \[8\] \(got 3\)"):
        DenoiserPlan.model_validate(fields | {"heads": 3})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sampler_steps": 11}, "sampler_steps must be at most the 10 of diffusion.steps"),
        ({"input_channels": 3}, "denoiser.input_channels must be 6"),
        ({"noise_grid": (4, 4, 4)}, "the axes of noise_grid must be 2"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        build_small_network_plan("diffusion_unet", 2, **changes)


@pytest.mark.parametrize(
    ("changes", "calls"),
    [({"sampler_steps": 3, "samples": 2}, 6), ({"sampler_steps": 2, "guidance_scale": 1.5}, 4)],
)
@torch.no_grad()
def test_prediction_calls_the_denoiser_as_often_as_the_plan_says(changes, calls: int) -> None:
    network, found = build(**changes), []
    network.denoiser.register_forward_hook(lambda *_: found.append(1))
    network(draw_image())
    assert len(found) == calls == network.plan.prediction_calls


@torch.no_grad()
def test_prediction_repeats_itself_with_noise_of_the_checkpoint() -> None:
    network, image = build(samples=2), draw_image()
    first = network(image)[0]
    torch.manual_seed(5)
    assert torch.equal(network(image)[0], first)
    assert "noise" in network.state_dict()
    network.noise.add_(1)
    assert not torch.equal(network(image)[0], first)


@torch.no_grad()
def test_a_prediction_is_the_mean_of_samples_that_begin_with_different_noise() -> None:
    network, image = build(samples=2, sampler_steps=2), draw_image()
    noises = [network._draw(image, index) for index in range(2)]
    assert not torch.equal(*noises)
    torch.testing.assert_close(noises[1][:, :, :2], noises[0][:, :, 2:4].roll(2, 3))
    each = [network._sample(image, noise) for noise in noises]
    assert not torch.equal(*each)
    torch.testing.assert_close(network(image)[0], (each[0] + each[1]) / 2)


@pytest.mark.parametrize("estimate", ["bits", "noise"])
@torch.no_grad()
def test_a_denoiser_that_knows_the_label_map_predicts_it(estimate: str) -> None:
    network, image = build(estimate=estimate, sampler_steps=5), draw_image()
    masks = (torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(2)) > 0).float()
    start = 2 * masks - 1

    def know_all(inputs: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        return 20 * start if estimate == "bits" else network.diffusion.predict_noise(inputs[:, :3], steps, start)

    network.denoiser.forward = know_all
    assert torch.equal((network(image)[0] > 0).float(), masks)
    noise, steps = torch.randn(masks.shape), torch.tensor([1, 10])
    logits, found = network(image, masks, noise, steps)
    assert torch.equal((logits > 0).float(), masks)
    torch.testing.assert_close(found, start if estimate == "bits" else noise, rtol=0, atol=1e-4)


@torch.no_grad()
def test_guidance_leaves_the_estimate_without_the_image_behind() -> None:
    network, image = build(sampler_steps=1, guidance_scale=3.0), draw_image()
    network.denoiser.forward = lambda inputs, steps: inputs[:, 3:].sum(1, keepdim=True).expand(-1, 3, -1, -1) + 2
    torch.testing.assert_close(network(image)[0][:, 0], 3 * image.sum(1) + 2)


def test_bits_and_logits_are_inverse() -> None:
    logits = torch.tensor([-4.0, 0.0, 0.5, 4.0])
    torch.testing.assert_close(find_logits(find_bits(logits)), logits)
    torch.testing.assert_close(find_bits(logits), 2 * logits.sigmoid() - 1)
    assert bool(find_logits(torch.tensor([-9.0, 9.0])).isfinite().all())


def test_a_cascade_context_slices_and_clicks_add_channels_to_the_denoiser_too() -> None:
    flat = build_configuration((8, 8), data_of="2d", network={"input_channels": 2})
    network = build_small_network_plan("diffusion_unet", 2)
    flat = flat.model_copy(update={"network": network, "training": choose_objective(flat.training, network).value})
    plan = build_plan({"2d": flat}, channels=build_channels("zscore", "zscore"))
    cascade, _ = choose_cascade(flat, plan.labels)
    found = {
        "cascade": cascade.network,
        "context": with_context(flat, 1).network,
        "clicks": add_refinement(plan, "2d").configurations["2d_refine"].network,
    }
    classes = len(plan.labels.class_names)
    assert {name: network.input_channels for name, network in found.items()} == {
        "cascade": 2 + classes,
        "context": 2 * 3,
        "clicks": 2 + classes + classes + 1,
    }
    for network in found.values():
        DiffusionUNetPlan.model_validate(network.model_dump())  # as it is when plan.json is read
        image = torch.zeros(1, network.input_channels, 8, 8)
        assert build_network(network).eval()(image)[0].shape == (1, network.output_channels, 8, 8)
