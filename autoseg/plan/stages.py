"""Input that a configuration gets from another one, which is trained before it."""

from abc import abstractmethod
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from autoseg.document import Part
from autoseg.labels import LabelClass, LabelScheme
from autoseg.plan.values import ConfigurationName, NonNegative, Positive

Margins = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
NO_MARGINS: Final = (0, 0, 0)


class PreviousStagePlan(Part):
    """Input from a configuration that was trained before. Abstract: the kinds are in `PREVIOUS_STAGE_PLANS`.

    Attributes:
        input: The kind; it also names the implementation in `autoseg.stages.inputs.PREVIOUS_STAGE_INPUTS`.
        configuration: The previous stage. It may have a previous stage itself.
        has_channels: Whether the network gets channels, which transforms of masks change.
        is_in_plane: Whether channels of slices depend on the axis across which they lie.
        is_class_by_class: Whether the network sees one class at a time, and tells only what belongs to it.
    """

    has_channels: ClassVar[bool] = True
    is_in_plane: ClassVar[bool] = False
    is_class_by_class: ClassVar[bool] = False

    input: str
    configuration: ConfigurationName

    @property
    def begins_with_previous(self) -> bool:
        """Whether a training begins with the weights of the previous stage."""
        return False

    @property
    def box_margin_mm(self) -> float | None:
        """Margin of the box that is made of a prediction; None where no box is made."""
        return None

    @property
    def box_minimum_mm3(self) -> float:
        """Volume that a component of a prediction needs to count for the box; 0 where all count or no box is made."""
        return 0.0

    def choose_network_labels(self, labels: LabelScheme) -> LabelScheme:
        """Returns the labels that the network tells apart: those of the dataset, or one class and all else."""
        return build_class_labels(labels) if self.is_class_by_class else labels

    @abstractmethod
    def count_channels(self, labels: LabelScheme) -> int:
        """Returns the number of input channels that the network has beside those of the image."""


class MasksOfPreviousStage(PreviousStagePlan):
    """One mask for each foreground label that the previous stage predicts, as a channel of 0 and 1."""

    input: Literal["masks"] = "masks"

    def count_channels(self, labels: LabelScheme) -> int:
        """Returns one channel for each foreground label."""
        return len(labels.foreground_labels)


class ClicksOfPreviousStage(PreviousStagePlan):
    """The masks of the previous stage, and where a user clicked to correct them.

    Of each label, background first, one more channel is 1 at clicks and falls with the geodesic distance to 0.

    Attributes:
        reach_mm: Distance at which it is 0.
        first_weights: Weights with which a training begins: random ones, or those of the previous stage's same fold, in
            which further input channels count for nothing at first.
        edge_mm: Length that an intensity step of one unit (mostly a standard deviation) adds to a path.
    """

    is_in_plane: ClassVar[bool] = True

    input: Literal["clicks"] = "clicks"
    reach_mm: Positive
    edge_mm: NonNegative
    first_weights: Literal["random", "previous_stage"]

    @property
    def begins_with_previous(self) -> bool:
        """Whether a training begins with the weights of the previous stage."""
        return self.first_weights == "previous_stage"

    def count_channels(self, labels: LabelScheme) -> int:
        """Returns one mask for each foreground label, and one channel of clicks for each label."""
        return 2 * len(labels.foreground_labels) + 1


class BoundaryOfPreviousStage(PreviousStagePlan):
    """The mask of one class at a time, around whose boundary the network corrects it ("boundary patch refinement").

    Attributes:
        overlap_limit: Patches are placed around voxels of the boundary one after the other; none is placed whose
            intersection with an earlier one is more than this fraction of their union. 1: one around each voxel.
    """

    is_class_by_class: ClassVar[bool] = True

    input: Literal["boundary"] = "boundary"
    overlap_limit: Annotated[float, Field(gt=0, le=1)]

    def count_channels(self, labels: LabelScheme) -> int:
        """Returns the mask of the class."""
        return 1


class BoxOfPreviousStage(PreviousStagePlan):
    """No channel: the network predicts only in a box around the foreground that is predicted before.

    Attributes:
        margin_mm: Distance by which the box is larger than the foreground, at either end of each axis.
        minimum_mm3: Volume that a component of the foreground needs to count for the box, unless none has it. It is
            learned from predictions of held-out cases before the first fold is trained; 0: every component counts.
        further_margin_mm: Distance by which the box is larger than `margin_mm` says, learned as the volume is from
            where the reference of held-out cases reaches beyond what is predicted; 0: `margin_mm` suffices.
        training_margin_voxels: Distance by which the part of a case on which the network is trained is larger than the
            box without the further margin, at either end of each axis, on the network's grid, unless the box is larger:
            boxes of new images may hold what those of training cases do not. 0 in plans of earlier versions.
    """

    has_channels: ClassVar[bool] = False

    input: Literal["box"] = "box"
    margin_mm: NonNegative
    minimum_mm3: NonNegative = 0.0
    further_margin_mm: NonNegative = Field(default=0.0, exclude_if=lambda margin_mm: margin_mm == 0)
    training_margin_voxels: Margins = Field(default=NO_MARGINS, exclude_if=lambda margins: margins == NO_MARGINS)

    @property
    def box_margin_mm(self) -> float:
        """Margin of the box that is made of a prediction."""
        return self.margin_mm + self.further_margin_mm

    @property
    def box_minimum_mm3(self) -> float:
        """Volume that a component needs to count for the box."""
        return self.minimum_mm3

    def count_channels(self, labels: LabelScheme) -> int:
        """Returns none."""
        return 0


PREVIOUS_STAGE_PLANS: Final[dict[str, type[PreviousStagePlan]]] = {
    "masks": MasksOfPreviousStage,
    "clicks": ClicksOfPreviousStage,
    "box": BoxOfPreviousStage,
    "boundary": BoundaryOfPreviousStage,
}


def build_class_labels(labels: LabelScheme) -> LabelScheme:
    """Builds the labels of a network that sees one class at a time: outside, inside, and what is to be ignored."""
    ignore = None if labels.ignore_value is None else 2
    return LabelScheme(
        classes=(LabelClass(name="inside", values=(1,)),),
        ignore_value=ignore,
        region_write_values=None,
        declared_count=2 if ignore is None else 3,
    )
