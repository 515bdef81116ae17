"""The training of a label autoencoder, which follows from the plan of the configuration that needs it."""

from math import ceil, prod
from typing import Any, Final

from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.losses import CrossEntropyTerm, DiceTerm
from autoseg.plan.network.base import NetworkPlan
from autoseg.plan.network.label_autoencoder import LabelAutoencoderPlan
from autoseg.plan.network.latent_diffusion import LatentDiffusionPlan
from autoseg.plan.objectives import (
    LatentDiffusionObjective,
    PlausibilityPlan,
    ReconstructionObjective,
    ShapePriorObjective,
)
from autoseg.plan.training import ADAMW, CosineSchedule

ITERATIONS_PER_EPOCH: Final = 50
VALIDATION_ITERATIONS_PER_EPOCH: Final = 5
LEARNING_RATE: Final = 2e-3  # of AdamW; guess
WEIGHT_AVERAGE_DECAY: Final = 0.99  # about the last 100 iterations
GEOMETRIC_TRANSFORMS: Final = frozenset({"spatial", "deformation", "mirror", "mirror_pairs"})


def find_label_autoencoder(plan: ConfigurationPlan) -> tuple[NetworkPlan, int] | None:
    """Finds the label autoencoder that is trained before the network of a configuration, and for how many iterations.

    One with the weights of a file is not trained.
    """
    objective, beside = plan.training.objective, find_autoencoder_beside(plan)
    if isinstance(objective, LatentDiffusionObjective):
        autoencoder = plan.network.find_label_autoencoder()
        if autoencoder is None or plan.network.find_pretrained() is not None:
            return None
        return autoencoder, objective.autoencoder_iterations
    if beside is None or (isinstance(beside, ShapePriorObjective) and beside.shape_prior_weight == 0):
        return None
    return beside.autoencoder, beside.autoencoder_iterations


def find_autoencoder_beside(plan: ConfigurationPlan) -> ShapePriorObjective | PlausibilityPlan | None:
    """Finds what has a label autoencoder that is no part of the network, but lies beside it in checkpoints."""
    objective = plan.training.objective
    return objective if isinstance(objective, ShapePriorObjective) else plan.training.plausibility


def plan_autoencoder_training(plan: ConfigurationPlan) -> ConfigurationPlan | None:
    """Plans the training of the label autoencoder of a configuration; None if it has none that is trained.

    It sees the patches of the configuration, with the same rotations, scaling and mirroring. The previous stage stays
    only where it makes the label maps, as of one class at a time.
    """
    found = find_label_autoencoder(plan)
    if found is None:
        return None
    autoencoder, iterations = found
    training = plan.training.model_copy(
        update={
            "objective": ReconstructionObjective(),
            "plausibility": None,
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
    previous = plan.previous_stage if plan.is_class_by_class else None
    return plan.model_copy(update={"network": autoencoder, "training": training, "previous_stage": previous})


def name_autoencoder_field(plan: ConfigurationPlan) -> str:
    """Names the field of the training that says how long the label autoencoder of a configuration is trained."""
    return "objective" if plan.training.plausibility is None else "plausibility"


def refine_latents(plan: ConfigurationPlan) -> ConfigurationPlan | None:
    """Returns the configuration whose label autoencoder makes one reduction less; None if it has only one.

    In latent diffusion the denoiser makes that reduction, so that patches stay as they are. It gets one stage more with
    the features of its first.
    """
    beside, network = find_autoencoder_beside(plan), plan.network
    if beside is not None:
        finer = _drop_last_stage(beside.autoencoder)
        if finer is None:
            return None
        changed = {name_autoencoder_field(plan): beside.model_copy(update={"autoencoder": finer})}
        return plan.model_copy(update={"training": plan.training.model_copy(update=changed)})
    assert isinstance(network, LatentDiffusionPlan), "no other configuration has a label autoencoder"
    finer = _drop_last_stage(network.autoencoder)
    if finer is None:
        return None
    stride, denoiser = network.autoencoder.strides[-1], network.denoiser
    deeper = denoiser.model_copy(
        update={
            "features_per_stage": (denoiser.features_per_stage[0], *denoiser.features_per_stage),
            "kernel_sizes": (finer.kernel_sizes[-1], *denoiser.kernel_sizes),
            "strides": (denoiser.strides[0], stride, *denoiser.strides[1:]),
            "attention_stages": tuple(stage + 1 for stage in denoiser.attention_stages),
        }
    )
    changes = {
        "autoencoder": finer,
        "vision_features_per_stage": network.vision_features_per_stage[:-1],
        "denoiser": deeper,
        "noise_grid": tuple(extent * step for extent, step in zip(network.noise_grid, stride, strict=True)),
    }
    return plan.model_copy(update={"network": network.model_copy(update=changes)})


def _drop_last_stage(autoencoder: LabelAutoencoderPlan) -> LabelAutoencoderPlan | None:
    if prod(prod(stride) for stride in autoencoder.strides[:-1]) == 1:
        return None
    fields = ("features_per_stage", "kernel_sizes", "strides")
    return autoencoder.model_copy(update={field: getattr(autoencoder, field)[:-1] for field in fields})


def list_changed_fields(before: ConfigurationPlan, after: ConfigurationPlan) -> dict[str, tuple[Any, Any]]:
    """Lists the fields of `plan.json` that differ, by their path in the configuration, with both values."""
    return _compare(before.model_dump(mode="json"), after.model_dump(mode="json"), "")


def _compare(before: dict[str, Any], after: dict[str, Any], path: str) -> dict[str, tuple[Any, Any]]:
    changed: dict[str, tuple[Any, Any]] = {}
    for key, old in before.items():
        new = after[key]
        if isinstance(old, dict) and isinstance(new, dict):
            changed |= _compare(old, new, f"{path}{key}.")
        elif old != new:
            changed[f"{path}{key}"] = (old, new)
    return changed
