"""Mask R-CNN: a network that finds the box, the class and the mask of every object."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from autoseg.plan.network.encoder_u import EncoderOfLiteraturePlan, VggEncoderPlan
from autoseg.plan.values import MOST_STAGES, BlockCount, ChannelCount, Count

OpenFraction = Annotated[float, Field(gt=0, lt=1)]


class MaskRcnnPlan(EncoderOfLiteraturePlan):
    """Proposals of boxes, and a class, a box and a mask of each (Mask R-CNN, He et al. 2017, arXiv:1703.06870).

    Its output are the objects as a map: inside an object, its class is divided into core and border.

    Attributes:
        levels: Number of the last stages that the pyramid joins, and at whose resolutions boxes are proposed.
        pyramid_features: Channels of every level, and of the convolutions for proposals and masks.
        hidden_features: Features of the two layers before classes and boxes.
        box_bins: Bins along each axis of a region whose class and box are found.
        mask_bins: The same for masks, which have twice as many voxels.
        samples_per_bin: Points along each axis of a bin, whose mean it is.
        mask_layers: Convolutions before a mask is enlarged.
        proposals: Boxes that are looked at for an image, those of the highest scores.
        objects: Objects that are drawn for an image.
        training_regions: Boxes of a training patch that are compared with objects.
        positive_regions: Number of these, at most, that have an object.
        proposal_overlap: Largest intersection over union of two proposals.
        largest_overlap: Largest intersection over union of two objects; where it is larger, the one of the lower score
            is left out.
        least_score: Score from which on an object is foreground.
        border_fraction: Width of the border of an object that is drawn, as a fraction of its depth.
    """

    family: Literal["mask_rcnn"] = "mask_rcnn"
    levels: Annotated[int, Field(ge=1, le=MOST_STAGES)]
    pyramid_features: ChannelCount
    hidden_features: ChannelCount
    box_bins: Annotated[int, Field(ge=1, le=32)]
    mask_bins: Annotated[int, Field(ge=1, le=32)]
    samples_per_bin: Annotated[int, Field(ge=1, le=4)]
    mask_layers: BlockCount
    proposals: Count
    objects: Count
    training_regions: Count
    positive_regions: Count
    proposal_overlap: OpenFraction
    largest_overlap: OpenFraction
    least_score: OpenFraction
    border_fraction: OpenFraction

    @property
    def class_count(self) -> int:
        """Number of classes, each of which has a core and a border."""
        return (self.output_channels - 1) // 2

    @property
    def prediction_calls(self) -> int:
        """Two: more boxes are looked at, more masks drawn (measured on a CPU: 1.6 to 2.1 of four small networks)."""
        return 2

    @property
    def validation_calls(self) -> int:
        """Two: the call of the loss predicts, too (1.9 and 2.3 of two of them)."""
        return 2

    @property
    def required_objective(self) -> str:
        """The objective that compares objects."""
        return self.family

    @property
    def finds_objects(self) -> bool:
        """It does."""
        return True

    def describe(self) -> Mapping[str, str]:
        """Describes the stages, the pyramid and the heads."""
        parts = (self.encoder.name, f"pyramid of {self.levels} levels with {self.pyramid_features} features")
        heads = f"{self.proposals} proposals, boxes of {self.box_bins} bins, masks of {2 * self.mask_bins} voxels"
        layers = (self.layers.normalization, self.layers.activation)
        return {
            **super().describe(),
            "parts": ", ".join((*parts, *layers)),
            "head": heads,
            "first weights": self.describe_weights(),
        }

    @model_validator(mode="after")
    def _check_objects(self) -> "MaskRcnnPlan":
        if self.output_channels < 3 or self.output_channels % 2 == 0:
            msg = (
                f"output_channels must be 3, 5, ...: background, and core and border of every class, as --task "
                f"instances plans them (got {self.output_channels})"
            )
            raise ValueError(msg)
        most = self.stage_count - (not isinstance(self.encoder, VggEncoderPlan))
        if self.levels > most:
            msg = f"levels must be at most {most}, the number of stages with features (got {self.levels})"
            raise ValueError(msg)
        if self.positive_regions > self.training_regions:
            msg = f"positive_regions must be at most training_regions, {self.training_regions}"
            raise ValueError(msg)
        return self
