"""Loss terms, and the usual objective, which uses them.

One more loss term is one more subclass of `LossTerm` and one more row of `LOSS_TERMS` (its formula: a file and a row in
`autoseg.training.losses`); one more objective likewise (`autoseg.plan.objectives`).
"""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, model_serializer

from autoseg.document import OneOf, Part
from autoseg.labels import LabelScheme
from autoseg.plan.network.base import NetworkPlan
from autoseg.plan.values import NonNegative, Positive

Weights = Annotated[tuple[NonNegative, ...], Field(min_length=1)]
Probabilities = tuple[Annotated[float, Field(gt=0, lt=1)], ...]
SkeletonIterations = Annotated[int, Field(ge=1, le=64)]


class LossTerm(Part):
    """One term of the loss: its weight, and the parameters of its kind.

    Attributes:
        name: Tells the kinds apart.
        weight: Factor on the term in the weighted sum.
    """

    name: str
    weight: NonNegative

    @property
    def needs_instances(self) -> bool:
        """Whether touching objects of the dataset's instance label maps must be separated in preprocessed data."""
        return False

    def compute_weight(self, progress: float) -> float:
        """Computes the factor on the term when a share of the training (0 to 1) is done."""
        del progress
        return self.weight

    @classmethod
    def find_label_problems(cls, labels: LabelScheme) -> tuple[str, ...]:
        """Finds what makes every term of the kind impossible for the labels of a dataset, one phrase each."""
        del labels
        return ()

    def find_problems(self, labels: LabelScheme) -> tuple[str, ...]:
        """Finds what makes the term impossible for the labels of a dataset, one phrase each."""
        return self.find_label_problems(labels)


class RampedTerm(LossTerm):
    """A term whose weight changes linearly over the training.

    Attributes:
        weight: Factor on the term at the beginning of the training.
        final_weight: Factor on the term at its end.
    """

    final_weight: NonNegative

    def compute_weight(self, progress: float) -> float:
        """Interpolates between the two weights."""
        return self.weight + (self.final_weight - self.weight) * progress


class ClassWeightedTerm(LossTerm):
    """A mean over voxels in which classes have different weights.

    Attributes:
        background_weights: Weight of background; for regions one weight for each region, of the voxels outside it.
        class_weights: Weight of every class, label or region.
    """

    background_weights: Weights
    class_weights: Weights

    def find_problems(self, labels: LabelScheme) -> tuple[str, ...]:
        """Compares the numbers of weights and classes, where the kind is possible."""
        if problems := super().find_problems(labels):
            return problems
        count = len(labels.class_names)
        expected = {"background_weights": count if labels.has_regions else 1, "class_weights": count}
        found = {field: len(getattr(self, field)) for field in expected}
        return tuple(
            f"{field} must have {expected[field]} values for classes {', '.join(labels.class_names)} (got {count})"
            for field, count in found.items()
            if count != expected[field]
        )


class DiceTerm(LossTerm):
    """Soft Dice loss.

    Attributes:
        batch_dice: The batch counts as one large volume, not each sample by itself.
    """

    name: Literal["dice"] = "dice"
    batch_dice: bool


class SquaredDiceTerm(LossTerm):
    """Soft Dice loss with squared denominators (V-Net).

    Attributes:
        batch_dice: The batch counts as one large volume, not each sample by itself.
    """

    name: Literal["squared_dice"] = "squared_dice"
    batch_dice: bool


class GeneralizedDiceTerm(RampedTerm):
    """Generalized Dice loss: classes, background included, count by the inverse of their squared volume.

    Attributes:
        batch_dice: The batch counts as one large volume, not each sample by itself.
    """

    name: Literal["generalized_dice"] = "generalized_dice"
    batch_dice: bool


class TverskyTerm(LossTerm):
    """Tversky loss; with an exponent below 1, focal Tversky loss.

    Attributes:
        batch_dice: The batch counts as one large volume, not each sample by itself.
        false_positive_weight: Alpha of the paper; one half for both weights is Dice.
        false_negative_weight: Beta of the paper.
        exponent: Power to which one minus the Tversky index is raised.
        initial_probabilities: Probabilities of background and every class (of every region) with which a new network
            begins, by the biases of its output layers; empty: those of its random weights.
    """

    name: Literal["tversky"] = "tversky"
    batch_dice: bool
    false_positive_weight: NonNegative
    false_negative_weight: Positive
    exponent: Positive
    initial_probabilities: Probabilities = ()


