"""Lengths in the words of a plan: pixels where files tell no spacing, and no third axis for two-dimensional images."""

import re

import pytest
from builders.fingerprints import build_fingerprint
from builders.hosts import HOST

from autoseg.fingerprint import Machine
from autoseg.workflows.plan.planning import find_network_cost
from planners import PLANNERS

PICTURE = ((999.0, 1.0, 1.0), (1, 512, 640))
STACK = ((1.0, 1.0, 1.0), (160, 700, 700))
SLICE_MM = ((499.5, 0.5, 0.25), (1, 512, 640))


def make_plan(fingerprint, planner, *, unit):
    changes = {"distance_unit": unit, "orientation": None, "file_ending": ".tif"}
    return PLANNERS[planner].plan(
        fingerprint.model_copy(update=changes),
        Machine(accelerator_memory_gb=None, throughput=HOST, budget_seconds=600),
        measure_cost=find_network_cost,
    )


def list_words(plan):
    return [f"{reason.value} | {reason.because}" for reason in plan.reasons]


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("images", [PICTURE, STACK])
def test_a_plan_for_images_without_spacing_speaks_of_pixels_and_never_of_millimetres(planner, images):
    fingerprint = build_fingerprint(*images, count=8)
    plan = make_plan(fingerprint, planner, unit="pixel")
    words = list_words(plan)
    assert plan.distance_unit == "pixel"
    assert not [line for line in words if re.search(r"\bmm\b|(?<![\d.])999", line)]
    assert sum("pixels" in line for line in words) >= 4


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("images", [PICTURE, STACK])
def test_the_unit_changes_words_alone(planner, images):
    fingerprint = build_fingerprint(*images, count=8)
    plans = [make_plan(fingerprint, planner, unit=unit) for unit in ("pixel", "mm")]
    pixels, millimetres = (plan.model_dump(exclude={"reasons", "distance_unit"}) for plan in plans)
    assert pixels == millimetres


def test_a_stack_without_spacing_has_a_low_resolution_in_pixels():
    plan = make_plan(build_fingerprint(*STACK, count=8), "default", unit="pixel")
    (low,) = [reason for reason in plan.reasons if reason.subject == "3d_lowres"]
    assert low.value.endswith(" pixels")


@pytest.mark.parametrize("planner", PLANNERS)
def test_the_axis_that_two_dimensional_images_lack_is_not_shown(planner):
    words = list_words(make_plan(build_fingerprint(*SLICE_MM, count=8), planner, unit="mm"))
    assert not [line for line in words if re.search(r"(?<![\d.])(499|999)", line)]
    assert "0.5 x 0.25 mm (y, x) | the median of 8 two-dimensional images" in " ".join(words)


def test_a_single_slice_with_a_thickness_keeps_it():
    words = list_words(make_plan(build_fingerprint((5.0, 0.5, 0.5), (1, 512, 640), count=8), "default", unit="mm"))
    assert any("(z, y, x)" in line for line in words)
