"""A network that works only around what a coarse one finds: its first stage, its box, and when it is offered."""

import pytest
from builders.fingerprints import build_case, build_fingerprint

from autoseg.errors import PlanError
from autoseg.fingerprint import Machine
from autoseg.plan import BoxOfPreviousStage, Plan
from planners import PLANNERS
from planners.planner import Planner

DEFAULT: Planner = PLANNERS["default"]
ON_REQUEST = DEFAULT.with_configurations(["3d_roi"])
SMALL, LARGE = (48, 56, 64), (160, 200, 180)


def plan(planner=ON_REQUEST, shape=SMALL, memory_gb=None) -> Plan:
    machine = Machine(accelerator_memory_gb=memory_gb, budget_seconds=None)
    return planner.plan(build_fingerprint((1.0, 1.0, 1.0), shape), machine)


@pytest.fixture(scope="module")
def small() -> Plan:
    return plan()


@pytest.fixture(scope="module")
def large() -> Plan:
    return plan(shape=LARGE, memory_gb=0.5)


def list_reasons(planned):
    return {reason.subject: reason for reason in planned.reasons}


def test_without_low_resolution_a_first_stage_is_planned_of_which_one_patch_holds_the_median_case(small):
    coarse, full = small.configurations["3d_coarse"], small.configurations["3d_fullres"]
    assert "3d_lowres" not in small.configurations
    assert all(patch >= size for patch, size in zip(coarse.patch_voxels, coarse.median_shape_voxels, strict=True))
    assert all(spacing >= 1.9 for spacing in coarse.spacing_mm)
    assert (coarse.data_of, coarse.previous_stage) == ("3d_coarse", None)
    assert full.previous_stage is None
    assert "8 times fewer voxels" in list_reasons(small)["3d_coarse"].because


def test_low_resolution_is_the_first_stage_where_it_is_planned(large):
    assert "3d_coarse" not in large.configurations
    assert large.list_stages("3d_roi") == ("3d_lowres", "3d_roi")


def test_the_margin_is_four_voxels_of_the_first_stage(small):
    stage = small.configurations["3d_roi"].previous_stage
    assert isinstance(stage, BoxOfPreviousStage)
    assert stage.margin_mm == round(4 * max(small.configurations["3d_coarse"].spacing_mm), 3)
    assert list_reasons(small)["3d_roi: box margin"].value == f"{stage.margin_mm:g} at either end of each axis"


def test_every_voxel_of_the_box_can_be_the_centre_of_a_patch_in_training(small):
    roi = small.configurations["3d_roi"]
    assert isinstance(roi.previous_stage, BoxOfPreviousStage)
    halves = tuple(extent // 2 for extent in roi.patch_voxels)
    assert roi.previous_stage.training_margin_voxels == halves
    reason = list_reasons(small)["3d_roi: training margin"]
    assert reason.value == f"{' x '.join(map(str, halves))} voxels around the box"


def test_all_else_is_that_of_full_resolution(small):
    roi, full = small.configurations["3d_roi"], small.configurations["3d_fullres"]
    assert roi.model_copy(update={"previous_stage": None}) == full
    assert small.planner == "default --configuration 3d_roi"


def test_other_configurations_are_planned_as_without_it(small):
    others = {name: part for name, part in small.configurations.items() if name not in ("3d_roi", "3d_coarse")}
    assert others == plan(DEFAULT).configurations


def test_it_is_offered_where_low_resolution_is_planned(large):
    offered = list_reasons(plan(DEFAULT, shape=LARGE, memory_gb=0.5))["3d_roi"]
    assert offered.value == "offered, not planned"
    assert "--configuration 3d_roi" in offered.because
    assert list_reasons(large)["3d_roi"].value == "planned"
    assert "3d_roi" not in list_reasons(plan(DEFAULT))


def plan_large(**measured) -> Plan:
    case = build_case((1.0, 1.0, 1.0), LARGE, voxel_counts=measured.pop("voxel_counts", (1,)))
    cases = (case.model_copy(update=measured),)
    machine = Machine(accelerator_memory_gb=0.5, budget_seconds=None)
    return DEFAULT.plan(build_fingerprint((1.0, 1.0, 1.0), LARGE, cases=cases), machine)


@pytest.mark.parametrize(
    ("measured", "told"),
    [
        (
            {"foreground_box_fraction": 0.3, "surface_fraction": 0.0},
            "has 30 % of an image (measured)",
        ),
        ({"foreground_box_fraction": 0.31, "surface_fraction": 0.0}, None),
        ({"voxel_counts": (904_778,)}, "has 30 % of an image (by its voxels"),  # 0.3 of the image, times pi / 6
        ({"voxel_counts": (935_000,)}, None),
        ({"voxel_counts": (0,)}, None),
    ],
)
def test_it_is_offered_only_where_the_box_of_the_foreground_is_small(measured, told):
    reasons = list_reasons(plan_large(**measured))
    assert ("3d_roi" in reasons) == (told is not None)
    assert told is None or told in reasons["3d_roi"].because


@pytest.mark.parametrize(
    ("spacing_mm", "is_offered"), [((1.0, 1.0, 1.0), True), ((1.5, 1, 1), True), ((1.6, 1, 1), False)]
)
def test_slices_across_all_axes_are_offered_where_voxels_are_nearly_cubes(spacing_mm, is_offered):
    machine = Machine(accelerator_memory_gb=None, budget_seconds=None)
    reasons = list_reasons(DEFAULT.plan(build_fingerprint(spacing_mm, SMALL), machine))
    assert ("2d_triplanar" in reasons) == is_offered
    assert not is_offered or "at most 1.5 times counts as a cube (guess)" in reasons["2d_triplanar"].because


@pytest.mark.parametrize(
    ("measured", "told"),
    [
        ({"foreground_box_fraction": 0.5, "surface_fraction": 0.3}, "30 % of the foreground"),
        ({"foreground_box_fraction": 0.5, "surface_fraction": 0.29}, None),
        ({"voxel_counts": (2145,)}, "33 % of the foreground touch another label (by its voxels"),  # radius 8
        ({"voxel_counts": (4189,)}, None),  # radius 10: 27 %
    ],
)
def test_the_correction_of_boundaries_is_offered_where_much_of_the_foreground_is_surface(measured, told):
    reasons = list_reasons(plan_large(**measured))
    assert ("boundary_refinement" in reasons) == (told is not None)
    assert told is None or told in reasons["boundary_refinement"].because


def test_images_that_are_too_small_for_a_coarser_network_have_none():
    with pytest.raises(PlanError, match=r"3d_roi needs a coarser network before it, and none exists: .*leave out"):
        plan(shape=(9, 9, 9))


def test_both_are_planned_together_in_the_order_of_the_table():
    planner = DEFAULT.with_configurations(["3d_roi", "2.5d"])
    assert planner.name == "default --configuration 2.5d --configuration 3d_roi"
    assert {"2.5d", "3d_roi"} <= set(plan(planner).configurations)
