"""A trained network from whose answers another one learns (distillation, Hinton et al. 2015, arXiv:1503.02531)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.network import DetectorPlan
from autoseg.plan.network.base import NetworkPlan

TAUGHT_OBJECTIVES: Final = ("segmentation", "detection")
"""Those that compare the outputs of a network with those of a teacher, see `Objective.compare_with_teacher`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A trained network.

    Attributes:
        checkpoint: Its weights.
        digest: Their digest.
        plan: The network.
    """

    checkpoint: Path
    digest: str
    plan: NetworkPlan

    def find_problem(self, plan: ConfigurationPlan) -> str | None:
        """Finds a reason why the network of a plan cannot learn from it; None if it can."""
        objective, own, teacher = plan.training.objective.name, plan.network, self.plan
        if objective not in TAUGHT_OBJECTIVES:
            return f"the objective {objective!r} compares nothing with a teacher, {' and '.join(TAUGHT_OBJECTIVES)} do"
        pairs = {"answers": (_describe_answers(own), _describe_answers(teacher))}
        if isinstance(own, DetectorPlan) or isinstance(teacher, DetectorPlan):
            pairs["cells"] = (_describe_cells(own), _describe_cells(teacher))
        for what, (expected, found) in pairs.items():
            if found != expected:
                return f"it gives {what} that are not comparable: expected {expected}, found {found}"
        if teacher.planes not in (1, own.planes):
            return (
                f"it has a network for each of {teacher.planes} plane axes, the plan has {own.planes} (network.planes)"
            )
        steps = zip(plan.patch_voxels, teacher.patch_divisors, strict=True)
        if any(extent % divisor for extent, divisor in steps):
            patch, divisors = (" x ".join(map(str, values)) for values in (plan.patch_voxels, teacher.patch_divisors))
            return f"the patch of {patch} voxels is no multiple of what it needs, {divisors}"
        return None


def _describe_answers(network: NetworkPlan) -> str:
    margins = " x ".join(map(str, network.margin_voxels))
    channels = f"{network.input_channels} input and {network.output_channels} output channels"
    return f"{network.dimensions} dimensions, {channels}, margins of {margins}"


def _describe_cells(network: NetworkPlan) -> str:
    if not isinstance(network, DetectorPlan):
        return f"the family {network.family}"
    strides = ", ".join(" x ".join(map(str, stride)) for stride in network.strides)
    return f"a detector with strides {strides}, {network.levels} levels, {network.distance_bins} bins"
