"""Conditions of validation scores: how the validation predicted, and how long its network was trained."""

from typing import Annotated, Final

from pydantic import Field

from autoseg.document import Part

FEWEST_SHARE: Final = 0.1
"""Fraction of the iterations that a plan needs: with fewer, hardly anything was learnt. By the default plan, 104
iterations (5 % of what it needs) give a Dice of 0.000 on Hippocampus, by a lite plan 108 (7 %) give 0.132 on retinal
vessels."""
WARNED_SHARE: Final = 0.5
"""Fraction of the same: with fewer, the network is clearly undertrained. By the default plan, 545 iterations (27 %)
give 0.851 on Hippocampus, 8,900 give 0.886."""
LARGEST_VALIDATION_SHARE: Final = 1 / 3
"""Fraction of a budget: training matters more than an exact validation."""
USUAL_STEP_FRACTION: Final = 0.5

Count = Annotated[int, Field(ge=1)]


class ValidationConditions(Part):
    """Conditions that must be known before scores of a validation are compared with others.

    Attributes:
        mirroring: Whether mirrored views were averaged, if the plan has any.
        step_fraction: Distance of neighbouring windows as a fraction of the patch.
        validated_cases: Number of cases that were predicted and evaluated.
        held_out_cases: Number of held-out cases of the fold; larger than the former if time was short.
        trained_iterations: Number of training iterations of the network.
        sufficient_iterations: Number of iterations that its plan needs at least; None if the plan does not name it.
        box_recall: Fraction of the validated cases whose reference foreground lies wholly in the box of the previous
            stage; None without a box.
        box_share: Share of the image that the box holds, the mean over the validated cases; None without a box, and in
            files of earlier versions.
    """

    mirroring: bool = True
    step_fraction: Annotated[float, Field(gt=0, le=1)] = USUAL_STEP_FRACTION
    validated_cases: Count
    held_out_cases: Count
    trained_iterations: Annotated[int, Field(ge=0)]
    sufficient_iterations: Count | None
    box_recall: Annotated[float, Field(ge=0, le=1)] | None = None
    box_share: Annotated[float, Field(ge=0, le=1)] | None = None

    def list_limits(self) -> tuple[str, ...]:
        """Lists the limits of the validation."""
        return list_limits(
            mirroring=self.mirroring,
            step_fraction=self.step_fraction,
            cases=self.validated_cases,
            held_out_cases=self.held_out_cases,
        )

    def describe_box(self) -> str | None:
        """Describes the boxes of the previous stage; None without a box."""
        if self.box_recall is None or self.box_share is None:
            return None
        return (
            f"box of the previous stage: {self.box_share:.1%} of the image on average, and the whole reference in "
            f"{self.box_recall:.1%} of the cases"
        )

    def list_warnings(self) -> tuple[str, ...]:
        """Lists warnings to be shown beside the scores."""
        limits = self.list_limits()
        limited = f"a limited validation ({'; '.join(limits)}): compare its scores with none of a whole one"
        shortage = describe_shortage(self.trained_iterations, self.sufficient_iterations)
        found = (limited if limits else None, shortage, self._describe_lost_foreground())
        return tuple(text for text in found if text is not None)

    def _describe_lost_foreground(self) -> str | None:
        if self.box_recall is None or self.box_recall == 1:
            return None
        lost = round((1 - self.box_recall) * self.validated_cases)
        return (
            f"in {lost} of {self.validated_cases} cases the reference reaches beyond the box of the previous stage, "
            f"where nothing is predicted: raise previous_stage.margin_mm in plan.json, or train that stage longer"
        )


def list_limits(*, mirroring: bool, step_fraction: float, cases: int, held_out_cases: int) -> tuple[str, ...]:
    """Lists the limits of a validation; empty for a full one."""
    limits = {
        f"{cases} of {held_out_cases} held-out cases": cases < held_out_cases,
        "no mirrored views": not mirroring,
        f"windows {step_fraction:g} of a patch apart instead of {USUAL_STEP_FRACTION:g}": (
            step_fraction > USUAL_STEP_FRACTION
        ),
    }
    return tuple(text for text, is_true in limits.items() if is_true)


def is_hopeless(iterations: int, sufficient: int | None) -> bool:
    """Returns whether a training has too few iterations to be of any use."""
    return sufficient is not None and iterations < FEWEST_SHARE * sufficient


def describe_shortage(iterations: int, sufficient: int | None) -> str | None:
    """Returns a warning about a training of too few iterations; None if they suffice."""
    if sufficient is None or iterations >= WARNED_SHARE * sufficient:
        return None
    trained = "1 iteration is" if iterations == 1 else f"{iterations:,} iterations are"
    return (
        f"{trained} {100 * iterations / sufficient:.0f} % of the {sufficient:,} that the plan needs at least: this is "
        f"not what the network can learn"
    )
