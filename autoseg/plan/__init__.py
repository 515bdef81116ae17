"""Schema of a plan. A plan is complete: nothing is left to be chosen later, every choice has its reason."""

from autoseg.plan.augmentation import TRANSFORM_PLANS, TransformPlan
from autoseg.plan.decisions import Decision, Reason, Value
from autoseg.plan.document import IMPORTED_PLANNER, PREFERRED_CONFIGURATIONS, ConfigurationPlan, Plan
from autoseg.plan.losses import (
    LOSS_TERMS,
    OBJECTIVE_PLANS,
    CrossEntropyTerm,
    DiceTerm,
    LossTerm,
    ObjectivePlan,
    SegmentationObjective,
)
from autoseg.plan.network import (
    NETWORK_PLANS,
    NetworkPlan,
    PlainUNetPlan,
    ResidualEncoderUNetPlan,
    UNetFamily,
    UNetPlan,
)
from autoseg.plan.preprocessing import ChannelPlan, IntensityWindow, NormalizationScheme, ResamplingPlan
from autoseg.plan.reference import build_reference_training
from autoseg.plan.stages import MasksOfPreviousStage, PreviousStagePlan
from autoseg.plan.training import (
    SCHEDULE_PLANS,
    ConstantSchedule,
    CosineSchedule,
    ForegroundChoice,
    ForegroundPlacement,
    PlateauSchedule,
    PolynomialSchedule,
    SchedulePlan,
    TrainingPlan,
)
from autoseg.plan.values import ConfigurationName

__all__ = [
    "IMPORTED_PLANNER",
    "LOSS_TERMS",
    "NETWORK_PLANS",
    "OBJECTIVE_PLANS",
    "PREFERRED_CONFIGURATIONS",
    "SCHEDULE_PLANS",
    "TRANSFORM_PLANS",
    "ChannelPlan",
    "ConfigurationName",
    "ConfigurationPlan",
    "ConstantSchedule",
    "CosineSchedule",
    "CrossEntropyTerm",
    "Decision",
    "DiceTerm",
    "ForegroundChoice",
    "ForegroundPlacement",
    "IntensityWindow",
    "LossTerm",
    "MasksOfPreviousStage",
    "NetworkPlan",
    "NormalizationScheme",
    "ObjectivePlan",
    "PlainUNetPlan",
    "Plan",
    "PlateauSchedule",
    "PolynomialSchedule",
    "PreviousStagePlan",
    "Reason",
    "ResamplingPlan",
    "ResidualEncoderUNetPlan",
    "SchedulePlan",
    "SegmentationObjective",
    "TrainingPlan",
    "TransformPlan",
    "UNetFamily",
    "UNetPlan",
    "Value",
    "build_reference_training",
]
