"""An image that is to be segmented, preprocessed for every stage that predicts."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from autoseg.preprocessing.case import CaseGeometry, PreprocessedCase


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedCase:
    """An image preprocessed for one configuration, and for those that predict before it.

    Attributes:
        preprocessed: Input of this stage's network, without the channels from the previous stage.
        previous: The same image for the previous stage; None for the first one.
        nonzero_mask: The nonzero region of the crop, before resampling; None for the first stage.
    """

    preprocessed: PreprocessedCase
    previous: "StagedCase | None" = None
    nonzero_mask: Bool[np.ndarray, "crop_z crop_y crop_x"] | None = None

    @property
    def image(self) -> Float32[np.ndarray, "channel z y x"]:
        """The cropped, normalized and resampled image."""
        return self.preprocessed.image

    @property
    def geometry(self) -> CaseGeometry:
        """Geometry for restoring the grid of the file."""
        return self.preprocessed.geometry