class CrossEntropyTerm(LossTerm):
    """Cross entropy over labels; binary cross entropy over regions."""

    name: Literal["cross_entropy"] = "cross_entropy"


class WeightedCrossEntropyTerm(ClassWeightedTerm):
    """Cross entropy in which classes have different weights."""

    name: Literal["weighted_cross_entropy"] = "weighted_cross_entropy"


class FocalTerm(ClassWeightedTerm):
    """Focal loss.

    Attributes:
        gamma: Exponent on the error of a voxel; 0 is weighted cross entropy.
        initial_probabilities: Probabilities of background and every class (of every region) with which a new network
            begins, by the biases of its output layers; empty: those of its random weights.
    """

    name: Literal["focal"] = "focal"
    gamma: NonNegative
    initial_probabilities: Probabilities = ()


class BorderWeightedCrossEntropyTerm(ClassWeightedTerm):
    """Weighted cross entropy in which background between two objects counts more (U-Net).

    Attributes:
        border_weight: Weight that is added where the two nearest objects touch (w0 of the paper).
        border_sigma_mm: Decrease of that weight with the sum of the distances to the two nearest objects.
        objects: "components": an object is a connected component of a label. "instances": so it is, after background
            was drawn in preprocessing where objects of instancesTr touch.
        object_classes: Class of the objects that each foreground label is a part of; 0 for one that lies between
            objects, as their borders. Empty: every label has objects of its own.
    """

    name: Literal["border_weighted_cross_entropy"] = "border_weighted_cross_entropy"
    border_weight: NonNegative
    border_sigma_mm: Positive
    objects: Literal["components", "instances"] = "components"
    object_classes: tuple[Annotated[int, Field(ge=0, le=2**15 - 1)], ...] = ()

    @model_serializer(mode="wrap")
    def _omit_empty(self, write: Callable[[Part], dict[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if key != "object_classes" or value}

    @property
    def needs_instances(self) -> bool:
        """Whether touching objects of the dataset's instance label maps must be separated in preprocessed data."""
        return self.objects == "instances"

    @classmethod
    def find_label_problems(cls, labels: LabelScheme) -> tuple[str, ...]:
        """Finds regions, whose objects have no common background."""
        return ("works with labels only, not with regions, which may overlap",) if labels.has_regions else ()

    def find_problems(self, labels: LabelScheme) -> tuple[str, ...]:
        """Compares the numbers of object classes and labels, too."""
        problems, expected, found = super().find_problems(labels), len(labels.class_names), len(self.object_classes)
        if problems or found in (0, expected):
            return problems
        return (f"object_classes must have {expected} values, one for each label, or none (got {found})",)


class ExponentialLogarithmicTerm(ClassWeightedTerm):
    """Exponential logarithmic loss: powers of the logarithms of Dice and of probability.

    Attributes:
        batch_dice: The batch counts as one large volume, not each sample by itself.
        dice_weight: Weight of the part made from Dice.
        cross_entropy_weight: Weight of the part made from cross entropy.
        dice_exponent: Exponent of the negative logarithm of Dice.
        cross_entropy_exponent: Exponent of the cross entropy of a voxel.
    """

    name: Literal["exponential_logarithmic"] = "exponential_logarithmic"
    batch_dice: bool
    dice_weight: NonNegative
    cross_entropy_weight: NonNegative
    dice_exponent: Positive
    cross_entropy_exponent: Positive


class BoundaryTerm(RampedTerm):
    """Boundary loss: mean of the probability of a class times the signed distance from its boundary, in mm."""

    name: Literal["boundary"] = "boundary"


class CenterlineDiceTerm(LossTerm):
    """Soft clDice loss: Dice of centre lines, for tubes.

    Attributes:
        batch_dice: The batch counts as one large volume, not each sample by itself.
        skeleton_iterations: Number of erosions of the soft skeleton: at least the largest radius of a tube in voxels.
    """

    name: Literal["cldice"] = "cldice"
    batch_dice: bool
    skeleton_iterations: SkeletonIterations

    @classmethod
    def find_label_problems(cls, labels: LabelScheme) -> tuple[str, ...]:
        """Finds an ignore label: a skeleton depends on the neighbours of every voxel."""
        return () if labels.ignore_label is None else ("works only for data without an ignore label",)


class CentreDistanceTerm(LossTerm):
    """Mean absolute error of the centre distance that is expected of the probabilities of the parts of objects.

    Attributes:
        part_distances: Centre distance of every part of a class, as `InstanceTargets` has them.
    """

    name: Literal["centre_distance"] = "centre_distance"
    part_distances: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=2)]

    def find_problems(self, labels: LabelScheme) -> tuple[str, ...]:
        """Finds labels that are not the parts of classes."""
        count, parts = len(labels.foreground_labels), len(self.part_distances)
        if labels.has_regions or count % parts:
            return (f"needs {parts} labels for every class, as --targets centre_distance plans them (got {count})",)
        return ()


