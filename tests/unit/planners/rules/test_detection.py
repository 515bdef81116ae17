"""Detect, then segment: the detector, its levels, and the configuration that works in its box."""

import pytest
from builders.fingerprints import build_case, build_fingerprint
from builders.labels import build_labels

from autoseg.errors import PlanError
from autoseg.fingerprint import Machine
from autoseg.networks.cost import measure_cost
from autoseg.plan import BoxOfPreviousStage, Plan
from autoseg.plan.network import DetectorPlan
from autoseg.plan.objectives import DetectionObjective
from planners import PLANNERS
from planners.planner import Planner
from planners.rules.detection import choose_first_level, choose_object_edge, list_blocks
from planners.rules.topology import compute_topology

DEFAULT: Planner = PLANNERS["default"]
ON_REQUEST = DEFAULT.with_configurations(["detect_then_segment"])
SHAPE = (48, 56, 64)
CASES = (build_case(shape=SHAPE, voxel_counts=(20**3,)),) * 3


def plan(planner=ON_REQUEST, shape=SHAPE, **changes) -> Plan:
    machine = Machine(accelerator_memory_gb=None, budget_seconds=None)
    return planner.plan(build_fingerprint((1.0, 1.0, 1.0), shape, **changes), machine, measure_cost=measure_cost)


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan(cases=CASES)


def list_reasons(planned):
    return {reason.subject: reason for reason in planned.reasons}


def test_one_patch_of_the_detector_holds_the_median_case_at_least_twice_as_coarse(planned):
    detector = planned.configurations["3d_detector"]
    assert isinstance(detector.network, DetectorPlan)
    assert isinstance(detector.training.objective, DetectionObjective)
    assert all(patch >= size for patch, size in zip(detector.patch_voxels, detector.median_shape_voxels, strict=True))
    assert all(spacing >= 1.9 for spacing in detector.spacing_mm)
    assert (detector.data_of, detector.previous_stage) == ("3d_detector", None)


def test_large_objects_are_looked_for_at_a_coarser_spacing(planned):
    assert 30 / planned.configurations["3d_detector"].spacing_mm[0] < 16
    large = plan(cases=(build_case(shape=SHAPE, voxel_counts=(38**3,)),) * 3)
    edge = 48 / large.configurations["3d_detector"].spacing_mm[0]
    assert 15.5 < edge <= 16
    assert f"an edge of the median object has {edge:.3g} voxels, where 16 suffice" in (
        list_reasons(large)["3d_detector"].because
    )


def test_levels_begin_where_an_edge_of_the_median_object_has_four_cells(planned):
    detector, reason = planned.configurations["3d_detector"], list_reasons(planned)["3d_detector: levels"]
    assert detector.network.levels == detector.network.stage_count - 1
    edge = (20 + 2 * 5) / detector.spacing_mm[0]
    assert f"has {edge / 2:.3g} cells (mean of the axes) at strides of 2 x 2 x 2" in reason.because
    assert "edges of 30 mm" in list_reasons(planned)["3d_detector"].because


def test_full_resolution_works_in_its_box_and_nothing_else_changes(planned):
    detect, full = planned.configurations["detect_then_segment"], planned.configurations["3d_fullres"]
    stage = detect.previous_stage
    assert isinstance(stage, BoxOfPreviousStage)
    assert planned.list_stages("detect_then_segment") == ("3d_detector", "detect_then_segment")
    assert stage.margin_mm == round(2 * max(planned.configurations["3d_detector"].spacing_mm), 3)
    assert detect.model_copy(update={"previous_stage": None}) == full
    others = {name: part for name, part in planned.configurations.items() if "detect" not in name}
    assert others == plan(DEFAULT, cases=CASES).configurations
    assert planned.list_segmenting() == tuple(name for name in planned.configurations if name != "3d_detector")
    assert Plan.model_validate_json(planned.model_dump_json()) == planned


def test_regions_have_no_background_among_the_outputs(planned):
    assert planned.configurations["3d_detector"].network.probabilities == "softmax"
    regions = build_labels({"all": (1, 2), "core": (2,)}, region_write_values=(1, 2))
    network = plan(labels=regions).configurations["3d_detector"].network
    assert (network.probabilities, network.class_count) == ("sigmoid", 2)


def test_images_that_are_too_small_for_a_coarser_network_have_none():
    with pytest.raises(PlanError, match=r"detect_then_segment needs a coarser network before it, and none exists: "):
        plan(shape=(9, 9, 9))


@pytest.mark.parametrize(
    ("object_voxels", "stage", "words"),
    [
        ((40.0, 40.0), 3, "the coarsest resolution with at least 4; coarser ones follow"),
        ((31.0, 31.0), 2, "has 7.75 cells (mean of the axes) at strides of 4 x 4, the coarsest resolution"),
        ((64.0, 16.0), 3, "has 4 cells (mean of the axes) at strides of 8 x 8"),
        ((5.0, 5.0), 1, "the finest reduced resolution, fewer than 4"),
        (None, 1, "the size of the objects is not known"),
    ],
)
def test_the_first_level_follows_from_the_size_of_the_objects(object_voxels, stage, words):
    topology = compute_topology((1.0, 1.0), (64, 64))
    assert topology.strides == ((1, 1), *((2, 2),) * 4)
    found = choose_first_level(topology, object_voxels)
    assert found.value == stage
    assert words in found.because


def test_the_edge_is_that_of_the_median_volume_of_the_foreground():
    counts = ((0, 0), (0, 27), (64, 61), (500, 500))
    cases = tuple(build_case(spacing_mm=(2.0, 1.0, 4.0), voxel_counts=pair) for pair in counts)
    labels = build_labels({"a": (1,), "b": (2,)})
    edge = choose_object_edge(build_fingerprint((1.0, 1.0, 1.0), SHAPE, labels=labels, cases=cases)).value
    assert edge == pytest.approx(10 + 10)
    regions = build_labels({"a": (1, 2), "b": (2,)}, region_write_values=(1, 2))
    edge = choose_object_edge(build_fingerprint((1.0, 1.0, 1.0), SHAPE, labels=regions, cases=cases)).value
    assert edge == pytest.approx(8 + 10)
    nothing = choose_object_edge(build_fingerprint((1.0, 1.0, 1.0), SHAPE, cases=cases[:1]))
    assert (nothing.value, nothing.because) == (None, "no case has foreground")


def test_depths_are_those_of_yolov6_n_for_five_stages():
    assert list_blocks(5) == (0, 2, 4, 6, 2)
    assert list_blocks(6) == (0, 2, 4, 6, 6, 2)
    assert list_blocks(2) == (0, 2)
