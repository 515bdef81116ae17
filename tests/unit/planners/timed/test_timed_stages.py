"""Configurations that are planned on request, by the planner by time."""

from math import prod

import pytest
from builders.fingerprints import build_case, build_fingerprint
from builders.hosts import HOST

from autoseg.cli.choices import find_planner
from autoseg.errors import PlanError
from autoseg.fingerprint import Machine
from autoseg.plan.augmentation import find_mirror_axes
from autoseg.workflows.plan.planning import find_network_cost
from planners import PLANNERS

HIPPOCAMPUS = ((1.0, 1.0, 1.0), (36, 50, 35))
THICK = ((40.0, 0.5, 0.5), (4, 320, 320))
STAGES = ["boundary_refinement", "3d_roi", "detect_then_segment"]


def make_plan(names, data=HIPPOCAMPUS, *, minutes=8.0, planner=PLANNERS["timed"], **facts):
    machine = Machine(accelerator_memory_gb=None, throughput=HOST, budget_seconds=minutes * 60)
    fingerprint = build_fingerprint(*data, count=50, **facts)
    return planner.with_configurations(names).plan(fingerprint, machine, measure_cost=find_network_cost)


def test_every_stage_is_planned_beside_the_configuration_that_fits_the_time():
    planned, alone = make_plan(STAGES), make_plan([])
    previous = {name: chosen.previous_configuration for name, chosen in planned.configurations.items()}
    assert previous == {
        "3d_fullres": None,
        "3d_coarse": None,
        "3d_roi": "3d_coarse",
        "boundary_refinement": "3d_fullres",
        "3d_detector": None,
        "detect_then_segment": "3d_detector",
    }
    assert planned.configurations["3d_fullres"] == alone.configurations["3d_fullres"]
    assert planned.planner == "timed --configuration 3d_roi --configuration boundary_refinement --configuration " + (
        "detect_then_segment"
    )


def test_every_stage_is_trained_in_the_time_of_a_fold_and_as_wide_as_the_network():
    configurations = make_plan(STAGES).configurations
    full = configurations["3d_fullres"]
    for chosen in configurations.values():
        assert (chosen.training.optimizer, chosen.training.budget_seconds) == ("adamw", full.training.budget_seconds)
    assert configurations["boundary_refinement"].network.features_per_stage[0] == full.network.features_per_stage[0]
    assert configurations["3d_coarse"].network.family == "plain_unet"
    assert configurations["3d_detector"].network.family == "detector"


@pytest.mark.parametrize("orientation", [None, "RAS"])
def test_stages_are_mirrored_as_the_network_is(orientation):
    configurations = make_plan(STAGES, orientation=orientation).configurations
    axes = {name: find_mirror_axes(chosen.training.transforms) for name, chosen in configurations.items()}
    assert set(axes.values()) == {() if orientation else (0, 1, 2)}


def test_networks_of_an_architecture_correct_its_boundaries():
    planner = find_planner("timed", "res_unet", configurations=["boundary_refinement"])
    configurations = make_plan(["boundary_refinement"], planner=planner).configurations
    networks = [chosen.network for chosen in configurations.values()]
    assert [network.block.name for network in networks] == ["residual", "residual"]
    assert [network.input_channels for network in networks] == [1, 2]


def test_slices_get_neighbours_where_slices_are_planned():
    configurations = make_plan(["2.5d", "2d_triplanar"], THICK, minutes=1.0).configurations
    assert list(configurations) == ["2d", "2.5d", "2d_triplanar"]


def test_slices_are_planned_beside_volumes_for_what_is_made_of_them():
    planned, alone = make_plan(["2.5d", "2d_triplanar"]), make_plan([])
    configurations = planned.configurations
    assert list(configurations) == ["3d_fullres", "2d", "2.5d", "2d_triplanar"]
    assert configurations["3d_fullres"] == alone.configurations["3d_fullres"]
    assert configurations["2d"].training.budget_seconds == configurations["3d_fullres"].training.budget_seconds
    assert configurations["2.5d"].network.features_per_stage == configurations["2d"].network.features_per_stage
    assert configurations["2d_triplanar"].plane_axes == (0, 1, 2)
    (reason,) = [reason.because for reason in planned.reasons if reason.subject == "2d"]
    assert reason == "2.5d and 2d_triplanar, which are made of it, were asked for"


