"""Training of a network: batches, losses, optimizer and schedule."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from autoseg.document import OneOf, Part
from autoseg.plan.augmentation import Transforms, find_mirror_axes
from autoseg.plan.losses import OBJECTIVE_PLANS, Losses, ObjectivePlan
from autoseg.plan.values import LARGEST_BATCH, LONGEST_TRAINING, Count, Fraction, NonNegative, Positive

ForegroundPlacement = Literal["centred", "uniform"]
ForegroundChoice = Literal["class", "class_balanced", "component"]


class TrainingPlan(Part):
    """Training of a network.

    Attributes:
        epochs: Length of the schedule where no budget is given.
        budget_seconds: Time for training and validating one fold, by which epochs and iterations are laid out on the
            machine that trains; None: they are as planned.
        sufficient_iterations: Needed at least to be of use; warnings and refusals go by it. None: not known.
        foreground_fraction: Share of the patches of a batch that are chosen by a foreground voxel.
        foreground_placement: Position of that voxel in its patch: at the centre, or anywhere with equal probability.
        foreground_choice: Rule that draws that voxel. "class": of a random class of a random case. "class_balanced": a
            class of all that the fold has first, then a case that shows it. "component": of a random connected
            component of a random class of a random case, so that small lesions count as much as large ones.
        losses: Terms of the loss, whose weighted sum is minimized.
        objective: The objective, which computes the loss of a batch.
        momentum: Momentum of stochastic gradient descent; for AdamW the decay of the mean gradient (beta 1).
        second_moment_decay: Decay of the mean squared gradient of AdamW (beta 2).
        schedule: Decay of the learning rate from its initial value to zero with the share p of the training that is
            done. "polynomial": (1 - p) ** exponent, constant within an epoch. "cosine": (1 + cos(pi p)) / 2 in every
            iteration (Loshchilov and Hutter 2017, arXiv:1608.03983). "constant": not at all.
        warmup_iterations: The learning rate rises linearly from zero over the first of them.
        weight_average_decay: Decay of the exponential moving average of the weights that is kept (Polyak and
            Juditsky 1992); 0: the weights themselves are.
        transforms: Random changes of training patches, in the order in which they are applied.
    """

    epochs: Count
    iterations_per_epoch: Count
    validation_iterations_per_epoch: Count
    budget_seconds: Positive | None
    sufficient_iterations: Count | None
    batch_size: Annotated[int, Field(ge=1, le=LARGEST_BATCH)]
    foreground_fraction: Fraction
    foreground_placement: ForegroundPlacement
    foreground_choice: ForegroundChoice
    losses: Losses
    objective: Annotated[ObjectivePlan, OneOf(OBJECTIVE_PLANS, "name")]
    optimizer: Literal["sgd_nesterov", "adamw"]
    initial_learning_rate: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]
    second_moment_decay: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegative
    schedule: Literal["polynomial", "cosine", "constant"]
    schedule_exponent: Positive
    warmup_iterations: Annotated[int, Field(ge=0, le=LONGEST_TRAINING)]
    weight_average_decay: Annotated[float, Field(ge=0, lt=1)]
    gradient_norm_limit: Positive
    transforms: Transforms

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Axes of the patch that training flips, and over whose mirrored views prediction averages."""
        return find_mirror_axes(self.transforms)

    @model_validator(mode="after")
    def _check(self) -> "TrainingPlan":
        if self.optimizer == "sgd_nesterov" and self.momentum == 0:
            msg = "momentum must be above 0 for the optimizer 'sgd_nesterov'"
            raise ValueError(msg)
        return self
