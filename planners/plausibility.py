"""A planner that adds label autoencoders, which tell how plausible the predictions of its networks are."""

from dataclasses import dataclass
from math import prod
from typing import Final

from autoseg.errors import PlanError
from autoseg.fingerprint import Fingerprint, Machine
from autoseg.labels import InstanceTargets, LabelScheme
from autoseg.network_cost import MeasureCost
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.document import ConfigurationPlan, Plan
from autoseg.plan.objectives import PlausibilityPlan, ShapePriorObjective
from planners.architectures.latent_diffusion import build_autoencoder, choose_halvings
from planners.losses.planner import AnyPlanner, LossPlanner
from planners.reasons import format_extents, record
from planners.rules.ignored_voxels import choose_ignored_voxels
from planners.rules.topology import Topology, compute_topology
from planners.rules.training import AUTOENCODER_ITERATIONS

OPTION: Final = "--plausibility"
FEATURES: Final = (8, 16, 32, 64)
"""Half of those of the shape prior. Measured on Hippocampus, after 1,000 iterations (600 of the wider one): the medians
of predictions of images that are turned, mirrored or cut off lie 30, 16 and 3 (27, 19 and 3) times as far from that of
undamaged ones as the 5th percentile of these, and the plausibility of an image takes half the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlausibilityPlanner:
    """Plans as another planner does, with a label autoencoder beside every network.

    Attributes:
        planner: Makes all other decisions.
    """

    planner: AnyPlanner | LossPlanner

    @property
    def name(self) -> str:
        """The options that lead to this planner, as plans record them after `--planner`."""
        return f"{self.planner.name} {OPTION}"

    @property
    def measures_throughput(self) -> bool:
        """Whether it needs the measured throughput of the device."""
        return self.planner.measures_throughput

    def check_labels(self, labels: LabelScheme, targets: InstanceTargets | None, dataset_name: str) -> None:
        """Checks, before images are measured, that plans exist for such labels.

        Raises:
            PlanError: The other planner has none.
        """
        self.planner.check_labels(labels, targets, dataset_name)

    def plan(self, fingerprint: Fingerprint, machine: Machine, *, measure_cost: MeasureCost | None = None) -> Plan:
        """Decides everything about a dataset.

        Args:
            fingerprint: Fingerprint of the dataset.
            machine: The computer to plan for.
            measure_cost: Measures the cost of a network.

        Raises:
            PlanError: No plan exists, a network finds objects one by one, or most voxels are ignored.
        """
        plan = self.planner.plan(fingerprint, machine, measure_cost=measure_cost)
        chosen = {name: choose_plausibility(part) for name, part in plan.configurations.items()}
        configurations = {
            name: part.model_copy(
                update={"training": part.training.model_copy(update={"plausibility": chosen[name].value})}
            )
            for name, part in plan.configurations.items()
        }
        reasons = (reason for name, decision in chosen.items() for reason in _explain(name, decision, fingerprint))
        changes = {"planner": self.name, "configurations": configurations, "reasons": (*plan.reasons, *reasons)}
        return plan.model_copy(update=changes)


def choose_plausibility(configuration: ConfigurationPlan) -> Decision[PlausibilityPlan | None]:
    """Chooses the label autoencoder for the patches of a configuration; None where it has one, or none makes sense.

    Raises:
        PlanError: The network finds objects one by one.
    """
    network, objective = configuration.network, configuration.training.objective
    if network.finds_objects:
        msg = (
            f"{OPTION} is impossible for the network {network.family!r}, which finds objects one by one: its label "
            f"maps are drawn from them and not predicted as a whole; leave out {OPTION}, or choose another "
            f"--architecture"
        )
        raise PlanError(msg)
    if network.finds_boxes:
        return Decision(None, f"the network {network.family!r} finds boxes, which are no label maps")
    if network.find_label_autoencoder() is not None or isinstance(objective, ShapePriorObjective):
        return Decision(
            None,
            f"{OPTION} adds nothing: the objective {objective.name!r} has a label autoencoder already, which tells the "
            f"plausibility, too",
        )
    patch = configuration.patch_voxels
    topology = compute_topology(configuration.patch_spacing_mm, patch)
    halvings = _count_halvings(topology, patch)
    if halvings == 0:
        return Decision(None, f"a patch of {format_extents(patch)} voxels cannot be halved for latents")
    chosen = PlausibilityPlan(
        autoencoder=build_autoencoder(
            topology, halvings, features=FEATURES[: halvings + 1], channels=network.output_channels
        ),
        autoencoder_iterations=AUTOENCODER_ITERATIONS,
    )
    return Decision(
        chosen,
        f"asked for: a label autoencoder is trained first, from label maps alone, in {AUTOENCODER_ITERATIONS:,} "
        f"iterations or a fifth of a budget; it has no part in the training of the network, and reconstructs label "
        f"maps like those of training better than others",
    )


def _count_halvings(topology: Topology, patch_voxels: tuple[int, ...]) -> int:
    """Counts the reductions that lead to the latents: those of latent diffusion, as far as they divide the patch."""
    count = choose_halvings(topology).value
    while any(
        extent % prod(steps)
        for extent, steps in zip(patch_voxels, zip(*topology.strides[: count + 1], strict=True), strict=True)
    ):
        count -= 1
    return count


def _explain(name: str, decision: Decision[PlausibilityPlan | None], fingerprint: Fingerprint) -> tuple[Reason, ...]:
    """Explains what was chosen for a configuration.

    Raises:
        PlanError: More than half of the voxels are ignored.
    """
    if decision.value is None:
        return (record(f"{name}: plausibility", decision, "none is added"),)
    latents = decision.value.autoencoder.describe()["latents"]
    reason = record(f"{name}: plausibility", decision, f"label autoencoder with {latents}")
    if fingerprint.labels.ignore_label is None:
        return (reason,)
    filled = choose_ignored_voxels(fingerprint, learner="a label autoencoder", advice=f"leave out {OPTION}")
    return reason, record(f"{name}: ignored voxels", filled, filled.value)
