"""Networks of every architecture give logits of the patch's shape for the patches of the reference plans."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoseg.networks import FAMILIES, build_network
from autoseg.networks.blocks import InstanceNormalization
from autoseg.plan import NetworkPlan
from autoseg.plan.network.diffusion_unet import DiffusionUNetPlan
from autoseg.plan.network.encoder_u import DenseNetEncoderPlan, EncoderOfLiteraturePlan
from autoseg.plan.network.mask_rcnn import MaskRcnnPlan
from planners.architectures import ARCHITECTURES
from planners.architectures.architecture import Architecture
from planners.rules.topology import FEWEST_STAGES

NOT_PLANNED_ALONE = ("label_autoencoder", "point_rend", "detector")  # a part, a head, a first stage: no architectures
PLANNED = [family for family in FAMILIES if family not in NOT_PLANNED_ALONE]
POINTWISE = (
    *(nn.LeakyReLU, nn.ReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU),
    *(InstanceNormalization, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm),
)
"""Layers that keep the shape, whatever it is; on the meta device they take most of the time."""
INITIALIZED = (nn.modules.conv._ConvNd, nn.Linear)
"""Layers that draw their weights; on the meta device, where none has a value, this takes most of the time to build."""
SIZES = (
    *("mednext_b", "mednext_m", "mednext_l", "mednext_s_k5", "mednext_b_k5", "mednext_m_k5", "mednext_l_k5"),
    *("mednext_v2", "mednext_v2_wide", "primus_b", "primus_m", "primus_l", "resnet34_unet", "resnet101_unet"),
)
"""Architectures that are another one of their family with other numbers."""
REPEATED = ("blocks", "blocks_per_branch", "blocks_per_stage", "decoder_blocks_per_stage", "modules_per_stage")
"""Numbers of parts in a row of which all after the first get what they give."""
Shape = tuple[tuple[float, ...], tuple[int, ...]]
MADE_UP: dict[int, tuple[Shape, ...]] = {
    2: (((1.0, 1.0), (8, 8)), ((1.0, 1.0), (8, 72)), ((0.5, 3.0), (40, 24))),
    3: (
        ((5.0, 1.0, 1.0), (1, 64, 64)),
        ((5.0, 0.8, 0.8), (4, 64, 48)),
        ((1.0, 1.0, 1.0), (8, 8, 8)),
        ((1.0, 1.0, 6.0), (48, 24, 4)),
    ),
}
"""Patches that no reference plan has: a single slice, few slices, no room for three resolutions."""
MEASURES: tuple[Callable[[Shape], float], ...] = (
    lambda shape: math.prod(shape[1]),
    lambda shape: max(shape[1]),
    lambda shape: min(shape[1]),
    lambda shape: max(shape[1]) / min(shape[1]),
    lambda shape: max(shape[0]) / min(shape[0]),
)
"""Of which the reference patches with the lowest and the highest value are extreme."""


@pytest.fixture
def shapes(request: pytest.FixtureRequest) -> tuple[Shape, ...]:
    folder = Path(request.config.getoption("--reference-plans"))
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder}")
    return list_shapes(folder)


@cache
def list_shapes(folder: Path) -> tuple[Shape, ...]:
    """Spacing and patch of every configuration whose patch, strides and kernels no other one has."""
    found: dict[str, Shape] = {}
    for path in sorted(folder.glob("*.json")):
        for plans in json.loads(path.read_text())["plans"].values():
            for configuration in plans["configurations"].values():
                if "architecture" in configuration:
                    network = configuration["architecture"]["arch_kwargs"]
                    key = json.dumps([configuration["patch_size"], network["strides"], network["kernel_sizes"]])
                    found.setdefault(key, (tuple(configuration["spacing"]), tuple(configuration["patch_size"])))
    return tuple(found.values())


@cache
def find_architectures() -> dict[str, list[Architecture]]:
    """The architectures of every family."""
    found: dict[str, list[Architecture]] = {}
    for architecture in ARCHITECTURES.values():
        topology = architecture.topology.compute((1.0, 1.0, 1.0), (64, 64, 64))
        network, _ = architecture.choose_network(topology, input_channels=1, output_channels=3)
        found.setdefault(network.family, []).append(architecture)
    return found


def distribute(
    architectures: Sequence[Architecture], shapes: Sequence[Shape], made_up: Sequence[Shape]
) -> Iterator[tuple[Architecture, Shape]]:
    """Gives every architecture the extreme shapes and its share of the others, so that the family sees all of them.

    Of architectures that differ in numbers alone, each gets a share of the extreme ones, too.
    """
    found = dict.fromkeys(choose(shapes, key=measure) for measure in MEASURES for choose in (min, max))
    extreme = [*made_up, *found]
    sizes = [architecture for architecture in architectures if architecture.name in SIZES]
    others = [architecture for architecture in architectures if architecture not in sizes]
    yield from ((architecture, shape) for architecture in others for shape in extreme)
    yield from ((sizes[index % len(sizes)], shape) for index, shape in enumerate(extreme) if sizes)
    for index, shape in enumerate(shape for shape in shapes if shape not in found):
        able = [each for each in others if each.topology.compute(*shape).stage_count >= FEWEST_STAGES]
        yield from ((each, shape) for each in able[index % max(1, len(able)) :][:1])


@pytest.fixture
def _only_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in POINTWISE:
        monkeypatch.setattr(layer, "forward", lambda _, features: features)
    for layer in INITIALIZED:
        monkeypatch.setattr(layer, "reset_parameters", lambda _: None)
    monkeypatch.setattr(functional, "interpolate", interpolate_shape)


def interpolate_shape(
    features: Tensor, size: Sequence[int] | None = None, scale_factor: Sequence[float] = (), **_: object
) -> Tensor:
    """Has the shape of the interpolation, of which the meta device computes every coordinate."""
    extents = size or [int(extent * scale) for extent, scale in zip(features.shape[2:], scale_factor, strict=True)]
    return features.new_empty(*features.shape[:2], *extents)


@pytest.mark.reference_plans
@pytest.mark.usefixtures("_only_shapes", "_unchecked_types")
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("family", PLANNED)
@torch.no_grad()
def test_logits_have_the_shape_of_the_patch_for_all_reference_plans(
    shapes: tuple[Shape, ...], family: str, dimensions: int
) -> None:
    architectures = [each for each in find_architectures()[family] if dimensions == 3 or each.without_slices is None]
    if not architectures:
        pytest.skip(find_architectures()[family][0].without_slices or "")
    known = [shape for shape in shapes if len(shape[1]) == dimensions]
    assert len(known) > 20
    seen, counts = set(), {architecture.name: 0 for architecture in architectures}
    for index, (architecture, shape) in enumerate(distribute(architectures, known, MADE_UP[dimensions])):
        if check_shape(architecture, shape, channels=1 + index % 5):
            counts[architecture.name] += 1
            seen.add(shape)
    assert len(seen) > 20
    assert all(counts.values())


def check_shape(architecture: Architecture, shape: Shape, *, channels: int) -> bool:
    """Checks the logits of a small network; False where the architecture has no network for the shape."""
    topology = architecture.topology.compute(*shape)
    if topology.stage_count < FEWEST_STAGES:
        return False
    plan, _ = architecture.choose_network(topology, input_channels=channels, output_channels=3, width=4)
    plan = shorten(plan)
    with torch.device("meta"):
        network = build_network(plan).eval()
    logits = network(torch.empty(2, channels, *topology.patch_voxels, device="meta"))[0]
    inside = [extent - 2 * margin for extent, margin in zip(topology.patch_voxels, plan.margin_voxels, strict=True)]
    assert logits.shape == (2, 3, *inside), (architecture.name, shape)
    return True


def shorten(plan: NetworkPlan) -> NetworkPlan:
    """Leaves out repetitions, which take most of the time: two parts in a row have the shapes of any number."""
    if isinstance(plan, DiffusionUNetPlan):
        return plan.model_copy(update={"samples": 1, "sampler_steps": 1})
    if isinstance(plan, MaskRcnnPlan):
        plan = plan.model_copy(update={"proposals": 8, "objects": 4})
    if isinstance(plan, EncoderOfLiteraturePlan) and isinstance(plan.encoder, DenseNetEncoderPlan):
        return plan  # each layer adds features
    counts = {name: getattr(plan, name) for name in REPEATED if name in type(plan).model_fields}
    return plan.model_copy(
        update={
            name: min(count, 2) if isinstance(count, int) else tuple(min(each, 2) for each in count)
            for name, count in counts.items()
        }
    )
