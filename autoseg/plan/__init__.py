"""Schema of a plan. A plan is complete: nothing is left to be chosen later, every choice has its reason."""

from autoseg.plan.augmentation import TRANSFORM_PLANS, TransformPlan
from autoseg.plan.decisions import Decision, Reason, Value
from autoseg.plan.document import IMPORTED_PLANNER, PREFERRED_CONFIGURATIONS, ConfigurationPlan, Plan
from autoseg.plan.losses import (
    LOSS_TERMS,
    OBJECTIVE_PLANS,
    BorderWeightedCrossEntropyTerm,
    BoundaryTerm,
    CenterlineDiceTerm,
    ClassWeightedTerm,
    CrossEntropyTerm,
    DiceTerm,
    ExponentialLogarithmicTerm,
    FocalTerm,
    GeneralizedDiceTerm,
    LossTerm,
    ObjectivePlan,
    RampedTerm,
    SegmentationObjective,
    SquaredDiceTerm,
    TverskyTerm,
    WeightedCrossEntropyTerm,
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
from autoseg.plan.training import ForegroundChoice, ForegroundPlacement, TrainingPlan
from autoseg.plan.values import ConfigurationName

__all__ = [
    "IMPORTED_PLANNER",
    "LOSS_TERMS",
    "NETWORK_PLANS",
    "OBJECTIVE_PLANS",
    "PREFERRED_CONFIGURATIONS",
    "TRANSFORM_PLANS",
    "BorderWeightedCrossEntropyTerm",
    "BoundaryTerm",
    "CenterlineDiceTerm",
    "ChannelPlan",
    "ClassWeightedTerm",
    "ConfigurationName",
    "ConfigurationPlan",
    "CrossEntropyTerm",
    "Decision",
    "DiceTerm",
    "ExponentialLogarithmicTerm",
    "FocalTerm",
    "ForegroundChoice",
    "ForegroundPlacement",
    "GeneralizedDiceTerm",
    "IntensityWindow",
    "LossTerm",
    "MasksOfPreviousStage",
    "NetworkPlan",
    "NormalizationScheme",
    "ObjectivePlan",
    "PlainUNetPlan",
    "Plan",
    "PreviousStagePlan",
    "RampedTerm",
    "Reason",
    "ResamplingPlan",
    "ResidualEncoderUNetPlan",
    "SegmentationObjective",
    "SquaredDiceTerm",
    "TrainingPlan",
    "TransformPlan",
    "TverskyTerm",
    "UNetFamily",
    "UNetPlan",
    "Value",
    "WeightedCrossEntropyTerm",
    "build_reference_training",
]
