"""Encoders begin with the weights of a local file in torchvision's form, or the file is refused."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.networks import build_small_network_plan
from builders.published_encoders import PublishedDenseNet, PublishedResNet, PublishedVgg, randomize
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from autoseg.errors import AutosegError, ExchangeError, PlanError
from autoseg.networks import SegmentationNetwork, build_network
from autoseg.networks.parts.encoders import build_encoder
from autoseg.networks.parts.encoders.encoder import Encoder
from autoseg.networks.pretrained import describe_pretrained, load_pretrained, read_pretrained
from autoseg.plan.network import EncoderUPlan, HybridPlan, NetworkPlan

HALVED = {"kernel_sizes": ((3, 3),) * 6, "strides": ((1, 1), *((2, 2),) * 5)}
NONE, BATCH = ({"normalization": kind, "activation": "relu"} for kind in ("none", "batch"))
ENCODERS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "vgg": (
        lambda: PublishedVgg((4, 5, 6, 6, 7), (1, 1, 2, 2, 2)),
        {
            "encoder": {"name": "vgg"},
            "features_per_stage": (4, 5, 6, 6, 7, 7),
            "blocks_per_stage": (1, 1, 2, 2, 2, 0),
            "layers": NONE,
        },
    ),
    "resnet of two convolutions": (
        lambda: PublishedResNet(4, (4, 5, 6, 7), (2, 1, 2, 1), bottleneck=False),
        {
            "encoder": {"name": "resnet", "block": "basic"},
            "features_per_stage": (4, 4, 4, 5, 6, 7),
            "blocks_per_stage": (0, 0, 2, 1, 2, 1),
            "layers": BATCH,
        },
    ),
    "resnet of three convolutions": (
        lambda: PublishedResNet(4, (8, 12, 16, 20), (1, 2, 1, 1), bottleneck=True),
        {
            "encoder": {"name": "resnet", "block": "bottleneck"},
            "features_per_stage": (4, 4, 8, 12, 16, 20),
            "blocks_per_stage": (0, 0, 1, 2, 1, 1),
            "layers": BATCH,
        },
    ),
    "densenet": (
        lambda: PublishedDenseNet(2, (1, 2, 1, 1)),
        {
            "encoder": {"name": "densenet", "growth": 2},
            "features_per_stage": (4, 4, 6, 7, 5, 4),
            "blocks_per_stage": (0, 0, 1, 2, 1, 1),
            "layers": BATCH,
        },
    ),
}
each_encoder = pytest.mark.parametrize("name", ENCODERS)


def plan_encoder(name: str, **changes: Any) -> EncoderUPlan:
    """A plan of all stages of an encoder, in 2D for colour images."""
    fields = {
        "dimensions": 2,
        "input_channels": 3,
        "output_channels": 2,
        "decoder": "convolution",
        "decoder_features_per_stage": (2,) * 5,
        "contexts": (),
        **HALVED,
        **ENCODERS[name][1],
    }
    return EncoderUPlan.model_validate(fields | changes)


def cut_stages(plan: EncoderUPlan, count: int) -> EncoderUPlan:
    fields = {
        field: getattr(plan, field)[:count]
        for field in ("kernel_sizes", "strides", "features_per_stage", "blocks_per_stage")
    }
    return EncoderUPlan.model_validate(plan.model_dump() | fields | {"decoder_features_per_stage": (2,) * (count - 1)})


def make_published(name: str) -> nn.Module:
    return randomize(ENCODERS[name][0]())


def write_file(folder: Path, weights: dict[str, Tensor], ending: str = ".pth", *, legacy: bool = False) -> Path:
    path = folder / f"weights{ending}"
    if ending == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=not legacy)
    return path


def load_encoder(plan: EncoderUPlan, path: Path, published: EncoderUPlan | None = None) -> Encoder:
    """The encoder of a network that begins with the weights of a file; three channels are colours."""
    described = describe_pretrained(path, published or plan)
    if plan.input_channels == 3:
        described = described.model_copy(update={"first_kernels": "by_colour"})
    network = build_network(plan.model_copy(update={"pretrained": described})).eval()
    load_pretrained(network)
    encoder = network.get_submodule("encoder")
    assert isinstance(encoder, Encoder)
    return encoder


def draw_image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@each_encoder
@torch.inference_mode()
def test_every_stage_computes_what_the_published_encoder_computes(name: str, tmp_path: Path) -> None:
    published, image = make_published(name), draw_image(1, 3, 64, 64)
    encoder = load_encoder(plan_encoder(name), write_file(tmp_path, published.state_dict()))
    found = encoder(image)
    for features, expected in zip(found, published(image), strict=False):
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert len(found) == 6


@each_encoder
@torch.inference_mode()
def test_fewer_stages_take_the_first_weights_of_the_file_and_leave_the_rest(name: str, tmp_path: Path) -> None:
    published, image = make_published(name), draw_image(1, 3, 32, 32)
    plan = plan_encoder(name)
    path = write_file(tmp_path, published.state_dict())
    found = load_encoder(cut_stages(plan, 4), path, plan)(image)
    expected = published(draw_image(1, 3, 32, 32))
    assert len(found) == 4
    for features, wanted in zip(found[:3], expected[:3], strict=True):
        torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 4])
@each_encoder
@torch.inference_mode()
def test_equal_channels_of_any_number_give_the_response_to_a_grey_colour_image(
    name: str, channels: int, tmp_path: Path
) -> None:
    published, grey = make_published(name), draw_image(1, 1, 32, 32)
    path = write_file(tmp_path, published.state_dict())
    encoder = load_encoder(plan_encoder(name, input_channels=channels), path, plan_encoder(name))
    stage = encoder.first_skip // 2  # that of the first convolution
    found = encoder(grey.expand(-1, channels, -1, -1))[stage]
    expected = published(grey.expand(-1, 3, -1, -1))[stage]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def load(plan: NetworkPlan, path: Path, published: EncoderUPlan, first_kernels: str) -> SegmentationNetwork:
    """A network that begins with the weights of a file."""
    described = describe_pretrained(path, published).model_copy(update={"first_kernels": first_kernels})
    network = build_network(plan.with_pretrained(described), torch.Generator().manual_seed(0)).eval()
    load_pretrained(network)
    return network


@pytest.mark.parametrize(("channels", "rule"), [(1, "mean"), (3, "by_colour"), (4, "mean")])
def test_a_plan_of_an_earlier_version_keeps_its_rule_for_the_first_kernels(channels: int, rule: str) -> None:
    written = plan_encoder(next(iter(ENCODERS)), input_channels=channels).model_dump(mode="json")
    written["pretrained"] = {"path": "/weights.pth", "sha256": "0" * 64}
    pretrained = EncoderUPlan.model_validate_json(json.dumps(written)).pretrained
    assert pretrained is not None
    assert pretrained.first_kernels == rule


@each_encoder
def test_three_channels_get_the_kernels_by_colour_or_their_mean_as_planned(name: str, tmp_path: Path) -> None:
    path, plan = write_file(tmp_path, make_published(name).state_dict()), plan_encoder(name)
    kept, mean = (next(load(plan, path, plan, kernels).parameters()) for kernels in ("by_colour", "mean"))
    published = next(iter(read_pretrained(path).values()))
    assert torch.equal(kept, published)
    torch.testing.assert_close(mean, published.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1))
    assert not torch.allclose(mean, kept)


def test_the_branch_for_slices_of_a_hybrid_network_begins_with_the_file(tmp_path: Path) -> None:
    path = write_file(tmp_path, make_published("densenet").state_dict())
    slices = cut_stages(plan_encoder("densenet"), 4)
    small = build_small_network_plan("hybrid_2d_3d", 3)
    assert isinstance(small, HybridPlan)
    volumes = small.volumes.model_copy(update={"decoder_features_per_stage": (2,)})
    plan = HybridPlan.model_validate(
        small.model_dump() | {"slices": slices.model_dump(), "volumes": volumes.model_dump()}
    )
    drawn = build_network(plan, torch.Generator().manual_seed(0)).state_dict()
    found = load(plan, path, plan_encoder("densenet"), "mean").state_dict()
    published, first = read_pretrained(path), "slices.encoder.stages.1.convolution.weight"
    mean = 3 / 2 * published["features.conv0.weight"].mean(dim=1, keepdim=True)  # two channels
    torch.testing.assert_close(found[first], mean.expand(-1, 2, -1, -1))
    changed = {name for name, tensor in found.items() if not torch.equal(tensor, drawn[name])}
    assert {name.rpartition(".encoder.")[0] for name in changed} == {"slices"}


@pytest.mark.parametrize("depth_kernel", [1, 3])
@each_encoder
@torch.inference_mode()
def test_a_volume_that_does_not_change_along_z_gives_the_response_of_its_slices(
    name: str, depth_kernel: int, tmp_path: Path
) -> None:
    published, image = make_published(name), draw_image(1, 3, 32, 32)
    strides = {"strides": ((1, 1, 1), *((1, 2, 2),) * 3)}
    kernels = {"kernel_sizes": ((depth_kernel, 3, 3),) * 4}
    plan = plan_encoder(name)
    flat = cut_stages(plan, 4).model_dump() | {"dimensions": 3} | strides | kernels
    encoder = load_encoder(EncoderUPlan.model_validate(flat), write_file(tmp_path, published.state_dict()), plan)
    slices = 31  # the centre sees no border
    volume = image[:, :, None].expand(-1, -1, slices, -1, -1)
    for features, expected in zip(encoder(volume)[:3], published(image), strict=False):
        torch.testing.assert_close(features[:, :, slices // 2], expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_flat_kernel_gives_the_response_to_images_that_do_not_change_along_its_axis(tmp_path: Path) -> None:
    published = make_published("vgg")
    flat = plan_encoder("vgg", kernel_sizes=((3, 1), *HALVED["kernel_sizes"][1:]))
    encoder = load_encoder(flat, write_file(tmp_path, published.state_dict()), plan_encoder("vgg"))
    image = draw_image(1, 3, 32, 1).expand(-1, -1, -1, 32)
    torch.testing.assert_close(encoder(image)[0][..., 1:-1], published(image)[0][..., 1:-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("ending", "legacy"), [(".pth", True), (".safetensors", False)])
def test_other_forms_of_the_file_give_the_same_weights(ending: str, tmp_path: Path, *, legacy: bool) -> None:
    plan, weights = plan_encoder("vgg"), make_published("vgg").state_dict()
    first = load_encoder(plan, write_file(tmp_path, weights)).state_dict()
    (tmp_path / "other").mkdir()
    second = load_encoder(plan, write_file(tmp_path / "other", weights, ending, legacy=legacy)).state_dict()
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())
    assert torch.equal(first["stages.0.1.0.convolution.weight"], weights["features.0.weight"])


def test_older_names_of_densenet_are_known_and_counters_may_be_missing(tmp_path: Path) -> None:
    weights = make_published("densenet").state_dict()
    older = {re.sub(r"(denselayer\d+\.(norm|conv))([12])", r"\1.\3", name): weights[name] for name in weights}
    older = {name: tensor for name, tensor in older.items() if not name.endswith("num_batches_tracked")}
    assert "features.denseblock1.denselayer1.norm.1.weight" in older
    encoder = load_encoder(plan_encoder("densenet"), write_file(tmp_path, older))
    found = encoder.state_dict()["stages.2.1.0.reduction.norm.weight"]
    assert torch.equal(found, weights["features.denseblock1.denselayer1.norm1.weight"])


def test_a_file_that_changed_since_the_plan_is_refused_and_so_is_a_missing_one(tmp_path: Path) -> None:
    weights = make_published("vgg").state_dict()
    path = write_file(tmp_path, weights)
    described = describe_pretrained(path, plan_encoder("vgg"))
    network = build_network(plan_encoder("vgg").model_copy(update={"pretrained": described}))
    write_file(tmp_path, {name: tensor + 1 for name, tensor in weights.items()})
    with pytest.raises(PlanError, match=rf"have changed .*expected the SHA-256 {described.sha256}, found "):
        load_pretrained(network)
    path.unlink()
    with pytest.raises(PlanError, match="cannot be read"):
        load_pretrained(network)


def test_without_a_file_the_drawn_weights_stay() -> None:
    network = build_network(plan_encoder("vgg"), torch.Generator().manual_seed(0))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    load_pretrained(network)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def spoil(weights: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {name: tensor for name, tensor in (weights | changes).items() if tensor is not None}


KERNEL = "features.0.weight"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a missing tensor": ({KERNEL: None}, "expected features.0.weight, found none"),
    "an unknown tensor": ({"features.1.weight": torch.ones(4)}, "found features.1.weight, expected none"),
    "another width": (
        {KERNEL: torch.ones(5, 3, 3, 3)},
        r"features.0.weight: expected the shape \(4, 3, 3, 3\), found \(5, 3, 3, 3\)",
    ),
    "another kernel": (
        {KERNEL: torch.ones(4, 3, 5, 5)},
        r"features.0.weight: expected the shape \(4, 3, 3, 3\), found \(4, 3, 5, 5\)",
    ),
    "another number of axes": ({KERNEL: torch.ones(4)}, r"expected the shape \(4, 3, 3, 3\), found \(4,\)"),
    "numbers that are not finite": ({KERNEL: torch.full((4, 3, 3, 3), torch.nan)}, "features.0.weight holds NaN"),
    "whole numbers": ({KERNEL: torch.ones(4, 3, 3, 3, dtype=torch.int64)}, "features.0.weight are torch.int64"),
    "a tensor without memory": ({KERNEL: torch.ones(()).expand(4, 3, 3, 3)}, "only 4 bytes were stored"),
    "something else": ({"epoch": 3}, "must hold tensors by name.*found epoch: int"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_do_not_fit_are_refused_by_name(case: str, tmp_path: Path) -> None:
    changes, words = REFUSED[case]
    path = write_file(tmp_path, spoil(make_published("vgg").state_dict(), **changes))
    with pytest.raises(PlanError, match=words):
        describe_pretrained(path, plan_encoder("vgg"))


def test_the_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    path = write_file(tmp_path, make_published("resnet of two convolutions").state_dict())
    with pytest.raises(PlanError, match=r"do not fit the encoder vgg: expected features.0.weight, found none.*and \d+"):
        describe_pretrained(path, plan_encoder("vgg"))


class Trap:
    """Its pickle calls a function as soon as it is read."""

    def __init__(self, argument: str) -> None:
        self.argument = argument

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.argument,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_would_run_code_is_refused_and_nothing_runs(tmp_path: Path, *, legacy: bool) -> None:
    trap: Any = {"features.0.weight": Trap(str(tmp_path / "marker"))}
    with pytest.raises(ExchangeError, match="nothing was run"):
        describe_pretrained(write_file(tmp_path, trap, legacy=legacy), plan_encoder("vgg"))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"weights", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.rest"])
def test_a_damaged_file_is_refused(content: bytes, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{ending}"
    path.write_bytes(content)
    with pytest.raises(AutosegError, match="cannot be read"):
        describe_pretrained(path, plan_encoder("vgg"))


def test_a_list_is_refused(tmp_path: Path) -> None:
    torch.save([1.0], tmp_path / "weights.pth")
    with pytest.raises(PlanError, match="expected a dictionary of tensors, found list"):
        describe_pretrained(tmp_path / "weights.pth", plan_encoder("vgg"))


def test_a_plan_with_weights_is_written_and_read_again(tmp_path: Path) -> None:
    path = write_file(tmp_path, make_published("vgg").state_dict())
    plan = plan_encoder("vgg").model_copy(update={"pretrained": describe_pretrained(path, plan_encoder("vgg"))})
    assert EncoderUPlan.model_validate_json(plan.model_dump_json()) == plan
    assert plan.describe()["first weights"].startswith("weights.pth (")
    assert plan_encoder("vgg").describe()["first weights"] == "random"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features_per_stage": (4, 4, 6, 8, 5, 4)}, "features_per_stage.3 must be 7"),
        ({"decoder": "bottleneck", "decoder_features_per_stage": (6, 7, 6, 4, 2)}, "the 5 features of stage 4"),
    ],
)
def test_features_that_do_not_fit_each_other_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan_encoder("densenet", **changes)


def test_sums_with_the_features_of_vgg_are_refused() -> None:
    with pytest.raises(ValueError, match="decoder must be 'convolution' for the encoder vgg"):
        plan_encoder("vgg", decoder="bottleneck")


@torch.no_grad()
def test_a_decoder_leaves_no_gaps_where_kernels_are_smaller_than_strides() -> None:
    plan = cut_stages(plan_encoder("vgg", kernel_sizes=((3, 1),) * 6, input_channels=1), 2)
    network = build_network(plan, torch.Generator().manual_seed(0)).eval()
    (logits,) = network(torch.ones(1, 1, 4, 8))
    assert logits.shape == (1, 2, 4, 8)
    enlargement = network.get_submodule("decoder.0.enlargement.0")
    spread = functional.conv_transpose2d(
        torch.ones(1, 4, 2, 4),
        torch.ones_like(enlargement.get_parameter("weight")),
        stride=(2, 2),
        padding=enlargement.padding,
        output_padding=enlargement.output_padding,
    )
    assert spread.shape == (1, 2, 4, 8)
    assert (spread > 0).all()


def test_encoders_of_a_plan_are_built_by_its_name() -> None:
    assert type(build_encoder(plan_encoder("densenet"))).__name__ == "DenseNetEncoder"
