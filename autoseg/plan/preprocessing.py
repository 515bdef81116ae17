"""Normalization and resampling of images."""

from typing import Literal

from pydantic import model_validator

from autoseg.document import Part
from autoseg.plan.values import Finite, NonNegative, Positive

NormalizationScheme = Literal["ct", "zscore", "none", "rescale_to_0_1", "rgb_to_0_1"]


class IntensityWindow(Part):
    """Intensities of the dataset's foreground that a normalization needs."""

    lower: Finite
    upper: Finite
    mean: Finite
    std: NonNegative


class ChannelPlan(Part):
    """Normalization of one image channel.

    Attributes:
        inside_nonzero_only: Statistics are taken, and voxels changed, inside the nonzero region only.
        window: Present exactly for the scheme "ct": clip to [lower, upper], subtract mean, divide by std.
    """

    name: str
    normalization: NormalizationScheme
    inside_nonzero_only: bool
    window: IntensityWindow | None

    @model_validator(mode="after")
    def _check(self) -> "ChannelPlan":
        if (self.normalization == "ct") != (self.window is not None):
            msg = f"channel {self.name!r}: 'window' belongs to the normalization 'ct' and to no other"
            raise ValueError(msg)
        return self


class ResamplingPlan(Part):
    """Resampling of arrays.

    Attributes:
        image_order: Spline order in plane (3: cubic) for images.
        label_order: Spline order for the one-hot labels.
        logits_order: Spline order for the network's output on the way back.
        anisotropy_threshold: If the coarsest spacing is more than this many times the finest, the coarsest axis is
            resampled separately, by nearest neighbour.
    """

    image_order: Literal[0, 1, 3]
    label_order: Literal[0, 1]
    logits_order: Literal[0, 1]
    anisotropy_threshold: Positive
