"""Training of a network: batches, losses, optimizer and schedule."""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from autoseg.document import OneOf, Part, suggest_key
from autoseg.plan.augmentation import MirrorPairsPlan, Transforms, find_mirror_axes, find_mirror_pairs
from autoseg.plan.losses import Losses, ObjectivePlan
from autoseg.plan.objectives import OBJECTIVE_PLANS, PlausibilityPlan
from autoseg.plan.values import LARGEST_BATCH, LONGEST_TRAINING, Count, Fraction, NonNegative, Positive

ForegroundPlacement = Literal["centred", "uniform"]
ForegroundChoice = Literal["class", "class_balanced", "component"]


class SchedulePlan(Part):
    """Course of the learning rate after the warm-up; every kind has fields of its own.

    Attributes:
        name: Row of the kind in `SCHEDULE_PLANS` and, of what computes it, in
            `autoseg.training.optimization.schedule.DECAYS`.
    """

    name: str


class PolynomialSchedule(SchedulePlan):
    """(1 - p) ** exponent with the share p of the training that is done; constant within an epoch."""

    name: Literal["polynomial"] = "polynomial"
    exponent: Positive


class CosineSchedule(SchedulePlan):
    """(1 + cos(pi p)) / 2 in every iteration (Loshchilov and Hutter 2017, arXiv:1608.03983)."""

    name: Literal["cosine"] = "cosine"


class ConstantSchedule(SchedulePlan):
    """No decay at all."""

    name: Literal["constant"] = "constant"


class PlateauSchedule(SchedulePlan):
    """Reduction where the mean pseudo Dice of the epochs no longer improves (PyTorch's `ReduceLROnPlateau`).

    Attributes:
        factor: The learning rate is multiplied by it.
        patience_epochs: Epochs without an improvement that are tolerated; one more reduces the rate.
        smallest_improvement: Least difference to the best epoch so far that counts.
    """

    name: Literal["on_plateau"] = "on_plateau"
    factor: Annotated[float, Field(gt=0, lt=1)]
    patience_epochs: Annotated[int, Field(ge=0, le=LONGEST_TRAINING)]
    smallest_improvement: NonNegative


SCHEDULE_PLANS: Final[dict[str, type[SchedulePlan]]] = {
    "polynomial": PolynomialSchedule,
    "cosine": CosineSchedule,
    "constant": ConstantSchedule,
    "on_plateau": PlateauSchedule,
}

OPTIMIZER_MOMENTS: Final[dict[str, tuple[str, ...]]] = {
    "sgd_nesterov": ("momentum",),
    "sgd": ("momentum",),
    "adamw": ("momentum", "second_moment_decay"),
    "adam": ("momentum", "second_moment_decay"),
    "rmsprop": ("momentum", "second_moment_decay"),
}
"""Optimizers, with the fields that are the decay of a moment which they keep of every weight."""
ADAMW: Final[dict[str, Any]] = {
    "optimizer": "adamw",
    "momentum": 0.9,
    "second_moment_decay": 0.999,
    "weight_decay": 0.01,
}
"""Fields of a training by AdamW with its usual values, wherever no paper states others; the learning rate is apart."""
OPTIONAL_MOMENTUM: Final = ("sgd", "rmsprop")  # without it, the moment of the gradient is not kept


def _check_optimizer(name: str) -> str:
    if name not in OPTIMIZER_MOMENTS:
        known = list(OPTIMIZER_MOMENTS)
        msg = f"must be one of {', '.join(known)} (got {name!r}){suggest_key(name, known)}"
        raise ValueError(msg)
    return name


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
        optimizer: "sgd_nesterov" and "sgd": stochastic gradient descent with and without Nesterov's momentum. "adamw"
            and "adam": with decoupled weight decay, and with weight decay as part of the gradient. "rmsprop".
        momentum: Momentum of stochastic gradient descent and RMSprop; for Adam and AdamW the decay of the mean gradient
            (beta 1).
        second_moment_decay: Decay of the mean squared gradient of Adam and AdamW (beta 2) and RMSprop (alpha).
        schedule: Decay of the learning rate from its initial value.
        warmup_iterations: The learning rate rises linearly from zero over the first of them.
        weight_average_decay: Decay of the exponential moving average of the weights that is kept (Polyak and
            Juditsky 1992); 0: the weights themselves are.
        augmentation_end_fraction: Share of the training, at its end, in which patches are no longer changed, but for
            what prediction relies on: mirroring, and mistakes in the masks of a cascade. 0: they always are.
        transforms: Random changes of training patches, in the order in which they are applied.
        synthetic_fraction: Probability with which a sample comes from a synthetic case, in a training that takes them
            (`autoseg train --synthetic`). 0.5, a guess, in plans of earlier versions.
        synthetic_end_fraction: Share of the training, at its end, in which synthetic cases no longer take part. 0: they
            always do, as in plans of earlier versions.
        plausibility: The label autoencoder that is trained before, for the plausibility of predictions alone; None
            without one, as in plans of earlier versions.
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
    optimizer: Annotated[str, AfterValidator(_check_optimizer)]
    initial_learning_rate: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]
    second_moment_decay: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegative
    schedule: Annotated[SchedulePlan, OneOf(SCHEDULE_PLANS, "name")]
    warmup_iterations: Annotated[int, Field(ge=0, le=LONGEST_TRAINING)]
    weight_average_decay: Annotated[float, Field(ge=0, lt=1)]
    gradient_norm_limit: Positive
    augmentation_end_fraction: Fraction
    transforms: Transforms
    synthetic_fraction: Fraction = 0.5
    synthetic_end_fraction: Fraction = 0.0
    plausibility: PlausibilityPlan | None = None

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Axes of the patch that training flips, and over whose mirrored views prediction averages."""
        return find_mirror_axes(self.transforms)

    @property
    def mirror_pairs(self) -> MirrorPairsPlan | None:
        """The axis along which flipping exchanges labels, and their pairs; None where it exchanges none."""
        return find_mirror_pairs(self.transforms)

    @property
    def moment_count(self) -> int:
        """Number of moments that the optimizer keeps of every weight."""
        keeps_all = self.momentum > 0 or self.optimizer not in OPTIONAL_MOMENTUM
        return len(OPTIMIZER_MOMENTS[self.optimizer]) - (0 if keeps_all else 1)

    @model_validator(mode="after")
    def _check(self) -> "TrainingPlan":
        if self.optimizer == "sgd_nesterov" and self.momentum == 0:
            msg = "momentum must be above 0 for the optimizer 'sgd_nesterov'"
            raise ValueError(msg)
        return self
