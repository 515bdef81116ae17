"""Correction of boundaries: which configuration is corrected, by which patches and network."""

import pytest
from builders.fingerprints import build_fingerprint
from builders.networks import build_small_network_plan
from builders.plans import build_configuration

from autoseg.document import parse_part
from autoseg.errors import PlanError
from autoseg.fingerprint import Machine
from autoseg.plan import ConfigurationPlan, Plan
from autoseg.plan.decisions import Decision
from autoseg.plan.objectives import DenoisingObjective, PointRendObjective
from planners import PLANNERS
from planners.planner import Planner
from planners.refinement import add_refinement
from planners.rules.boundary import BOUNDARY, choose_boundary
from planners.rules.topology import UNET_TOPOLOGY

MACHINE = Machine(accelerator_memory_gb=None, budget_seconds=None)
DEFAULT: Planner = PLANNERS["default"]
VOLUMES, THICK, PICTURES = (
    ((1.0, 1.0, 1.0), (36, 50, 35)),
    ((5.0, 0.8, 0.8), (30, 256, 256)),
    ((999.0, 1.0, 1.0), (1, 256, 256)),
)
PLAIN = build_configuration((16, 16))
POINTS = PointRendObjective(candidates_per_point=3, uncertain_fraction=0.75, point_weight=1.0)
DENOISING = DenoisingObjective(estimate_weight=1.0, segmentation_weight=1.0, last_step_fraction=0.5, image_dropout=0.0)


def plan(data=VOLUMES, planner=DEFAULT) -> Plan:
    return planner.with_configurations([BOUNDARY]).plan(build_fingerprint(*data, channel_names=("T1", "T2")), MACHINE)


@pytest.mark.parametrize(
    ("data", "corrected", "patch"),
    [(VOLUMES, "3d_fullres", (20, 28, 20)), (THICK, "3d_fullres", (4, 32, 32)), (PICTURES, "2d", (64, 64))],
)
def test_volumes_are_corrected_in_volumes_and_pictures_in_pictures(data, corrected, patch):
    planned = plan(data)
    chosen, base = planned.configurations[BOUNDARY], planned.configurations[corrected]
    assert (chosen.previous_configuration, chosen.data_of, chosen.spacing_mm) == (corrected, corrected, base.spacing_mm)
    assert chosen.patch_voxels == patch
    assert all(own <= wide for own, wide in zip(chosen.patch_voxels, base.patch_voxels, strict=True))
    assert (chosen.network.input_channels, chosen.network.output_channels) == (3, 2)
    assert chosen.training.foreground_fraction == 1.0
    assert parse_part(chosen.model_dump(mode="json"), ConfigurationPlan, where="plan.json") == chosen
    assert Plan.model_validate(planned.model_dump()) == planned


def test_everything_else_is_planned_as_without_it():
    with_it = plan()
    without = DEFAULT.plan(build_fingerprint(*VOLUMES, channel_names=("T1", "T2")), MACHINE)
    configurations = {name: part for name, part in with_it.configurations.items() if name != BOUNDARY}
    assert configurations == without.configurations


def choose(network, base=PLAIN):
    """Corrects a 2D configuration by a network."""
    topology = UNET_TOPOLOGY.compute(base.spacing_mm, (16, 16))
    return choose_boundary(
        base,
        name="2d",
        topology=topology,
        choose_network=lambda topology, *, input_channels, output_channels: (network, ()),
        batch_size=Decision(2, ""),
    )


def test_a_network_with_a_margin_is_refused():
    with pytest.raises(PlanError, match=rf"{BOUNDARY} needs a network whose output is as large as its input"):
        choose(build_small_network_plan("valid convolutions", 2))


@pytest.mark.parametrize(
    ("family", "objective", "advice"),
    [("point_rend", POINTS, "--head"), ("diffusion_unet", DENOISING, "choose another --architecture")],
)
def test_an_objective_of_its_own_is_refused_by_the_option_that_set_it(family, objective, advice):
    network = build_small_network_plan(family, 2)
    training = PLAIN.training.model_copy(update={"objective": objective})
    told = rf"the objective '{objective.name}'; leave out --configuration {BOUNDARY}, or {advice}$"
    with pytest.raises(PlanError, match=told):
        choose(network, PLAIN.model_copy(update={"network": network, "training": training}))


def test_clicks_are_refused():
    with pytest.raises(PlanError, match=r"sees one class at a time; leave out --refine, or name 3d_fullres"):
        add_refinement(plan(), BOUNDARY)
