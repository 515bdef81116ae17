"""Slices across several axes: which, and the network that sees them."""

import pytest
from builders.fingerprints import build_fingerprint

from autoseg.document import parse_part
from autoseg.errors import PlanError
from autoseg.fingerprint import Machine
from autoseg.networks.cost import measure_cost
from autoseg.plan import ConfigurationPlan, Plan
from planners import HEADS, PLANNERS
from planners.planner import Planner
from planners.refinement import add_refinement
from planners.rules.median_shape import ResampledDataset
from planners.rules.triplanar import TRIPLANAR, choose_plane_axes, find_plane_dataset

MACHINE = Machine(accelerator_memory_gb=None, budget_seconds=None)
DEFAULT: Planner = PLANNERS["default"]
NEAR, DISTANT = ((1.0, 1.0, 1.0), (36, 50, 35)), ((5.0, 0.8, 0.8), (12, 128, 128))


def plan(data=NEAR, planner=DEFAULT) -> Plan:
    return planner.with_configurations([TRIPLANAR]).plan(build_fingerprint(*data), MACHINE)


def make_dataset(spacing_mm, shape=(20.0, 64.0, 48.0)):
    return ResampledDataset(spacing_mm=spacing_mm, median_shape_voxels=shape, voxel_count=7.0)


@pytest.mark.parametrize(
    ("spacing_mm", "axes", "because"),
    [
        ((1.0, 1.0, 1.0), (0, 1, 2), r"^voxels are 1 x 1 x 1 mm, and pixels .* up to 3 times as long as wide$"),
        ((3.0, 1.0, 1.0), (0, 1, 2), r"up to 3 times as long as wide$"),
        ((3.0, 1.0, 0.9), (0, 2), r"axis 1 is left out, as pixels across it are 3\.33 times as long as wide$"),
        ((4.0, 1.0, 1.0), (0,), r"axis 1 is left out, .* 4 times .*; axis 2 is left out, .*, which leaves 2d$"),
    ],
)
def test_axes_of_stretched_planes_are_left_out_with_the_reason(spacing_mm, axes, because):
    decision = choose_plane_axes(make_dataset(spacing_mm), has_volumes=True)
    assert decision.value == axes
    with pytest.raises(AssertionError, match=because):
        raise AssertionError(decision.because)


def test_without_volumes_slices_are_those_of_2d():
    decision = choose_plane_axes(make_dataset((1.0, 1.0, 1.0)), has_volumes=False)
    assert (decision.value, "3d_fullres is not planned" in decision.because) == ((0,), True)


def test_the_network_is_chosen_for_the_largest_extents_and_the_mean_spacing_of_the_planes():
    planes = find_plane_dataset(make_dataset((3.0, 1.0, 2.0)), (0, 1))
    assert (planes.spacing_mm, planes.median_shape_voxels) == ((1.5, 2.5), (64.0, 48.0))
    assert planes.voxel_count == 7.0
    assert find_plane_dataset(make_dataset((1.0, 1.0, 1.0)), (0, 1, 2)).median_shape_voxels == (64.0, 64.0)


def test_the_configuration_sees_slices_of_the_volumes_of_3d_fullres():
    planned = plan()
    chosen, volumes = planned.configurations[TRIPLANAR], planned.configurations["3d_fullres"]
    assert (chosen.dimensions, chosen.plane_axes, chosen.patch_voxels) == (2, (0, 1, 2), (56, 56))
    assert (chosen.spacing_mm, chosen.median_shape_voxels) == (volumes.spacing_mm, volumes.median_shape_voxels)
    assert (chosen.data_of, chosen.resampling) == ("3d_fullres", volumes.resampling)
    assert parse_part(chosen.model_dump(mode="json"), ConfigurationPlan, where="plan.json") == chosen
    reasons = {reason.subject: reason.value for reason in planned.reasons}
    assert reasons[f"{TRIPLANAR}: plane axes"] == "0, 1, 2"
    assert f"{TRIPLANAR}: resampling" not in reasons
    assert planned.planner == f"default --configuration {TRIPLANAR}"


def test_each_axis_has_a_network_of_its_own_where_the_family_allows_it():
    planned = plan()
    part = planned.configurations[TRIPLANAR]
    assert part.network.planes == 3
    reason = next(reason for reason in planned.reasons if reason.subject == TRIPLANAR)
    assert "have a network of their own, and these are trained in turn" in reason.because
    assert plan(DISTANT).configurations[TRIPLANAR].network.planes == 1
    planner = DEFAULT.with_head(HEADS["point_rend"]).with_configurations([TRIPLANAR])
    shared = planner.plan(build_fingerprint(*NEAR), MACHINE, measure_cost=measure_cost)
    assert shared.configurations[TRIPLANAR].network.planes == 1
    reason = next(reason for reason in shared.reasons if reason.subject == TRIPLANAR)
    assert "one network sees the slices across all axes, as this family has none for each" in reason.because


def test_everything_else_is_planned_as_without_it():
    with_it, without = plan(), DEFAULT.plan(build_fingerprint(*NEAR), MACHINE)
    configurations = {name: part for name, part in with_it.configurations.items() if name != TRIPLANAR}
    assert configurations == without.configurations


def test_with_slices_far_apart_it_is_2d():
    planned = plan(DISTANT)
    assert planned.configurations[TRIPLANAR] == planned.configurations["2d"]


def test_pictures_have_one_plane():
    with pytest.raises(PlanError, match=rf"{TRIPLANAR} is made of 2d for volumes.*leave out --configuration"):
        plan(((999.0, 1.0, 1.0), (1, 64, 64)))


def test_clicks_are_refused():
    with pytest.raises(PlanError, match=rf"those of {TRIPLANAR} lie across 3; leave out --refine"):
        add_refinement(plan(), TRIPLANAR)
