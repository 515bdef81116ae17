"""The training of the reference implementation, nnU-Net v2, in the terms of a plan."""

from autoseg.plan.augmentation import TransformPlan
from autoseg.plan.losses import CrossEntropyTerm, DiceTerm, SegmentationObjective
from autoseg.plan.training import TrainingPlan


def build_reference_training(
    *,
    batch_size: int,
    batch_dice: bool,
    transforms: tuple[TransformPlan, ...],
    sufficient_iterations: int | None = None,
) -> TrainingPlan:
    """The training of the class nnUNetTrainer (release 2.8.1), the same for every dataset.

    Source: Isensee et al. 2021 ("fixed parameters"); the gradient's norm limit is that of the code.
    """
    return TrainingPlan(
        epochs=1000,
        iterations_per_epoch=250,
        validation_iterations_per_epoch=50,
        budget_seconds=None,
        sufficient_iterations=sufficient_iterations,
        batch_size=batch_size,
        foreground_fraction=0.33,
        foreground_placement="centred",
        foreground_choice="class",
        losses=(DiceTerm(weight=1.0, batch_dice=batch_dice), CrossEntropyTerm(weight=1.0)),
        objective=SegmentationObjective(),
        optimizer="sgd_nesterov",
        initial_learning_rate=0.01,
        momentum=0.99,
        second_moment_decay=0.999,
        weight_decay=3e-5,
        schedule="polynomial",
        schedule_exponent=0.9,
        warmup_iterations=0,
        weight_average_decay=0.0,
        gradient_norm_limit=12.0,
        transforms=transforms,
    )
