"""Plans whose networks learn centre distances of objects."""

import pytest
from builders.fingerprints import build_case, build_fingerprint
from builders.objects import CELLS, CENTRED

from autoseg.cli.choices import find_planner
from autoseg.cli.plan import find_centre_steps
from autoseg.errors import PlanError
from autoseg.fingerprint import Fingerprint, Machine
from autoseg.labels import InstanceTargets
from autoseg.plan import Plan
from autoseg.plan.losses import CentreDistanceTerm
from autoseg.workflows.plan.planning import find_network_cost

MACHINE = Machine(accelerator_memory_gb=None)


def measure(targets: InstanceTargets) -> Fingerprint:
    labels = targets.target_labels
    case = build_case((1.0, 1.0, 1.0), (1, 64, 64), voxel_counts=(100,) * len(labels.class_names))
    return build_fingerprint(
        (1.0, 1.0, 1.0), (1, 64, 64), labels=labels, cases=(case,), targets=targets, has_instances=True
    )


def test_the_distance_has_a_loss_of_its_own_beside_any_other_and_a_reason() -> None:
    usual = find_planner("default").plan(measure(CELLS), MACHINE)
    plan = find_planner("default").plan(measure(CENTRED), MACHINE)
    term = CentreDistanceTerm(weight=1.0, part_distances=CENTRED.part_distances)
    chosen = plan.configurations["2d"]
    assert chosen.training.losses == (*usual.configurations["2d"].training.losses, term)
    assert chosen.network.output_channels == usual.configurations["2d"].network.output_channels + 2
    reasons = {reason.subject: reason for reason in plan.reasons}
    assert reasons["centre distance"].value == "3 steps"
    assert "expected of their probabilities" in reasons["2d: centre distance"].because
    assert not any("centre distance" in reason.subject for reason in usual.reasons)
    other = find_planner("default", loss="tversky").plan(measure(CENTRED), MACHINE)
    assert [own.name for own in other.configurations["2d"].training.losses] == ["tversky", "centre_distance"]
    assert term.find_problems(CELLS.target_labels) == (
        "needs 4 labels for every class, as --targets centre_distance plans them (got 2)",
    )


def test_a_network_of_one_class_at_a_time_has_no_such_loss() -> None:
    planner = find_planner("default", configurations=["boundary_refinement"])
    plan = planner.plan(measure(CENTRED), MACHINE)
    assert len(plan.configurations["2d"].training.losses) == 3
    assert len(plan.configurations["boundary_refinement"].training.losses) == 2


def test_the_command_asks_for_four_steps() -> None:
    assert (find_centre_steps("core_border"), find_centre_steps("centre_distance")) == (0, 4)


def test_mask_rcnn_which_draws_cores_and_borders_is_refused() -> None:
    planner = find_planner("default", "mask_rcnn")
    with pytest.raises(PlanError, match=r"found centre distances, too; leave out --targets centre_distance"):
        planner.check_labels(CENTRED.target_labels, CENTRED, "Cells")
    with pytest.raises(PlanError, match="mask_rcnn draws cores and borders"):
        planner.plan(measure(CENTRED), MACHINE, measure_cost=find_network_cost)
    planned = planner.plan(measure(CELLS), MACHINE, measure_cost=find_network_cost).model_dump(mode="json")
    planned["configurations"]["2d"]["network"]["output_channels"] = 5
    planned |= {"instances": CENTRED.model_dump(), "labels": CENTRED.target_labels.model_dump()}
    with pytest.raises(ValueError, match="which draws cores and borders alone, where centre distances are learned"):
        Plan.model_validate(planned)
