"""A configuration that corrects another one is added to a plan on request."""

import pytest
from builders.plans import build_channels, build_configuration, build_plan, build_transforms

from autoseg.errors import PlanError
from autoseg.labels import InstanceTargets
from autoseg.plan import ClicksOfPreviousStage
from planners.refinement import LOST_COMPONENTS, SIMULATED_CLICKS, add_refinement
from planners.rules.context_slices import with_context


def make_plan(**changes):
    transforms = (
        build_transforms(noise={}, mirror_pairs={}, mask_morphology={})
        if "previous" in changes
        else (build_transforms(noise={}, mirror_pairs={}))
    )
    low = build_configuration(
        (32, 16, 16), spacing_mm=(1.0, 2.0, 3.0), data_of="3d_lowres", training={"transforms": transforms}
    )
    return build_plan({"3d_lowres": low}, **changes)


def test_all_but_its_input_is_that_of_the_configuration_that_it_corrects():
    plan = make_plan()
    added = add_refinement(plan, "3d_lowres")
    base, refine = plan.configurations["3d_lowres"], added.configurations["3d_lowres_refine"]
    assert added.configurations["3d_lowres"] == base
    assert added.planner == plan.planner
    assert refine.previous_stage == ClicksOfPreviousStage(
        configuration="3d_lowres", reach_mm=12.0, edge_mm=1.5, first_weights="previous_stage"
    )
    assert refine.network.input_channels == 1 + 2 + 3
    noise, _ = base.training.transforms
    assert refine.training.transforms == (noise, LOST_COMPONENTS, SIMULATED_CLICKS)
    same = {"previous_stage": None, "network": base.network, "training": base.training}
    assert refine.model_copy(update=same) == base
    subjects = {reason.subject.removeprefix("3d_lowres_refine") for reason in added.reasons}
    assert subjects == {"", ": input channels", ": reach of clicks", ": first weights", ": simulated clicks"}


def test_the_reach_is_limited_in_voxels_and_edges_of_pictures_count_more():
    wide = build_configuration((256, 256), spacing_mm=(0.5, 0.5), data_of="2d", network={"input_channels": 3})
    plan = build_plan({"2d": wide}, channels=build_channels(*["rgb_to_0_1"] * 3))
    clicks = add_refinement(plan, "2d").configurations["2d_refine"].previous_stage
    assert (clicks.reach_mm, clicks.edge_mm) == (8.0, 4.0)


def test_a_plan_that_has_it_stays_as_it_is():
    plan = add_refinement(make_plan(), "3d_lowres")
    assert add_refinement(plan, "3d_lowres") is plan


def test_a_cascade_may_be_corrected_and_its_masks_are_no_longer_changed():
    first = build_configuration((16, 16, 16), data_of="3d_lowres")
    second = build_configuration(
        (16, 16, 16),
        previous="3d_lowres",
        data_of="3d_lowres",
        network={"input_channels": 3},
        training={"transforms": build_transforms(noise={}, mask_morphology={})},
    )
    plan = add_refinement(build_plan({"3d_lowres": first, "3d_cascade_fullres": second}), "3d_cascade_fullres")
    refine = plan.configurations["3d_cascade_fullres_refine"]
    assert plan.list_stages("3d_cascade_fullres_refine") == (
        "3d_lowres", "3d_cascade_fullres", "3d_cascade_fullres_refine",
    )  # fmt: skip
    assert [part.name for part in refine.training.transforms] == ["noise", "mask_component_removal", "simulated_clicks"]


def test_what_is_not_planned_cannot_be_corrected():
    with pytest.raises(PlanError, match="no configuration '3d_fullres'; it has: 3d_lowres"):
        add_refinement(make_plan(), "3d_fullres")


def test_all_slices_that_a_network_sees_have_channels_of_masks_and_clicks():
    slices = build_configuration((32, 32), data_of="2d")
    plan = build_plan({"2d": slices, "2.5d": with_context(slices, 1)})
    refine = add_refinement(plan, "2.5d").configurations["2.5d_refine"]
    assert (refine.network.input_channels, refine.context_slices) == ((1 + 2 + 3) * 3, 1)


def test_objects_that_are_told_apart_are_not_corrected():
    plan = make_plan()
    instances = InstanceTargets(labels=plan.labels, border_fraction=0.2)
    plan = plan.model_copy(update={"instances": instances, "labels": instances.target_labels})
    with pytest.raises(PlanError, match=r"tells objects apart.*leave out --refine"):
        add_refinement(plan, "3d_lowres")
