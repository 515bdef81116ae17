"""Neighbouring slices as channels: how many, and when the configuration is offered."""

import pytest
from builders.fingerprints import build_fingerprint

from autoseg.cli.choices import find_planner
from autoseg.errors import PlanError
from autoseg.fingerprint import Machine
from autoseg.plan import Plan
from planners import PLANNERS
from planners.planner import Planner
from planners.rules.context_slices import choose_context_slices, with_context
from planners.rules.median_shape import ResampledDataset

MACHINE = Machine(accelerator_memory_gb=None, budget_seconds=None)
DEFAULT: Planner = PLANNERS["default"]
DISTANT, NEAR = ((5.0, 0.8, 0.8), (12, 128, 128)), ((1.0, 1.0, 1.0), (40, 48, 48))


def plan(planner=DEFAULT, data=DISTANT) -> Plan:
    return planner.plan(build_fingerprint(*data, channel_names=("T1", "T2")), MACHINE)


def make_dataset(slice_mm):
    return ResampledDataset(spacing_mm=(slice_mm, 1.0, 1.0), median_shape_voxels=(20, 64, 64), voxel_count=1.0)


@pytest.mark.parametrize(
    ("slice_mm", "patch", "count", "because"),
    [
        (4.0, (64, 64), 1, r"4 mm apart, 4 times the spacing in plane and so more than 3 times: 1 on either side$"),
        (3.0, (64, 64), 2, r"3 mm apart, 3 times .* not more than 3 times: 2 on either side$"),
        (1.0, (14, 10), 1, r"2 on either side, of which 1 are left so that the patch is flat enough"),
    ],
)
def test_fewer_slices_are_seen_where_they_are_far_apart_or_the_patch_is_small(slice_mm, patch, count, because):
    decision = choose_context_slices(patch, make_dataset(slice_mm))
    assert decision.value == count
    with pytest.raises(AssertionError, match=because):
        raise AssertionError(decision.because)


def test_the_configuration_is_made_of_2d_on_request():
    planned = plan(DEFAULT.with_configurations(["2.5d"]))
    slices, context = planned.configurations["2d"], planned.configurations["2.5d"]
    assert (context.context_slices, context.data_of, context.network.input_channels) == (1, "2d", 6)
    assert context.sample_voxels == (3, *slices.patch_voxels)
    assert context.training.mirror_axes == (0, 1, 2)
    assert (context.patch_voxels, context.training.batch_size) == (slices.patch_voxels, slices.training.batch_size)
    assert planned.planner == "default --configuration 2.5d"
    reasons = {reason.subject: reason.value for reason in planned.reasons}
    assert (reasons["2.5d: context slices"], reasons["2.5d: input channels"]) == ("1", "6")


def test_everything_else_is_planned_as_without_it():
    with_it, without = plan(DEFAULT.with_configurations(["2.5d"])), plan()
    configurations = {name: part for name, part in with_it.configurations.items() if name != "2.5d"}
    assert configurations == without.configurations


@pytest.mark.parametrize(("data", "is_offered"), [(DISTANT, True), (NEAR, False)])
def test_it_is_offered_where_slices_are_far_apart(data, is_offered):
    planned = plan(data=data)
    offers = [reason for reason in planned.reasons if reason.subject == "2.5d"]
    assert "2.5d" not in planned.configurations
    assert [reason.value for reason in offers] == ["offered, not planned"] * is_offered
    assert all("--configuration 2.5d" in reason.because for reason in offers)


def test_without_context_it_is_the_configuration_of_single_slices():
    slices = plan().configurations["2d"]
    assert with_context(slices, 0) == slices


def test_pictures_have_no_neighbouring_slices():
    with pytest.raises(PlanError, match=r"2.5d is made of 2d for volumes.*1 slices; leave out --configuration 2.5d"):
        plan(DEFAULT.with_configurations(["2.5d"]), ((999.0, 1.0, 1.0), (1, 64, 64)))


def test_the_command_asks_for_what_is_planned_on_request_and_for_nothing_else():
    assert find_planner("default", configurations=["2d", "2.5d"]).name == "default --configuration 2.5d"
    assert find_planner("default", configurations=["2d", "3d_fullres"]) is DEFAULT
    both = find_planner("default", "attention_unet", loss="dice+focal", configurations=["2.5d"])
    assert both.name == "default --architecture attention_unet --configuration 2.5d --loss dice+focal"
    assert find_planner("timed", configurations=["3d_roi"]).name == "timed --configuration 3d_roi"
