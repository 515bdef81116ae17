"""Networks of every family give logits of the patch's shape for the patches of the reference plans."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch

from autoseg.networks import FAMILIES, build_network
from planners.architectures import ARCHITECTURES
from planners.architectures.architecture import Architecture
from planners.rules.topology import FEWEST_STAGES

NOT_PLANNED_ALONE = ("label_autoencoder", "point_rend", "detector")  # a part, a head, a first stage: no architectures
PLANNED = [family for family in FAMILIES if family not in NOT_PLANNED_ALONE]
EVERY = 2 * len(PLANNED)
"""Each family gets one patch of so many, others than all other families, as all would take minutes: together a half."""
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


@pytest.mark.reference_plans
@pytest.mark.parametrize("family", PLANNED)
@torch.no_grad()
def test_logits_have_the_shape_of_the_patch_for_a_sample_of_the_reference_plans(
    shapes: tuple[Shape, ...], family: str
) -> None:
    architecture, checked = find_architectures()[family], 0
    for spacing_mm, extents in shapes[2 * PLANNED.index(family) :: EVERY]:
        if len(extents) == 2 and architecture.without_slices is not None:
            continue
        topology = architecture.topology.compute(spacing_mm, extents)
        if topology.stage_count < FEWEST_STAGES:
            continue
        channels = 1 + checked % 5
        plan, _ = architecture.choose_network(topology, input_channels=channels, output_channels=3, width=4)
        with torch.device("meta"):
            network = build_network(plan).eval()
            logits = network(torch.empty(2, channels, *topology.patch_voxels))[0]
        margins = network.margin_voxels
        inside = [extent - 2 * margin for extent, margin in zip(topology.patch_voxels, margins, strict=True)]
        assert logits.shape == (2, 3, *inside), (spacing_mm, extents)
        checked += 1
    assert checked > 1