def test_neighbours_are_refused_where_the_images_have_no_slices():
    with pytest.raises(PlanError, match=r"2.5d is made of 2d for volumes, but planned are 2d .* 1 slices"):
        make_plan(["2.5d"], ((999.0, 1.0, 1.0), (1, 64, 64)), minutes=1.0)


LARGE = ((1.0, 1.0, 1.0), (300, 300, 300))


def find_box(share):
    """Cases whose foreground has a box of this share of the image."""
    return {"cases": (build_case(*LARGE).model_copy(update={"foreground_box_fraction": share}),) * 50}


def test_a_stage_in_a_box_is_as_fine_as_the_box_allows_where_whole_images_take_too_long():
    planned, alone = (
        make_plan(["3d_roi"], LARGE, minutes=2.0, **find_box(0.02)),
        make_plan([], LARGE, minutes=2.0, **find_box(0.02)),
    )
    low, fine = planned.configurations["3d_lowres"], planned.configurations["3d_roi"]
    assert "3d_fullres" not in planned.configurations
    assert low == alone.configurations["3d_lowres"]
    assert (fine.previous_configuration, fine.data_of) == ("3d_lowres", "3d_roi")
    assert prod(low.spacing_mm) >= 2 * prod(fine.spacing_mm)
    assert fine.training.budget_seconds == low.training.budget_seconds
    whole = tuple(round(300 / spacing_mm) for spacing_mm in fine.spacing_mm)
    assert fine.median_shape_voxels == whole, "forecasts count the windows of whole images"
    (reason,) = [reason for reason in planned.reasons if reason.subject == "3d_roi: spacing"]
    assert "as if the images were their boxes (2 % of an image, measured): " in reason.because


def test_the_smaller_the_box_the_finer_is_what_sees_it():
    fine = [
        make_plan(["3d_roi"], LARGE, minutes=4.0, **find_box(share)).configurations["3d_roi"] for share in (0.002, 0.02)
    ]
    assert prod(fine[0].spacing_mm) < prod(fine[1].spacing_mm)


def test_a_stage_in_a_box_that_is_nearly_the_image_needs_a_longer_budget():
    message = r"3d_roi would see 1 times as many voxels .* as 3d_lowres, .*longer --budget$"
    with pytest.raises(PlanError, match=message):
        make_plan(["3d_roi"], LARGE, minutes=2.0, **find_box(1.0))


def test_a_stage_in_a_box_is_offered_where_there_is_no_time_for_full_resolution():
    for share, is_offered in ((0.02, True), (0.6, False)):
        planned = make_plan([], LARGE, minutes=2.0, **find_box(share))
        offers = [reason.because for reason in planned.reasons if reason.subject == "3d_roi"]
        assert bool(offers) == is_offered
        assert all("no time to train a network at full resolution" in because for because in offers)


def test_a_stage_behind_a_detector_needs_a_longer_budget_where_a_coarser_one_is_planned():
    message = (
        r"made of 3d_fullres for volumes, but planned are 3d_lowres .*--budget, in which 3d_fullres can be trained"
    )
    with pytest.raises(PlanError, match=message):
        make_plan(["detect_then_segment"], LARGE, minutes=2.0)
    planned = make_plan([], LARGE, minutes=2.0)
    with pytest.raises(PlanError, match=r"'3d_fullres'; it has: 3d_lowres, as its time .*plan with a longer --budget"):
        planned.get_configuration("3d_fullres")
    with pytest.raises(PlanError, match=r"it has: 3d_lowres$"):
        planned.get_configuration("2d")
