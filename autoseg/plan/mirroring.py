"""Transforms that flip patches, whose mirrored views prediction averages."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from autoseg.labels import LabelScheme
from autoseg.plan.transform import TransformPlan


class MirrorPlan(TransformPlan):
    """Flipping.

    Attributes:
        axes: Plan axes (of the patch) that are flipped with probability one half each, also in prediction.
    """

    lasts: ClassVar[bool] = True

    name: Literal["mirror"] = "mirror"
    axes: Annotated[tuple[Annotated[int, Field(ge=0, le=2)], ...], Field(min_length=1)]

    def find_problem(self, dimensions: int) -> str | None:
        """Reports axes that are listed twice, or that the patch does not have."""
        if len(set(self.axes)) == len(self.axes) and max(self.axes) < dimensions:
            return None
        return f"axes must be different axes below {dimensions} (got {self.axes})"


class MirrorPairsPlan(TransformPlan):
    """Flipping along the axis between left and right, which exchanges the labels of paired classes.

    Attributes:
        axis: Plan axis (of the patch) that is flipped with probability one half, also in prediction.
        pairs: Pairs of internal labels, such as those of the left and the right kidney, each label once.
    """

    lasts: ClassVar[bool] = True
    allows_previous_stage: ClassVar[bool] = False

    name: Literal["mirror_pairs"] = "mirror_pairs"
    axis: Annotated[int, Field(ge=0, le=2)]
    pairs: Annotated[tuple[tuple[int, int], ...], Field(min_length=1)]

    def find_problem(self, dimensions: int) -> str | None:
        """Reports an axis that the patch does not have."""
        return None if self.axis < dimensions else f"axis must be below {dimensions} (got {self.axis})"

    def find_label_problem(self, labels: LabelScheme) -> str | None:
        """Reports labels that do not exist or stand in two pairs, and regions without a counterpart."""
        named = [label for pair in self.pairs for label in pair]
        if len(set(named)) < len(named) or not set(named) <= set(labels.foreground_labels):
            highest = max(labels.foreground_labels)
            return f"pairs must hold foreground labels, from 1 to {highest}, once each (got {self.pairs})"
        if labels.exchange_outputs(self.pairs) is None:
            return (
                f"a region must become a region when the labels of pairs are exchanged (got {self.pairs}); declare "
                f"regions for both sides, or remove the transform"
            )
        return None
