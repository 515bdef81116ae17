"""Length, loss and optimizer of the training."""

from typing import Final

from autoseg.plan.augmentation import TransformPlan
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.losses import ObjectivePlan
from autoseg.plan.network import (
    DetectorPlan,
    DiffusionUNetPlan,
    LatentDiffusionPlan,
    MaskRcnnPlan,
    NetworkPlan,
    PointRendPlan,
)
from autoseg.plan.objectives import DenoisingObjective, LatentDiffusionObjective, MaskRcnnObjective, PointRendObjective
from autoseg.plan.reference import build_reference_training
from autoseg.plan.training import ADAMW, TrainingPlan
from planners.reasons import record
from planners.rules.detection import BOXES, choose_detection

SCHEDULE_REASON: Final = Reason(
    subject="training",
    value="1000 epochs of 250 iterations, SGD with Nesterov momentum 0.99",
    because=(
        "the schedule of the nnU-Net paper for every dataset: learning rate 0.01 * (1 - epoch / 1000) ** 0.9, weight "
        "decay 3e-05, gradients cut at norm 12, Dice and cross entropy, 33 % of a batch centred on foreground"
    ),
)

AUTOENCODER_ITERATIONS: Final = 1000
LAST_STEP_FRACTION: Final = 0.5  # guess
OBJECTS_LEARNING_RATE: Final = 1e-3  # guess; SGD with 0.02 as published, for the weights of ImageNet
DIFFUSION_LEARNING_RATE: Final = 3e-4  # guess
PUBLISHED_LEARNING_RATE: Final = 1e-5  # SDSeg, for the weights of Stable Diffusion
PARTLY_PUBLISHED_LEARNING_RATE: Final = 1e-4  # guess, where the denoiser has none of them
CANDIDATES_PER_POINT: Final = 3  # as published, as is the next
UNCERTAIN_FRACTION: Final = 0.75
SAMPLE_DICE_WEIGHT: Final = 3.0
"""The Dice counts each of 3 times as many voxels as the cross entropy, so this is the ratio of the usual loss."""
SUFFICIENT_ITERATIONS: Final = 2000
"""Measured: between the 545 that are clearly too few and the 8,900 that are enough on Hippocampus; harder data need
more, so this is a least."""
SUFFICIENT_REASON: Final = Reason(
    subject="iterations needed",
    value=f"at least {SUFFICIENT_ITERATIONS:,}",
    because=(
        "by this schedule 104 iterations give a mean Dice of 0.000 on Hippocampus, 545 of 0.851 and 8,900 of 0.886 "
        "(380 of nnU-Net: 0.848); scores after less than half of this number get a warning, and no budget for less "
        "than a tenth is accepted"
    ),
)


def build_training(*, batch_size: int, batch_dice: bool, transforms: tuple[TransformPlan, ...]) -> TrainingPlan:
    """Builds the reference's training, with the number of iterations that was measured to suffice."""
    return build_reference_training(
        batch_size=batch_size,
        batch_dice=batch_dice,
        transforms=transforms,
        sufficient_iterations=SUFFICIENT_ITERATIONS,
    )


def choose_objective(training: TrainingPlan, network: NetworkPlan) -> Decision[TrainingPlan]:
    """Chooses the objective that a network needs, with the optimizer of its paper."""
    if isinstance(network, LatentDiffusionPlan):
        return _choose_latent_estimation(training, network)
    if isinstance(network, DiffusionUNetPlan):
        return _choose_denoising(training)
    if isinstance(network, PointRendPlan):
        return _choose_points(training)
    if isinstance(network, DetectorPlan):
        return choose_detection(training)
    if isinstance(network, MaskRcnnPlan):
        return _choose_objects(training)
    return Decision(training, "logits are compared with labels")


def _choose_latent_estimation(training: TrainingPlan, network: LatentDiffusionPlan) -> Decision[TrainingPlan]:
    if network.pretrained is not None:
        return _choose_published_estimation(training, network)
    objective = LatentDiffusionObjective(
        latent_weight=1.0,
        noise_weight=1.0,
        last_step_fraction=LAST_STEP_FRACTION,
        segmentation_weight=1.0,
        autoencoder_iterations=AUTOENCODER_ITERATIONS,
    )
    because = (
        f"a label autoencoder is trained first, from label maps alone, in {AUTOENCODER_ITERATIONS:,} iterations or a "
        f"fifth of a budget; then the difference of latents is trained as in SDSeg, and that of the decoded latents by "
        f"the loss; half of the samples have the noise of the last step, from which prediction begins (guess)"
    )
    return Decision(_change_to_diffusion(training, objective), because)


