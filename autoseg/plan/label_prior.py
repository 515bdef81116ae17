"""The training of a label autoencoder, which follows from the plan of the configuration that needs it."""

from math import ceil
from typing import Final

from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.losses import CrossEntropyTerm, DiceTerm
from autoseg.plan.network.base import NetworkPlan
from autoseg.plan.objectives import LatentDiffusionObjective, ReconstructionObjective, ShapePriorObjective
from autoseg.plan.training import ADAMW, CosineSchedule

ITERATIONS_PER_EPOCH: Final = 50
VALIDATION_ITERATIONS_PER_EPOCH: Final = 5
LEARNING_RATE: Final = 2e-3  # of AdamW; guess
WEIGHT_AVERAGE_DECAY: Final = 0.99  # about the last 100 iterations
GEOMETRIC_TRANSFORMS: Final = frozenset({"spatial", "deformation", "mirror", "mirror_pairs"})


def find_label_autoencoder(plan: ConfigurationPlan) -> tuple[NetworkPlan, int] | None:
    """Finds the label autoencoder that the training of a configuration needs, and for how many iterations it trains.

    One with the weights of a file is not trained.
    """
    objective = plan.training.objective
    if isinstance(objective, LatentDiffusionObjective):
        autoencoder = plan.network.find_label_autoencoder()
        if autoencoder is None or plan.network.find_pretrained() is not None:
            return None
        return autoencoder, objective.autoencoder_iterations
    if isinstance(objective, ShapePriorObjective) and objective.shape_prior_weight > 0:
        return objective.autoencoder, objective.autoencoder_iterations
    return None


def plan_autoencoder_training(plan: ConfigurationPlan) -> ConfigurationPlan | None:
    """Plans the training of the label autoencoder that a configuration needs; None if it needs none.

    It sees the patches of the configuration, with the same rotations, scaling and mirroring.
    """
    found = find_label_autoencoder(plan)
    if found is None:
        return None
    autoencoder, iterations = found
    training = plan.training.model_copy(
        update={
            "objective": ReconstructionObjective(),
            "losses": (DiceTerm(weight=1.0, batch_dice=True), CrossEntropyTerm(weight=1.0)),
            "epochs": ceil(iterations / ITERATIONS_PER_EPOCH),
            "iterations_per_epoch": min(iterations, ITERATIONS_PER_EPOCH),
            "validation_iterations_per_epoch": VALIDATION_ITERATIONS_PER_EPOCH,
            "budget_seconds": None,
            "sufficient_iterations": None,
            **ADAMW,
            "initial_learning_rate": LEARNING_RATE,
            "schedule": CosineSchedule(),
            "warmup_iterations": min(iterations, ITERATIONS_PER_EPOCH),
            "weight_average_decay": WEIGHT_AVERAGE_DECAY,
            "transforms": tuple(row for row in plan.training.transforms if row.name in GEOMETRIC_TRANSFORMS),
        }
    )
    return plan.model_copy(update={"network": autoencoder, "training": training, "previous_stage": None})
