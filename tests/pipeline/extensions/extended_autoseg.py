"""The command line of autoseg with one more row in every table, all of them from this folder.

The rows are added on import, so that worker processes, which import the main module, have them, too.
"""

from foreground import ForegroundInput, ForegroundOfPreviousStage
from offset import Offset, OffsetPlan
from perturbed import Perturbed, PerturbedObjective
from power_error import PowerErrorTerm, compute_power_error
from preset import ExtendedPlanner
from twin_heads import TwinHeads, TwinHeadsPlan

from autoseg.cli.app import main
from autoseg.networks.families import FAMILIES
from autoseg.plan.augmentation import TRANSFORM_PLANS
from autoseg.plan.losses import LOSS_TERMS
from autoseg.plan.network import NETWORK_PLANS
from autoseg.plan.objectives import OBJECTIVE_PLANS
from autoseg.plan.stages import PREVIOUS_STAGE_PLANS
from autoseg.stages.inputs import PREVIOUS_STAGE_INPUTS
from autoseg.training.augmentation.transforms import TRANSFORMS
from autoseg.training.losses import LOSSES
from autoseg.training.objectives import OBJECTIVES
from planners import PLANNERS

NETWORK_PLANS["twin_heads"], FAMILIES["twin_heads"] = TwinHeadsPlan, TwinHeads
LOSS_TERMS["power_error"], LOSSES["power_error"] = PowerErrorTerm, compute_power_error
TRANSFORM_PLANS["offset"], TRANSFORMS["offset"] = OffsetPlan, Offset
OBJECTIVE_PLANS["perturbed"], OBJECTIVES["perturbed"] = PerturbedObjective, Perturbed
PREVIOUS_STAGE_PLANS["foreground"], PREVIOUS_STAGE_INPUTS["foreground"] = ForegroundOfPreviousStage, ForegroundInput
PLANNERS["extended"] = ExtendedPlanner()

if __name__ == "__main__":
    main()
