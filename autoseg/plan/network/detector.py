"""Detectors: networks that find boxes around objects."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from autoseg.plan.network.base import StagedNetworkPlan
from autoseg.plan.network.encoder_u import EncoderDepths
from autoseg.plan.values import MOST_STAGES, BlockCount

MOST_BINS = 256
Score = Annotated[float, Field(gt=0, lt=1)]


class DetectorPlan(StagedNetworkPlan):
    """A detector without anchors, of re-parameterized convolutions (YOLOv6, Li et al. 2022, arXiv:2209.02976).

    Its output are the boxes as a map: inside a box, the logits of its classes have the score of the box.

    Attributes:
        blocks_per_stage: Convolutions of each stage after the one that reduces the resolution.
        neck_blocks: Convolutions of each block of the neck.
        levels: Number of the last stages at whose resolutions boxes are found.
        distance_bins: Distances from a cell to the faces of its box are means over so many whole numbers of strides,
            0 included, of which the network gives the probabilities; with 1 it gives the distances themselves.
        probabilities: The function that turns logits into probabilities: "softmax" for labels, of which the first
            output is background, "sigmoid" for regions.
        least_score: Score from which on a box is foreground.
        largest_overlap: Largest intersection over union of two boxes; where it is larger, the one of the lower score is
            left out.
    """

    family: Literal["detector"] = "detector"
    blocks_per_stage: EncoderDepths
    neck_blocks: BlockCount
    levels: Annotated[int, Field(ge=1, le=MOST_STAGES)]
    distance_bins: Annotated[int, Field(ge=1, le=MOST_BINS)]
    probabilities: Literal["softmax", "sigmoid"] = "softmax"
    least_score: Score
    largest_overlap: Score

    @property
    def class_count(self) -> int:
        """Number of classes that a box may hold: the outputs without background."""
        return self.output_channels - (self.probabilities == "softmax")

    @property
    def required_objective(self) -> str:
        """The objective that compares boxes."""
        return "detection"

    @property
    def finds_boxes(self) -> bool:
        """It does."""
        return True

    def describe(self) -> Mapping[str, str]:
        """Describes the stages, and where boxes are found."""
        bins = "distances" if self.distance_bins == 1 else f"{self.distance_bins} bins of distances"
        return {**super().describe(), "parts": f"boxes at the last {self.levels} stages, {bins}"}

    def find_lengths(self) -> Mapping[str, int]:
        """As for all staged networks, and of the blocks."""
        return {**super().find_lengths(), "blocks_per_stage": len(self.blocks_per_stage)}

    @model_validator(mode="after")
    def _check_detector(self) -> "DetectorPlan":
        if self.levels > self.stage_count:
            msg = f"levels must be at most {self.stage_count}, the number of stages (got {self.levels})"
            raise ValueError(msg)
        if self.class_count < 1:
            msg = "output_channels must be at least 2 for labels: background and a class (got 1)"
            raise ValueError(msg)
        return self