LOSS_TERMS: Final[dict[str, type[LossTerm]]] = {
    "dice": DiceTerm,
    "cross_entropy": CrossEntropyTerm,
    "weighted_cross_entropy": WeightedCrossEntropyTerm,
    "focal": FocalTerm,
    "border_weighted_cross_entropy": BorderWeightedCrossEntropyTerm,
    "squared_dice": SquaredDiceTerm,
    "generalized_dice": GeneralizedDiceTerm,
    "tversky": TverskyTerm,
    "exponential_logarithmic": ExponentialLogarithmicTerm,
    "boundary": BoundaryTerm,
    "cldice": CenterlineDiceTerm,
    "centre_distance": CentreDistanceTerm,
}


class ObjectivePlan(Part):
    """The function that training minimizes.

    Attributes:
        name: Tells the kinds apart.
    """

    name: str

    def find_problem(self, network: NetworkPlan) -> str | None:
        """Finds a reason why the network cannot be trained by the objective; None if it can."""
        wanted = network.required_objective
        if wanted in {None, self.name}:
            return None
        return f"objective must be {wanted!r} for a network of the family {network.family} (got {self.name!r})"


class SegmentationObjective(ObjectivePlan):
    """The loss terms compare the network's logits with the labels, at every supervised resolution."""

    name: Literal["segmentation"] = "segmentation"


def _check_losses(losses: tuple[LossTerm, ...]) -> tuple[LossTerm, ...]:
    if not losses:
        msg = f"must hold at least one loss term, of: {', '.join(LOSS_TERMS)} (got none)"
        raise ValueError(msg)
    if all(term.compute_weight(progress) == 0 for term in losses for progress in (0.0, 1.0)):
        found = ", ".join(f"{term.name} {term.weight:g}" for term in losses)
        msg = f"the weights must not all be 0, or nothing would be learnt (got {found})"
        raise ValueError(msg)
    return losses


Losses = Annotated[tuple[Annotated[LossTerm, OneOf(LOSS_TERMS, "name")], ...], AfterValidator(_check_losses)]
"""At least one term with a weight above 0."""


def list_loss_problems(losses: tuple[LossTerm, ...], labels: LabelScheme) -> tuple[str, ...]:
    """Lists what makes the terms impossible for the labels of a dataset, each with the name of its term."""
    problems = [f"{term.name} {problem}" for term in losses for problem in term.find_problems(labels)]
    expected, found = labels.output_channel_count, len(find_initial_probabilities(losses))
    if found not in (0, expected):
        what = "regions" if labels.has_regions else "background and classes"
        problems.append(f"initial_probabilities must have {expected} values for {what}, or none (got {found})")
    return tuple(problems)


def find_initial_probabilities(losses: tuple[LossTerm, ...]) -> Probabilities:
    """Finds the probabilities with which output layers begin: those of the first term that has any; else none."""
    found: list[Probabilities] = [getattr(term, "initial_probabilities", ()) for term in losses]
    return next((own for own in found if own), ())
