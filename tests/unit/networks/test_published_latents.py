"""Latent diffusion begins with the weights of a local file of Stable Diffusion, or the file is refused."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from builders.published_encoders import randomize
from builders.published_latents import PublishedAutoencoder, PublishedDenoiser
from safetensors.torch import save_file
from torch import Tensor, nn

from autoseg.errors import ExchangeError, PlanError
from autoseg.networks import build_network
from autoseg.networks.cost import META
from autoseg.networks.families.latent_diffusion import LatentDiffusion
from autoseg.networks.parts.diffusion.published import fit_published
from autoseg.networks.pretrained import describe_latents, load_pretrained, read_latents
from autoseg.plan.network import LatentDiffusionPlan
from autoseg.plan.network.base import PretrainedPlan
from planners.architectures.stable_diffusion import LatentDiffusionProfile

FEATURES, DENOISED = (4, 4, 8, 8), (8, 16, 16)
SHAPES = {"attending": 2, "heads": 2}
COLOURS = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), (-1.0, -1.0, 1.0))


def plan_latents(**changes: Any) -> LatentDiffusionPlan:
    """SDSeg as published, but narrow and with two reductions of the denoiser."""
    content = LatentDiffusionProfile().build_published().model_dump()
    content["autoencoder"] |= {
        "features_per_stage": FEATURES,
        "blocks_per_stage": 1,
        "pictures": {"colours": COLOURS, "kind": "labels"},
    }
    halved = {"kernel_sizes": ((3, 3),) * 3, "strides": ((1, 1), (2, 2), (2, 2))}
    content["denoiser"] |= {
        "features_per_stage": DENOISED,
        "heads": 2,
        "attention_stages": (0, 1),
        "blocks_per_stage": 1,
        **halved,
    }
    changes = {"vision_features_per_stage": FEATURES, "noise_grid": (4, 4), **changes}
    return LatentDiffusionPlan.model_validate(content | changes)


def make_published(**shapes: Any) -> tuple[PublishedAutoencoder, PublishedDenoiser]:
    torch.manual_seed(0)
    return randomize(PublishedAutoencoder(FEATURES, 1)), randomize(PublishedDenoiser(DENOISED, 1, **SHAPES | shapes))


def list_weights(*modules: nn.Module) -> dict[str, Any]:
    """What a file of Stable Diffusion holds, with the beginnings of much that is not used."""
    prefixes = ("first_stage_model.", "model.diffusion_model.")
    named = zip(prefixes, modules, strict=False)
    weights = {f"{prefix}{name}": tensor for prefix, module in named for name, tensor in module.state_dict().items()}
    others = {
        "cond_stage_model.position_ids": torch.arange(3),
        "model_ema.num_updates": torch.tensor(3, dtype=torch.int32),
    }
    return weights | others | {"betas": torch.ones(3), "sqrt_alphas_cumprod": torch.ones(3), "logvar": torch.zeros(3)}


def write(folder: Path, weights: Mapping[str, Any], ending: str = ".ckpt") -> Path:
    path = folder / f"weights{ending}"
    if ending == ".safetensors":
        save_file(dict(weights), path)
    else:
        torch.save({"epoch": 3, "state_dict": dict(weights), "callbacks": {}}, path)
    return path


def describe(path: Path, plan: LatentDiffusionPlan) -> PretrainedPlan:
    with META:
        expected = build_network(plan).state_dict()
    return describe_latents(path, plan, expected)


def load(plan: LatentDiffusionPlan, path: Path, first_kernels: str = "by_colour") -> LatentDiffusion:
    described = describe(path, plan).model_copy(update={"first_kernels": first_kernels})
    network = build_network(plan.with_pretrained(described), torch.Generator().manual_seed(1)).eval()
    assert isinstance(network, LatentDiffusion)
    load_pretrained(network)
    return network


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
@torch.inference_mode()
def test_every_part_computes_what_the_published_one_computes(ending: str, tmp_path: Path) -> None:
    autoencoder, denoiser = make_published()
    network = load(plan_latents(), write(tmp_path, list_weights(autoencoder, denoiser), ending))
    labels = torch.randint(3, (2, 32, 32), generator=torch.Generator().manual_seed(0))
    masks = nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    painted = torch.tensor(COLOURS)[labels].movedim(-1, 1)
    latents = autoencoder.encode(painted)
    close = {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(network.autoencoder.encode(masks), 0.18215 * latents, **close)
    torch.testing.assert_close(network.autoencoder.decoder(latents), autoencoder.decode(latents), **close)
    image = draw(2, 3, 32, 32)
    torch.testing.assert_close(network.vision(image), autoencoder.encode(image), **close)
    noisy, seen, steps = draw(2, 4, 4, 4), draw(2, 4, 4, 4), torch.tensor([1, 700])
    torch.testing.assert_close(network.denoiser(torch.cat((noisy, seen), 1), steps), denoiser(noisy, steps), **close)


def test_the_published_sizes_are_exact_and_every_weight_of_the_published_form_has_its_place() -> None:
    profile = LatentDiffusionProfile(pretrained=PretrainedPlan(path=Path("/a"), sha256="0" * 64, first_kernels="mean"))
    plan = LatentDiffusionProfile().build_published()
    with META:
        network = build_network(plan)
        weights = list_weights(
            PublishedAutoencoder((128, 256, 512, 512), 2),
            PublishedDenoiser((192, 384, 384, 768, 768), 2, attending=4, heads=8),
        )
    assert isinstance(network, LatentDiffusion)
    sizes = [
        sum(tensor.numel() for tensor in module.parameters())
        for module in (network.autoencoder, network.denoiser, network.autoencoder.encoder, network.autoencoder.decoder)
    ]
    moments = [8 * 8 + 8, 4 * 4 + 4]
    assert sizes == [83_653_863, 294_973_828, 34_163_592 + moments[0], 49_490_179 + moments[1]]
    loaded = {name: tensor for name, tensor in weights.items() if name.startswith("model.diffusion_model.")}
    assert sum(tensor.numel() for tensor in loaded.values()) == 294_966_916  # of four channels
    assert profile.pretrained is not None
    given = profile.pretrained.model_copy(update={"parts": ("autoencoder", "denoiser")})
    fitted, problems = fit_published(weights, network.state_dict(), plan.with_pretrained(given))
    assert problems == []
    assert network.state_dict().keys() - fitted.keys() == {"noise", "autoencoder.latent_scale"}


@pytest.mark.parametrize("channels", [1, 2, 3])
@torch.inference_mode()
def test_equal_channels_of_any_number_are_seen_as_a_grey_picture(channels: int, tmp_path: Path) -> None:
    autoencoder, denoiser = make_published()
    path = write(tmp_path, list_weights(autoencoder, denoiser))
    described = describe(path, plan_latents())
    network = build_network(plan_latents(input_channels=channels).with_pretrained(described)).eval()
    load_pretrained(network)
    grey = draw(1, 1, 32, 32)
    expected = autoencoder.encode(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(
        network.get_submodule("vision")(grey.expand(-1, channels, -1, -1)), expected, rtol=1e-3, atol=1e-4
    )


def test_a_file_may_hold_the_autoencoder_alone_or_a_denoiser_that_needs_a_text(tmp_path: Path) -> None:
    autoencoder, _ = make_published()
    alone = {name: tensor.half() for name, tensor in autoencoder.state_dict().items()}
    path = write(tmp_path, alone | {"loss.logvar": torch.zeros(())})
    assert describe(path, plan_latents()).parts == ("autoencoder",)
    network = load(plan_latents(), path)
    wanted = autoencoder.decoder.mid.attn_1.proj_out.weight.half().float()
    assert torch.equal(network.autoencoder.decoder.middle.get_parameter("attention.output.weight"), wanted)
    assert not network.denoiser.head.get_parameter("weight").any()
    text = {"model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.ones(2, 2)}
    path = write(tmp_path, list_weights(autoencoder) | text)
    assert describe(path, plan_latents()).parts == ("autoencoder",)


def test_a_denoiser_that_sees_an_image_already_keeps_these_weights_and_the_scale_is_that_of_the_file(
    tmp_path: Path,
) -> None:
    autoencoder, denoiser = make_published(channels=8)
    weights = list_weights(autoencoder, denoiser) | {"scale_factor": torch.tensor(0.25)}
    network = load(plan_latents(), write(tmp_path, weights))
    assert torch.equal(network.denoiser.stem.get_parameter("weight"), denoiser.input_blocks[0][0].weight)
    assert network.state_dict()["autoencoder.latent_scale"] == 0.25


KERNEL, DEEP = "first_stage_model.encoder.conv_in.weight", "model.diffusion_model.middle_block.1.qkv.weight"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a missing tensor": ({KERNEL: None}, f"expected {KERNEL}, found none"),
    "an unknown tensor": ({"model.diffusion_model.label_emb.weight": torch.ones(2)}, "label_emb.weight, expected none"),
    "another part": ({"control_model.a": torch.ones(2)}, "found control_model.a, expected none"),
    "another width": (
        {DEEP: torch.ones(24, 8, 1)},
        r"qkv.weight: expected the shape \(48, 16, 1, 1\), found \(24, 8, 1\)",
    ),
    "numbers that are not finite": ({KERNEL: torch.full((4, 3, 3, 3), torch.nan)}, "conv_in.weight holds NaN"),
    "whole numbers": ({KERNEL: torch.ones(4, 3, 3, 3, dtype=torch.int64)}, "conv_in.weight are torch.int64"),
    "something else": ({"first_stage_model.epoch": 3}, "must hold tensors by name.*found first_stage_model.epoch: int"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_do_not_fit_are_refused_by_name(case: str, tmp_path: Path) -> None:
    changes, words = REFUSED[case]
    weights = {name: value for name, value in (list_weights(*make_published()) | changes).items() if value is not None}
    with pytest.raises(PlanError, match=words):
        describe(write(tmp_path, weights), plan_latents())


def test_the_callbacks_of_a_checkpoint_are_not_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "pytorch_lightning.callbacks.model_checkpoint"
    callback = type("ModelCheckpoint", (), {"__module__": name})
    for depth in range(1, 4):
        part = ".".join(name.split(".")[:depth])
        monkeypatch.setitem(sys.modules, part, ModuleType(part))
    monkeypatch.setattr(sys.modules[name], "ModelCheckpoint", callback, raising=False)
    path = tmp_path / "model.ckpt"
    torch.save({"callbacks": {callback: {"best": 1.0}}, "state_dict": {"first_stage_model.a": torch.ones(2)}}, path)
    monkeypatch.delitem(sys.modules, name)
    assert list(read_latents(path)) == ["first_stage_model.a"]


def test_files_of_other_programs_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {"encoder.down_blocks.0.resnets.0.conv1.weight": torch.ones(4, 4, 3, 3)})
    with pytest.raises(PlanError, match=r"not those of diffusers.*plan without --pretrained"):
        describe(path, plan_latents())
    torch.save({"state_dict": 3}, path)
    with pytest.raises(PlanError, match="in its state_dict; found int"):
        read_latents(path)
    torch.save({"state_dict": {"a": Path("b")}}, path)
    with pytest.raises(ExchangeError, match="nothing was run"):
        read_latents(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"autoencoder": {"pictures": {"colours": COLOURS[:2], "kind": "labels"}}}, "must be 3, one per output"),
        ({"autoencoder": {"latents": "bounded"}}, "pictures need dimensions 2, latents 'gaussian'"),
        ({"autoencoder": {"pictures": {"colours": COLOURS[:1] * 3, "kind": "labels"}}}, "colours must differ"),
        ({"autoencoder": {"pictures": {"colours": COLOURS, "kind": "regions"}}}, "which no other region has"),
        ({"autoencoder": {"pictures": None}, "pretrained": {}}, "pretrained needs the part 'autoencoder'"),
    ],
)
def test_plans_without_sense_are_refused(changes: dict[str, Any], words: str) -> None:
    content = plan_latents().model_dump()
    content["autoencoder"] |= changes["autoencoder"]
    if "pretrained" in changes:
        content["pretrained"] = {"path": "/a", "sha256": "0" * 64, "first_kernels": "mean", "parts": ("autoencoder",)}
    with pytest.raises(ValueError, match=words):
        LatentDiffusionPlan.model_validate(content)
