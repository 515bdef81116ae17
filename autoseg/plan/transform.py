"""The base of the transforms of a plan."""

from collections.abc import Sequence
from typing import ClassVar

from autoseg.document import Part
from autoseg.labels import LabelScheme
from autoseg.plan.preprocessing import ChannelPlan


class TransformPlan(Part):
    """One random transform; every kind has fields of its own.

    Attributes:
        name: Row of the kind in `TRANSFORM_PLANS` and, of what carries it out, in
            `autoseg.training.augmentation.transforms.TRANSFORMS`.
        needs_previous_stage: Whether it changes the masks of a cascade's previous stage.
        allows_previous_stage: Whether there may be a previous stage.
        needs_input: Kind of input from the previous stage that it belongs to; None: any.
        lasts: Whether it happens until the training ends, even if augmentation ends before
            (`TrainingPlan.augmentation_end_fraction`).
    """

    needs_previous_stage: ClassVar[bool] = False
    allows_previous_stage: ClassVar[bool] = True
    needs_input: ClassVar[str | None] = None
    lasts: ClassVar[bool] = False

    name: str

    def find_problem(self, dimensions: int) -> str | None:
        """Says why the transform is impossible for patches of two or three axes; None if it is possible."""
        del dimensions
        return None

    def find_channel_problem(self, channels: Sequence[ChannelPlan]) -> str | None:
        """Says why the transform is impossible for images of these channels; None if it is possible."""
        del channels
        return None

    def find_label_problem(self, labels: LabelScheme) -> str | None:
        """Says why the transform is impossible for these labels; None if it is possible."""
        del labels
        return None
