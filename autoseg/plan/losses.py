"""Loss terms, and the objective that uses them.

One more loss term is one more subclass of `LossTerm` and one more row of `LOSS_TERMS` (its formula: a file and a row in
`autoseg.training.losses`); one more objective likewise (`autoseg.training.objectives`).
"""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator

from autoseg.document import OneOf, Part
from autoseg.plan.values import NonNegative


class LossTerm(Part):
    """One term of the loss: its weight, and the parameters of its kind.

    Attributes:
        name: Tells the kinds apart.
        weight: Factor on the term in the weighted sum.
    """

    name: str
    weight: NonNegative


class DiceTerm(LossTerm):
    """Soft Dice loss.

    Attributes:
        batch_dice: The batch counts as one large volume, not each sample by itself.
    """

    name: Literal["dice"] = "dice"
    batch_dice: bool


class CrossEntropyTerm(LossTerm):
    """Cross entropy over labels; binary cross entropy over regions."""

    name: Literal["cross_entropy"] = "cross_entropy"


LOSS_TERMS: Final[dict[str, type[LossTerm]]] = {"dice": DiceTerm, "cross_entropy": CrossEntropyTerm}


class ObjectivePlan(Part):
    """The function that training minimizes.

    Attributes:
        name: Tells the kinds apart.
    """

    name: str


class SegmentationObjective(ObjectivePlan):
    """The loss terms compare the network's logits with the labels, at every supervised resolution."""

    name: Literal["segmentation"] = "segmentation"


OBJECTIVE_PLANS: Final[dict[str, type[ObjectivePlan]]] = {"segmentation": SegmentationObjective}


def _check_losses(losses: tuple[LossTerm, ...]) -> tuple[LossTerm, ...]:
    if not losses:
        msg = f"must hold at least one loss term, of: {', '.join(LOSS_TERMS)} (got none)"
        raise ValueError(msg)
    if all(term.weight == 0 for term in losses):
        found = ", ".join(f"{term.name} {term.weight:g}" for term in losses)
        msg = f"the weights must not all be 0, or nothing would be learnt (got {found})"
        raise ValueError(msg)
    return losses


Losses = Annotated[tuple[Annotated[LossTerm, OneOf(LOSS_TERMS, "name")], ...], AfterValidator(_check_losses)]
"""At least one term with a weight above 0."""
