"""Heads that `autoseg plan --head` puts in place of the last stages of a network."""

import pytest
from builders.fingerprints import build_case, build_fingerprint
from builders.hosts import HOST
from builders.labels import build_labels

from autoseg.cli.choices import find_planner
from autoseg.document import parse_part
from autoseg.errors import PlanError
from autoseg.fingerprint import Machine
from autoseg.networks.cost import measure_cost
from autoseg.plan import Plan
from autoseg.plan.network import PlainUNetPlan, PointRendPlan, UShapedPlan
from autoseg.plan.objectives import PointRendObjective
from autoseg.workflows.plan.planning import find_network_cost
from planners.heads import HEADS

SPACING, SHAPE = (2.0, 1.0, 1.0), (20, 32, 32)
LABELS = build_labels({"organ": (1,), "lesion": (2,)})
REGIONS = build_labels({"organ": (1, 2), "lesion": (2,)}, region_write_values=(1, 2))


def plan(planner="default", architecture=None, *, labels=LABELS, size=SHAPE, **options):
    cases = (build_case(SPACING, size, voxel_counts=(1500, 100)),) * 4
    fingerprint = build_fingerprint(SPACING, size, cases=cases, labels=labels)
    machine = Machine(accelerator_memory_gb=None, throughput=HOST)
    chosen = find_planner(planner, architecture, head="point_rend", **options)
    return chosen.plan(fingerprint, machine, measure_cost=find_network_cost)


def find_reason(planned, subject):
    (reason,) = (reason for reason in planned.reasons if reason.subject == subject)
    return reason


def test_every_configuration_gets_the_head_its_objective_and_their_reasons():
    planned = plan()
    assert planned.planner == "default --head point_rend"
    assert len(planned.configurations) > 1
    for name, part in planned.configurations.items():
        network = part.network
        assert isinstance(network, PointRendPlan)
        assert isinstance(network.skeleton, PlainUNetPlan)
        assert (network.coarse_level, network.hidden_features, network.probabilities) == (1, 256, "softmax")
        assert isinstance(part.training.objective, PointRendObjective)
        assert f"1 in {16 if network.dimensions == 2 else 64} voxels" in find_reason(planned, f"{name}: head").because
        assert network.training_fraction == {2: 1 / 16, 3: 1 / 64}[network.dimensions]
        assert find_reason(planned, f"{name}: head").value == network.describe()["head"]
        assert find_reason(planned, f"{name}: objective").value == "point_rend"
        assert part.training.objective.sample_dice_weight == 3
        assert "3 times the Dice of the loss" in find_reason(planned, f"{name}: objective").because
        costs = [measure_cost(each, part.patch_voxels, 2) for each in (network, network.skeleton)]
        assert costs[0].kept_bytes < 0.9 * costs[1].kept_bytes
        assert costs[0].multiply_adds < costs[1].multiply_adds
    assert parse_part(planned.model_dump(mode="json"), Plan, where="plan.json") == planned


def test_the_planner_by_time_takes_it_with_an_architecture_and_a_loss_and_for_regions():
    planned = plan("timed", "u_net", labels=REGIONS, loss="focal")
    assert planned.planner == "timed --architecture u_net --head point_rend --loss focal"
    (part,) = planned.configurations.values()
    assert isinstance(part.network, PointRendPlan)
    assert isinstance(part.network.skeleton, UShapedPlan)
    assert part.network.probabilities == "sigmoid"
    assert [term.name for term in part.training.losses] == ["focal"]
    assert isinstance(part.training.objective, PointRendObjective)
    assert part.training.optimizer == "adamw"


def test_what_does_not_go_with_it_is_refused_by_name():
    with pytest.raises(
        PlanError, match=r"head point_rend does not fit the network: its outputs of all levels are fused"
    ):
        plan("timed", "u2_net")
    with pytest.raises(PlanError, match="'shape_prior' is impossible for the network 'point_rend'"):
        plan("timed", loss="shape_prior")
    with pytest.raises(PlanError, match=r"no head is called 'point'.*choose one of: point_rend"):
        find_planner("default", head="point")
    assert list(HEADS) == ["point_rend"]


def test_a_detector_keeps_its_own_heads_and_corrected_boundaries_are_refused():
    planned = plan(configurations=["detect_then_segment"], size=(48, 56, 64))
    families = {name: part.network.family for name, part in planned.configurations.items()}
    assert (families["3d_detector"], families["detect_then_segment"]) == ("detector", "point_rend")
    assert parse_part(planned.model_dump(mode="json"), Plan, where="plan.json") == planned
    with pytest.raises(
        PlanError,
        match=r"that of 3d_fullres is trained by the objective 'point_rend'; leave out "
        r"--configuration boundary_refinement, or --head",
    ):
        plan(configurations=["boundary_refinement"])
