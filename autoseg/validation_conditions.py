"""Under which conditions scores were made: how a validation predicted, and how long its network was trained."""

from typing import Annotated, Final

from pydantic import Field

from autoseg.document import Part

FEWEST_SHARE: Final = 0.1
"""Of the iterations that a plan needs: with fewer, nothing worth a name was learnt. By the default plan, 104 iterations
(5 % of what it needs) give a Dice of 0.000 on Hippocampus, by a lite plan 108 (7 %) give 0.132 on retinal vessels."""
WARNED_SHARE: Final = 0.5
"""Of the same: with fewer, much of what the network can learn is missing. By the default plan, 545 iterations (27 %)
give 0.851 on Hippocampus, 8,900 give 0.886."""
LARGEST_VALIDATION_SHARE: Final = 1 / 3
"""Of a budget: a model that is measured well and trained badly is of no use."""
USUAL_STEP_FRACTION: Final = 0.5

Count = Annotated[int, Field(ge=1)]


class ValidationConditions(Part):
    """What must be known before scores of a validation are compared with others.

    Attributes:
        mirroring: Whether mirrored views were averaged, where the plan has any.
        step_fraction: Distance of neighbouring windows as a fraction of the patch.
        validated_cases: That were predicted and evaluated.
        held_out_cases: Of the fold; more than the former where time was short.
        trained_iterations: Of the network.
        sufficient_iterations: That its plan needs at least; None where the plan does not say.
    """

    mirroring: bool = True
    step_fraction: Annotated[float, Field(gt=0, le=1)] = USUAL_STEP_FRACTION
    validated_cases: Count
    held_out_cases: Count
    trained_iterations: Annotated[int, Field(ge=0)]
    sufficient_iterations: Count | None

    @property
    def is_limited(self) -> bool:
        """Whether time cost the validation cases, mirrored views or overlap."""
        return self.list_limits() != ()

    def list_limits(self) -> tuple[str, ...]:
        """What it did without, in words."""
        return list_limits(
            mirroring=self.mirroring,
            step_fraction=self.step_fraction,
            cases=self.validated_cases,
            held_out_cases=self.held_out_cases,
        )

    def list_warnings(self) -> tuple[str, ...]:
        """What must be said beside the scores."""
        limits = self.list_limits()
        limited = f"a limited validation ({'; '.join(limits)}): compare its scores with none of a whole one"
        shortage = describe_shortage(self.trained_iterations, self.sufficient_iterations)
        return (*([limited] if limits else []), *([] if shortage is None else [shortage]))


def list_limits(*, mirroring: bool, step_fraction: float, cases: int, held_out_cases: int) -> tuple[str, ...]:
    """What a validation does without, in words; nothing for a whole one."""
    limits = {
        f"{cases} of {held_out_cases} held-out cases": cases < held_out_cases,
        "no mirrored views": not mirroring,
        f"windows {step_fraction:g} of a patch apart instead of {USUAL_STEP_FRACTION:g}": (
            step_fraction > USUAL_STEP_FRACTION
        ),
    }
    return tuple(text for text, is_true in limits.items() if is_true)


def is_hopeless(iterations: int, sufficient: int | None) -> bool:
    """Whether a training of so many iterations is none."""
    return sufficient is not None and iterations < FEWEST_SHARE * sufficient


def describe_shortage(iterations: int, sufficient: int | None) -> str | None:
    """What must be said of a training of so few iterations, before it and beside its scores; None if it has enough."""
    if sufficient is None or iterations >= WARNED_SHARE * sufficient:
        return None
    trained = "1 iteration is" if iterations == 1 else f"{iterations:,} iterations are"
    return (
        f"{trained} {100 * iterations / sufficient:.0f} % of the {sufficient:,} that the plan needs at least: this is "
        f"not what the network can learn"
    )
