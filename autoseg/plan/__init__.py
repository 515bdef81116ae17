"""Schema of what was decided. A plan is complete: nothing is left to be chosen later, every choice has its reason."""

from autoseg.plan.augmentation import AugmentationPlan
from autoseg.plan.decisions import Decision, Reason, Value
from autoseg.plan.document import IMPORTED_PLANNER, PREFERRED_CONFIGURATIONS, ConfigurationPlan, Plan
from autoseg.plan.network import Architecture, NetworkPlan
from autoseg.plan.preprocessing import ChannelPlan, IntensityWindow, NormalizationScheme, ResamplingPlan
from autoseg.plan.stages import MasksOfPreviousStage, PreviousStagePlan
from autoseg.plan.training import ForegroundChoice, ForegroundPlacement, TrainingPlan
from autoseg.plan.values import ConfigurationName

__all__ = [
    "IMPORTED_PLANNER",
    "PREFERRED_CONFIGURATIONS",
    "Architecture",
    "AugmentationPlan",
    "ChannelPlan",
    "ConfigurationName",
    "ConfigurationPlan",
    "Decision",
    "ForegroundChoice",
    "ForegroundPlacement",
    "IntensityWindow",
    "MasksOfPreviousStage",
    "NetworkPlan",
    "NormalizationScheme",
    "Plan",
    "PreviousStagePlan",
    "Reason",
    "ResamplingPlan",
    "TrainingPlan",
    "Value",
]
