"""Decisions of a plan by time that follow from the chosen network: augmentation, training, and their reasons."""

import re
from typing import Final

from autoseg.plan.augmentation import TransformPlan
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.losses import CrossEntropyTerm, DiceTerm, SegmentationObjective
from autoseg.plan.training import ADAMW, CosineSchedule, TrainingPlan
from planners.reasons import format_count, format_extents, record
from planners.rules.augmentation import choose_augmentation, describe_rotation
from planners.rules.batch_dice import choose_batch_dice
from planners.rules.patch_size import choose_border
from planners.rules.resampling import choose_resampling
from planners.rules.topology import choose_deep_supervision
from planners.rules.training import choose_objective, list_objective_reasons
from planners.timed.budget import SUFFICIENT_ITERATIONS
from planners.timed.candidates import Candidate, Situation
from planners.timed.mirroring import choose_mirroring

EPOCHS: Final = 1000
ITERATIONS_PER_EPOCH: Final = 250
VALIDATION_ITERATIONS_PER_EPOCH: Final = 10
AVERAGE_DECAY: Final = 0.999
STRENGTH: Final = (
    "at full strength to the end, whatever the length of the training: without, the mean Dice on Hippocampus was 0.880 "
    "instead of 0.876 after 800 iterations, about as much as chance, and longer trainings need it against overfitting"
)


def build_configuration(
    name: str, decision: Decision[Candidate], situation: Situation
) -> tuple[ConfigurationPlan, tuple[Reason, ...]]:
    """Builds the configuration of the chosen network with everything that follows from it."""
    chosen, fingerprint = decision.value, situation.fingerprint
    topology = chosen.topology
    supervision = choose_deep_supervision(topology)
    batch_dice = choose_batch_dice(
        topology.patch_voxels, chosen.dataset.median_shape_voxels, has_coarser_configuration=False
    )
    mirroring = choose_mirroring(fingerprint, situation.axis_permutation, len(topology.patch_voxels))
    augmentation = choose_timed_augmentation(topology.patch_voxels, mirroring)
    resampling = choose_resampling(chosen.dataset.spacing_mm, chosen.dataset.distance_unit)
    border = choose_border(chosen.network)
    training = choose_objective(
        build_timed_training(
            situation, batch_size=chosen.batch.value, batch_dice=batch_dice.value, transforms=augmentation.value
        ),
        chosen.network,
    )
    plan = ConfigurationPlan(
        dimensions=chosen.network.dimensions,
        spacing_mm=chosen.dataset.spacing_mm,
        median_shape_voxels=chosen.dataset.median_shape_voxels,
        patch_voxels=topology.patch_voxels,
        border=border.value,
        previous_stage=None,
        data_of=name,
        resampling=resampling.value,
        network=chosen.network,
        training=training.value,
    )
    head = None if situation.head is None else situation.head.explain(chosen.network)
    halved = " x ".join(str(divisor) for divisor in topology.divisors)
    pooling = situation.topology.explain(topology, chosen.dataset.spacing_mm, chosen.dataset.distance_unit)
    reasons = (
        record(f"{name}: network", decision, _describe(chosen)),
        record(f"{name}: batch", chosen.batch, str(chosen.batch.value)),
        record(f"{name}: topology", pooling, f"{topology.stage_count} stages, divided by {halved}"),
        record(f"{name}: deep supervision", supervision, "yes" if supervision.value else "no"),
        *([] if head is None else [record(f"{name}: head", head, chosen.network.describe()["head"])]),
        *([] if border.value == "zeros" else [record(f"{name}: border", border, border.value)]),
        explain_training(chosen.iterations),
        record(f"{name}: batch Dice", batch_dice, "yes" if batch_dice.value else "no"),
        *list_objective_reasons(name, training),
        record(f"{name}: augmentation", augmentation, describe_rotation(augmentation.value)),
        record(f"{name}: resampling", resampling, "cubic images, linear labels and logits"),
    )
    return plan, reasons


def choose_timed_augmentation(
    patch_voxels: tuple[int, ...], mirroring: Decision[tuple[TransformPlan, ...]]
) -> Decision[tuple[TransformPlan, ...]]:
    """Chooses the default augmentation, with the chosen mirroring in place of that along every axis."""
    usual = choose_augmentation(patch_voxels)
    transforms: list[TransformPlan] = []
    for transform in usual.value:
        transforms += mirroring.value if transform.name == "mirror" else (transform,)
    return Decision(tuple(transforms), f"{usual.because.partition('; all ')[0]}; {mirroring.because}; {STRENGTH}")


def explain_training(iterations: int) -> Reason:
    """Explains optimizer, schedule and moving average.

    Args:
        iterations: Iterations that fit into the time.
    """
    return Reason(
        subject="training",
        value="AdamW, cosine, moving average of weights",
        because=(
            f"with few iterations, here at most {format_count(iterations)}, AdamW (learning rate 0.001, rising over "
            f"100 iterations, then falling as a cosine) learns faster than stochastic gradient descent: a mean Dice of "
            f"0.876 against 0.872 after 800 on Hippocampus; the moving average of the weights (decay {AVERAGE_DECAY}, "
            f"so about the last {format_count(1 / (1 - AVERAGE_DECAY))} iterations) costs nothing (0.876 there without "
            f"it, too), steadies what is validated and takes the place of a long fall; epochs are laid out by the "
            f"budget when training begins"
        ),
    )


def build_timed_training(
    situation: Situation, *, batch_size: int, batch_dice: bool, transforms: tuple[TransformPlan, ...]
) -> TrainingPlan:
    """Builds the training that was measured to be best on a CPU in 8 to 30 minutes, and on a GPU in 4 to 5."""
    return TrainingPlan(
        epochs=EPOCHS,
        iterations_per_epoch=ITERATIONS_PER_EPOCH,
        validation_iterations_per_epoch=VALIDATION_ITERATIONS_PER_EPOCH,
        budget_seconds=situation.training_seconds,
        sufficient_iterations=SUFFICIENT_ITERATIONS,
        batch_size=batch_size,
        foreground_fraction=0.33,
        foreground_placement="centred",
        foreground_choice="class",
        losses=(DiceTerm(weight=1.0, batch_dice=batch_dice), CrossEntropyTerm(weight=1.0)),
        objective=SegmentationObjective(),
        **ADAMW,
        initial_learning_rate=1e-3,
        schedule=CosineSchedule(),
        warmup_iterations=100,
        weight_average_decay=AVERAGE_DECAY,
        gradient_norm_limit=12.0,
        augmentation_end_fraction=0.0,
        synthetic_end_fraction=0.5,
        transforms=transforms,
    )


def _describe(candidate: Candidate) -> str:
    patch = format_extents(candidate.topology.patch_voxels)
    features = re.sub(r"(?<=\d) (?=\d)", ", ", candidate.network.describe()["features"])
    return f"patch {patch} voxels, batch {candidate.batch.value}, features {features}"
