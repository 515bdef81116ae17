"""Planning of networks without padding."""

import math

import pytest
from builders.fingerprints import build_fingerprint
from builders.hosts import build_host

from autoseg.cli.choices import find_planner
from autoseg.errors import PlanError
from autoseg.fingerprint import Machine
from autoseg.workflows.plan.planning import find_network_cost
from planners import ARCHITECTURES
from planners.rules.median_shape import ResampledDataset
from planners.rules.memory import MemoryBudget
from planners.rules.patch_size import choose_patch_size
from planners.rules.topology import compute_topology

U_NET = ARCHITECTURES["u_net_valid"]


def choose_margins(topology) -> tuple[int, ...]:
    network, _ = U_NET.choose_network(topology, input_channels=1, output_channels=2)
    return network.margin_voxels


@pytest.mark.parametrize(
    ("spacing_mm", "extents", "stages", "output"),
    [
        ((1.0, 1.0), (376, 376), 5, (196, 196)),
        ((1.0, 1.0), (368, 400), 4, (276, 308)),
        ((1.0, 1.0), (83, 84), 3, (44, 44)),
        ((1.0, 1.0), (32, 33), 2, (16, 18)),
        ((1.0, 1.0), (30, 64), 1, (26, 60)),
        ((5.0, 1.0, 1.0), (16, 192, 192), 3, (12, 152, 152)),
        ((1.0, 1.0, 1.0), (80, 90, 100), 3, (40, 52, 60)),
    ],
)
def test_there_are_as_many_stages_as_leave_half_of_the_patch(spacing_mm, extents, stages, output):
    topology = U_NET.topology.compute(spacing_mm, extents)
    margins = choose_margins(topology)
    assert topology.stage_count == stages
    assert tuple(extent - 2 * margin for extent, margin in zip(topology.patch_voxels, margins, strict=True)) == output
    usual = compute_topology(spacing_mm, extents)
    assert usual.stage_count >= stages
    assert usual.strides[:stages] == topology.strides


@pytest.mark.parametrize(
    ("limit", "patch", "stages"), [(184, (184, 184), 4), (180, (180, 180), 3), (88, (88, 88), 3), (78, (78, 78), 2)]
)
def test_a_patch_is_shortened_until_it_fits_into_the_memory_with_fewer_stages_if_need_be(limit, patch, stages):
    dataset = ResampledDataset(spacing_mm=(1.0, 1.0), median_shape_voxels=(200.0, 200.0), voxel_count=1e9)
    chosen = choose_patch_size(
        dataset,
        budget=MemoryBudget(elements_per_sample=limit**2, reference_batch_size=2, fitted_batch_size=2),
        estimate=lambda topology: math.prod(topology.patch_voxels),
        compute_topology=U_NET.topology.compute,
    )
    assert (chosen.value.patch_voxels, chosen.value.stage_count) == (patch, stages)


def test_the_limit_is_explained():
    topology = U_NET.topology.compute((1.0, 1.0), (200, 200))
    assert U_NET.topology.explain(topology, (1.0, 1.0), "mm").because == (
        "without padding 4 stages leave 108 x 108 of 200 x 200 voxels; one more would take over half of the wanted "
        "extent along an axis"
    )


def test_one_output_is_trained():
    topology = U_NET.topology.compute((1.0, 1.0), (200, 200))
    network, reasons = U_NET.choose_network(topology, input_channels=1, output_channels=2)
    assert network.output_weights == (1.0,)
    assert "without padding the full resolution alone is trained, as published" in [each.because for each in reasons]


@pytest.mark.parametrize("planner", ["default", "lite"])
def test_images_of_which_convolutions_would_leave_too_little_are_refused(planner):
    machine = Machine(accelerator_memory_gb=None, throughput=build_host())
    fingerprint = build_fingerprint((1.0, 1.0, 1.0), (24, 24, 24))
    with pytest.raises(PlanError, match="without padding two stages take 16 voxels of an axis"):
        find_planner(planner, "u_net_valid").plan(fingerprint, machine, measure_cost=find_network_cost)


def test_volumes_too_thin_for_a_3d_network_are_planned_in_2d():
    machine = Machine(accelerator_memory_gb=None, throughput=build_host())
    fingerprint = build_fingerprint((1.0, 1.0, 1.0), (20, 64, 64))
    for planner in ("default", "lite"):
        plan = find_planner(planner, "u_net_valid").plan(fingerprint, machine, measure_cost=find_network_cost)
        assert set(plan.configurations) == {"2d"}


def test_the_image_is_mirrored_at_its_border_and_the_reason_says_why():
    machine = Machine(accelerator_memory_gb=None, throughput=build_host())
    fingerprint = build_fingerprint((1.0, 1.0, 1.0), (1, 96, 96))
    for planner in ("default", "lite"):
        plan = find_planner(planner, "u_net_valid").plan(fingerprint, machine, measure_cost=find_network_cost)
        (reason,) = [reason for reason in plan.reasons if reason.subject == "2d: border"]
        assert plan.configurations["2d"].border == reason.value == "mirror"
        assert "smaller than the patch by 20 x 20 voxels at either end" in reason.because
        padded = find_planner(planner, "u_net").plan(fingerprint, machine, measure_cost=find_network_cost)
        assert padded.configurations["2d"].border == "zeros"
        assert "2d: border" not in [reason.subject for reason in padded.reasons]
