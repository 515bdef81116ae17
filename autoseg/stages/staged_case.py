"""An image that is to be segmented, preprocessed for every stage that predicts."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32

from autoseg.document import Part
from autoseg.nonzero_region import Box
from autoseg.preprocessing.case import CaseGeometry, PreprocessedCase

logger = logging.getLogger(__name__)


class FoundBox(Part):
    """A box in an image.

    Attributes:
        configuration: The stage that finds it, or that predicts in it.
        class_name: Class that is found; None for the box in which a stage predicts.
        score: Highest probability of the class in it; None where it is not known.
        box: First and end voxel along the axes z, y, x of the file.
    """

    configuration: str
    class_name: str | None
    score: float | None
    box: Box


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedCase:
    """An image preprocessed for one configuration, and for those that predict before it.

    Attributes:
        preprocessed: Input of this stage's network, without the channels from the previous stage.
        previous: The same image for the previous stage; None for the first one.
        nonzero_mask: The nonzero region of the crop, before resampling; None for the first stage.
        boxes: Boxes that the previous stage found when it was predicted last, if this one predicts in a box.
        warn: Receives what is odd about the prediction of the previous stage.
    """

    preprocessed: PreprocessedCase
    previous: "StagedCase | None" = None
    nonzero_mask: Bool[np.ndarray, "crop_z crop_y crop_x"] | None = None
    boxes: list[FoundBox] = field(default_factory=list)
    warn: Callable[[str], None] = logger.warning

    @property
    def image(self) -> Float32[np.ndarray, "channel z y x"]:
        """The cropped, normalized and resampled image."""
        return self.preprocessed.image

    @property
    def geometry(self) -> CaseGeometry:
        """Geometry for restoring the grid of the file."""
        return self.preprocessed.geometry

    def list_boxes(self) -> tuple[FoundBox, ...]:
        """Lists the boxes of all stages, those of the first one first."""
        return (*(() if self.previous is None else self.previous.list_boxes()), *self.boxes)