def _choose_published_estimation(training: TrainingPlan, network: LatentDiffusionPlan) -> Decision[TrainingPlan]:
    is_whole = network.estimate == "noise"
    objective = LatentDiffusionObjective(
        latent_weight=1.0,
        noise_weight=1.0,
        last_step_fraction=0.0 if is_whole else LAST_STEP_FRACTION,
        segmentation_weight=0.0,
        autoencoder_iterations=AUTOENCODER_ITERATIONS,
    )
    rate = PUBLISHED_LEARNING_RATE if is_whole else PARTLY_PUBLISHED_LEARNING_RATE
    source = "as published" if is_whole else "a guess: the denoiser begins with random weights"
    because = (
        f"the autoencoder has the weights of the file and is not trained; the differences of latents and noise are, "
        f"as in SDSeg, and no loss of decoded latents, whose decoder would need most of the memory; learning rate "
        f"{rate:g} ({source})"
    )
    return Decision(_change_to_diffusion(training, objective, rate), because)


def _choose_denoising(training: TrainingPlan) -> Decision[TrainingPlan]:
    objective = DenoisingObjective(
        estimate_weight=1.0, segmentation_weight=1.0, last_step_fraction=LAST_STEP_FRACTION, image_dropout=0.0
    )
    because = (
        f"the squared difference of the bits is trained as in diffusion, and that of their logits by the loss (weights "
        f"are guesses); a share of {LAST_STEP_FRACTION:g} of the samples has the noise of the last step, from which "
        f"prediction begins (guess)"
    )
    return Decision(_change_to_diffusion(training, objective), because)


def _change_to_diffusion(
    training: TrainingPlan, objective: ObjectivePlan, learning_rate: float = DIFFUSION_LEARNING_RATE
) -> TrainingPlan:
    """Changes the objective, and the optimizer of the reference to that of the papers."""
    changes: dict[str, object] = {"objective": objective}
    if training.optimizer == "sgd_nesterov":
        changes |= {
            **ADAMW,
            "initial_learning_rate": learning_rate,
            "weight_average_decay": 0.999,
            "warmup_iterations": 1000,
        }
    return training.model_copy(update=changes)


def _choose_points(training: TrainingPlan) -> Decision[TrainingPlan]:
    objective = PointRendObjective(
        candidates_per_point=CANDIDATES_PER_POINT,
        uncertain_fraction=UNCERTAIN_FRACTION,
        point_weight=1.0,
        sample_dice_weight=SAMPLE_DICE_WEIGHT,
    )
    because = (
        f"as published: the loss of the coarse map, and the cross entropy of points: {UNCERTAIN_FRACTION:.0%} are the "
        f"most uncertain of {CANDIDATES_PER_POINT} times as many voxels, the others are drawn uniformly; "
        f"beside it {SAMPLE_DICE_WEIGHT:g} times the Dice of the loss, if it has one, of these voxels as they are "
        f"predicted, as cross entropy alone answers thin structures by background too often"
    )
    return Decision(training.model_copy(update={"objective": objective}), because)


def _choose_objects(training: TrainingPlan) -> Decision[TrainingPlan]:
    objective = MaskRcnnObjective(**BOXES, class_weight=1.0, offset_weight=1.0, mask_weight=1.0)
    because = (
        "as published: the losses of class, box and mask of regions count alike; proposals are trained as boxes of a "
        "detector (YOLOv6), with its weights, in place of anchors"
    )
    changes: dict[str, object] = {"objective": objective}
    if training.optimizer == "sgd_nesterov":
        changes |= {**ADAMW, "initial_learning_rate": OBJECTS_LEARNING_RATE}
        because += f"; AdamW with a learning rate of {OBJECTS_LEARNING_RATE:g}, since weights begin at random (guess)"
    return Decision(training.model_copy(update=changes), because)


def list_objective_reasons(name: str, training: Decision[TrainingPlan]) -> tuple[Reason, ...]:
    """Lists the reason of an objective that is not the usual one."""
    objective = training.value.objective.name
    return () if objective == "segmentation" else (record(f"{name}: objective", training, objective),)
