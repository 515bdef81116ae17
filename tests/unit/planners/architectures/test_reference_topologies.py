"""Networks of every family give logits of the patch's shape for the patches of the reference plans."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoseg.networks import FAMILIES, build_network
from autoseg.networks.blocks import InstanceNormalization
from autoseg.plan.network.diffusion_unet import DiffusionUNetPlan
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
Shape = tuple[tuple[float, ...], tuple[int, ...]]


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
def find_architectures() -> dict[str, Architecture]:
    """The first architecture of every family."""
    found: dict[str, Architecture] = {}
    for architecture in ARCHITECTURES.values():
        topology = architecture.topology.compute((1.0, 1.0, 1.0), (64, 64, 64))
        network, _ = architecture.choose_network(topology, input_channels=1, output_channels=3)
        found.setdefault(network.family, architecture)
    return found


@pytest.fixture
def _only_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in POINTWISE:
        monkeypatch.setattr(layer, "forward", lambda _, features: features)
    monkeypatch.setattr(functional, "interpolate", interpolate_shape)


def interpolate_shape(
    features: Tensor, size: Sequence[int] | None = None, scale_factor: Sequence[float] = (), **_: object
) -> Tensor:
    """Has the shape of the interpolation, of which the meta device computes every coordinate."""
    extents = size or [int(extent * scale) for extent, scale in zip(features.shape[2:], scale_factor, strict=True)]
    return features.new_empty(*features.shape[:2], *extents)


@pytest.mark.reference_plans
@pytest.mark.usefixtures("_only_shapes")
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("family", PLANNED)
@torch.no_grad()
def test_logits_have_the_shape_of_the_patch_for_all_reference_plans(
    shapes: tuple[Shape, ...], family: str, dimensions: int
) -> None:
    architecture, checked = find_architectures()[family], 0
    if dimensions == 2 and architecture.without_slices is not None:
        pytest.skip(architecture.without_slices)
    for spacing_mm, extents in shapes:
        topology = architecture.topology.compute(spacing_mm, extents)
        if len(extents) != dimensions or topology.stage_count < FEWEST_STAGES:
            continue
        channels = 1 + checked % 5
        plan, _ = architecture.choose_network(topology, input_channels=channels, output_channels=3, width=4)
        if isinstance(plan, DiffusionUNetPlan):
            plan = plan.model_copy(update={"samples": 1, "sampler_steps": 1})  # all have the same shape
        with torch.device("meta"):
            network = build_network(plan).eval()
            logits = network(torch.empty(2, channels, *topology.patch_voxels))[0]
        margins = network.margin_voxels
        inside = [extent - 2 * margin for extent, margin in zip(topology.patch_voxels, margins, strict=True)]
        assert logits.shape == (2, 3, *inside), (spacing_mm, extents)
        checked += 1
    assert checked > 20
