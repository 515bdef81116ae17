"""Planning for a family that no planner knows: its memory is measured on the network itself."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from builders.fingerprints import build_fingerprint
from torch import Tensor, nn
from torch.nn import functional

from autoseg.errors import PlanError
from autoseg.fingerprint import Machine
from autoseg.network_cost import MeasureCost, NetworkCost
from autoseg.networks.cost import measure_module_cost
from autoseg.plan import Decision, NetworkPlan, Reason
from autoseg.unet_cost import count_plain_unet
from planners import PLANNERS, Planner
from planners.default import DEFAULT
from planners.rules.memory import PLAIN_CALIBRATION
from planners.rules.topology import Topology, TopologyRule
from planners.rules.unet import PLAIN_UNET

CT = ((1.0, 0.8, 0.8), (450, 512, 512))
MACHINE = Machine(accelerator_memory_gb=None)


class Tower(nn.Module):
    """Convolutions without a second resolution; autograd keeps the output of every one."""

    def __init__(self, plan: NetworkPlan, depth: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(plan.input_channels, 16, 1)
        self.convolutions = nn.ModuleList(nn.Conv3d(16, 16, 1) for _ in range(depth))
        self.last = nn.Conv3d(16, plan.output_channels, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        image = self.first(image)
        for convolution in self.convolutions:
            image = convolution(image)
        return (self.last(image),)


class PatchAttention(nn.Module):
    """Every 8 x 8 x 8 voxels look at all others."""

    def __init__(self, plan: NetworkPlan) -> None:
        super().__init__()
        self.plan = plan
        self.embed = nn.Conv3d(plan.input_channels, 8, 8, stride=8)
        self.last = nn.Conv3d(8, plan.output_channels, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        embedded = self.embed(image)
        tokens = embedded.flatten(2).transpose(1, 2)
        seen = functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return (self.last(seen.transpose(1, 2).reshape(embedded.shape)),)


def choose_unknown(
    topology: Topology, *, input_channels: int, output_channels: int
) -> tuple[NetworkPlan, tuple[Reason, ...]]:
    network, _ = PLAIN_UNET(topology, input_channels=input_channels, output_channels=output_channels)
    reason = Reason(subject="width", value="16", because="as wide as this test wants it")
    return network.model_copy(update={"family": "unknown"}), (reason,)


UNKNOWN = Planner(
    name="unknown", description="A family.", profile=replace(DEFAULT.profile, choose_network=choose_unknown)
)


def compute_windows(spacing_mm: Sequence[float], extents_voxels: Sequence[float]) -> Topology:
    """For networks of windows: every extent is a multiple of 32."""
    dimensions = len(spacing_mm)
    return Topology(
        patch_voxels=tuple(32 * math.ceil(extent / 32) for extent in extents_voxels),
        strides=((1,) * dimensions, *((2,) * dimensions,) * 5),
        kernel_sizes=((3,) * dimensions,) * 6,
        divisors=(32,) * dimensions,
    )


WINDOWS = TopologyRule(
    compute=compute_windows, explain=lambda topology, spacing_mm, unit: Decision(topology, "windows of 32 voxels")
)


def measure_with(build) -> MeasureCost:
    """Counts the dummy that `build` makes; the plain U-Net, beside which it is put, in closed form."""

    @cache
    def measure(network: NetworkPlan, patch_voxels: tuple[int, ...], batch_size: int) -> NetworkCost:
        if network.family == "plain_unet":
            return count_plain_unet(network, patch_voxels, batch_size)
        with torch.device("meta"):
            image = torch.empty((batch_size, network.input_channels, *patch_voxels))
            return measure_module_cost(build(network), image)

    return measure


def count_as_plain(network: NetworkPlan, patch_voxels: tuple[int, ...], batch_size: int) -> NetworkCost:
    return count_plain_unet(network, patch_voxels, batch_size)


def plan_volumes(measure_cost, machine=MACHINE):
    fingerprint = build_fingerprint(*CT, count=100, declared_labels=3)
    return UNKNOWN.plan(fingerprint, machine, measure_cost=measure_cost)


def test_a_family_that_keeps_what_the_plain_unet_keeps_gets_its_patches_and_batches():
    fingerprint = build_fingerprint(*CT, count=100, declared_labels=3)
    plain = PLANNERS["default"].plan(fingerprint, MACHINE)
    twin = UNKNOWN.plan(fingerprint, MACHINE, measure_cost=count_as_plain)
    assert list(twin.configurations) == list(plain.configurations)
    for name, configuration in twin.configurations.items():
        expected = plain.configurations[name]
        assert configuration.network.family == "unknown"
        assert configuration.patch_voxels == expected.patch_voxels
        assert configuration.spacing_mm == expected.spacing_mm
        assert configuration.training == expected.training


@pytest.mark.parametrize("depth", [20, 60])
def test_its_own_memory_bounds_patch_and_batch(depth):
    measure = measure_with(lambda network: Tower(network, depth))
    fingerprint = build_fingerprint(*CT, count=100, declared_labels=3)
    dataset_3d = UNKNOWN.plan(fingerprint, MACHINE, measure_cost=only_volumes(measure)).configurations["3d_fullres"]
    network, patch = dataset_3d.network, dataset_3d.patch_voxels
    plain = network.model_copy(update={"family": "plain_unet"})
    kept, plain_kept = (measure(each, patch, 2).kept_bytes / 2 for each in (network, plain))
    bytes_per_element = plain_kept / count_elements(plain, patch)
    limit = PLAIN_CALIBRATION.elements_3d * 2 * bytes_per_element
    batch = dataset_3d.training.batch_size
    assert batch == max(2, round(limit / kept))
    assert 0.3 * limit < 2 * kept <= limit


def count_elements(plain: NetworkPlan, patch: tuple[int, ...]) -> int:
    cost = count_plain_unet(plain, patch, 1)
    voxels = patch[0] * patch[1] * patch[2]
    return sum(convolution.output_elements for convolution in cost.convolutions) + 3 * voxels


def only_volumes(measure: MeasureCost) -> MeasureCost:
    """The dummies are for volumes; in 2D they count as plain."""

    def choose(network: NetworkPlan, patch_voxels: tuple[int, ...], batch_size: int) -> NetworkCost:
        count = measure if network.dimensions == 3 else count_as_plain
        return count(network, patch_voxels, batch_size)

    return choose


def test_a_deeper_network_gets_a_smaller_patch():
    shallow, deep = (
        plan_volumes(only_volumes(measure_with(lambda network, depth=depth: Tower(network, depth))))
        for depth in (20, 60)
    )
    patches = [plan.configurations["3d_fullres"].patch_voxels for plan in (shallow, deep)]
    voxels = [torch.Size(patch).numel() for patch in patches]
    assert voxels[1] < voxels[0]


def test_more_memory_gives_it_a_larger_patch():
    measure = only_volumes(measure_with(lambda network: Tower(network, 60)))
    small, large = (plan_volumes(measure, Machine(accelerator_memory_gb=memory)) for memory in (8, 24))
    voxels = [torch.Size(plan.configurations["3d_fullres"].patch_voxels).numel() for plan in (small, large)]
    assert voxels[1] > 2 * voxels[0]


def test_the_map_of_attention_bounds_the_patch():
    measure = measure_with(PatchAttention)
    plan = plan_volumes(only_volumes(measure))
    configuration = plan.configurations["3d_fullres"]
    kept = measure(configuration.network, configuration.patch_voxels, 1).kept_bytes
    tokens = torch.Size(configuration.patch_voxels).numel() / 8**3
    assert kept >= 4 * tokens**2
    assert kept <= 1.1 * PLAIN_CALIBRATION.elements_3d * 7.91  # bytes that the plain U-Net keeps for each element


def test_a_family_may_divide_its_patch_by_a_rule_of_its_own():
    planner = replace(UNKNOWN, profile=replace(UNKNOWN.profile, topology=WINDOWS))
    fingerprint = build_fingerprint((1.0, 1.0, 1.0), (20, 170, 138), count=100, declared_labels=3)
    plan = planner.plan(fingerprint, MACHINE, measure_cost=count_as_plain)
    assert plan.configurations["3d_fullres"].patch_voxels == (32, 192, 160)
    assert {reason.subject: reason.because for reason in plan.reasons}["2d: topology"] == "windows of 32 voxels"
    little = Machine(accelerator_memory_gb=2)
    tight = planner.plan(fingerprint, little, measure_cost=count_as_plain).configurations["3d_fullres"].patch_voxels
    assert tight[0] == 32  # the axis that covers most of the case is as short as it can be
    assert math.prod(tight) < 32 * 192 * 160
    assert all(extent % 32 == 0 for extent in tight)
    with pytest.raises(PlanError, match="state more accelerator memory"):
        planner.plan(fingerprint, Machine(accelerator_memory_gb=0.01), measure_cost=count_as_plain)


def test_the_plan_says_what_was_measured():
    reasons = {reason.subject: reason for reason in plan_volumes(count_as_plain).reasons}
    memory = reasons["3d_fullres: memory"]
    assert memory.value == "452,796,416 elements"
    assert "autograd keeps 3.58 GB of a sample" in memory.because
    assert reasons["3d_fullres: width"].because == "as wide as this test wants it"
    assert "3d_fullres: memory" not in {
        reason.subject for reason in DEFAULT.plan(build_fingerprint(*CT), MACHINE, measure_cost=count_as_plain).reasons
    }


def test_without_a_measurement_there_is_no_plan():
    with pytest.raises(PlanError, match=r"the family 'unknown' is measured; give the planner a function.*measure_cost"):
        UNKNOWN.plan(build_fingerprint(*CT), MACHINE)
