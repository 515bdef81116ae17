"""A planner: decides as the default one, and then for the parts of this folder; a cascade of equal resolutions."""

from dataclasses import dataclass

from foreground import ForegroundOfPreviousStage
from offset import OffsetPlan
from perturbed import PerturbedObjective
from power_error import PowerErrorTerm
from twin_heads import TwinHeadsPlan

from autoseg.fingerprint import Fingerprint, Machine
from autoseg.network_cost import MeasureCost
from autoseg.plan.decisions import Reason
from autoseg.plan.document import ConfigurationPlan, Plan
from autoseg.plan.losses import DiceTerm
from autoseg.plan.reference import REFERENCE_MASK_TRANSFORMS
from autoseg.plan.training import TrainingPlan
from planners.default import DEFAULT
from planners.rules.cascade import CASCADE, FULL_RESOLUTION

REASON = Reason(subject="parts", value="those of the test", because="they are to be tried")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendedPlanner:
    name: str = "extended"
    description: str = "A part of every kind that autoseg does not have."
    measures_throughput: bool = False

    def plan(self, fingerprint: Fingerprint, machine: Machine, *, measure_cost: MeasureCost | None = None) -> Plan:
        plan = DEFAULT.plan(fingerprint, machine, measure_cost=measure_cost)
        first = replace_parts(plan.configurations[FULL_RESOLUTION])
        second = add_stage(first, ForegroundOfPreviousStage(configuration=FULL_RESOLUTION), plan)
        configurations = {FULL_RESOLUTION: first, CASCADE: second}
        reasons = (*plan.reasons, REASON)
        return plan.model_copy(update={"planner": self.name, "configurations": configurations, "reasons": reasons})


def replace_parts(configuration: ConfigurationPlan) -> ConfigurationPlan:
    before = configuration.network
    network = TwinHeadsPlan(
        dimensions=before.dimensions,
        input_channels=before.input_channels,
        output_channels=before.output_channels,
        features=8,
    )
    return configuration.model_copy(update={"network": network, "training": replace_training(configuration.training)})


def replace_training(training: TrainingPlan) -> TrainingPlan:
    kept = tuple(transform for transform in training.transforms if transform.name in ("spatial", "mirror"))
    return training.model_copy(
        update={
            "epochs": 2,
            "iterations_per_epoch": 50,
            "validation_iterations_per_epoch": 2,
            "batch_size": 2,
            "losses": (DiceTerm(weight=1.0, batch_dice=True), PowerErrorTerm(weight=0.5, exponent=2.0)),
            "objective": PerturbedObjective(noise_std=0.1),
            "transforms": (*kept, OffsetPlan(probability=0.5, limit=0.2)),
            "weight_average_decay": 0.5,
        }
    )


def add_stage(first: ConfigurationPlan, previous: ForegroundOfPreviousStage, plan: Plan) -> ConfigurationPlan:
    channels = first.network.input_channels + previous.count_channels(plan.labels)
    transforms = (*first.training.transforms, *REFERENCE_MASK_TRANSFORMS)
    return first.model_copy(
        update={
            "previous_stage": previous,
            "network": first.network.model_copy(update={"input_channels": channels}),
            "training": first.training.model_copy(update={"transforms": transforms}),
        }
    )
