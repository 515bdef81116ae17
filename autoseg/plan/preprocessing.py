"""Normalization and resampling of images."""

from collections.abc import Sequence
from typing import Final, Literal, Protocol, runtime_checkable

from pydantic import model_validator

from autoseg.document import Part
from autoseg.plan.values import Finite, NonNegative, Positive

NormalizationScheme = Literal["ct", "zscore", "none", "rescale_to_0_1", "rgb_to_0_1"]

LARGEST_NORMALIZED: Final = 1e15  # a network squares its input, and sums the squares
SMALLEST_DIVISOR: Final = 1e-8
"""Normalization divides by at least this, as the reference implementation does."""
COLOUR_CHANNELS: Final = (("r", "g", "b"), ("red", "green", "blue"))
PICTURE_SCHEME: Final = "rgb_to_0_1"
CT_NAME: Final = "ct"
"""Name of the channels, in any case, that are clipped to a window of the dataset's foreground."""


WINDOW_ADVICE: Final = (
    "give the images in Hounsfield units, or give the channel another name in dataset.json, such as 'zscore', to have "
    "every image normalized by itself"
)
"""Advice about a window without contrast."""


@runtime_checkable
class ForegroundStatistics(Protocol):
    """Statistics of the intensities of a dataset's foreground, as measured here or by nnU-Net."""

    @property
    def mean(self) -> float:
        """Mean."""
        ...

    @property
    def std(self) -> float:
        """Standard deviation."""
        ...

    @property
    def percentile_00_5(self) -> float:
        """0.5th percentile."""
        ...

    @property
    def percentile_99_5(self) -> float:
        """99.5th percentile."""
        ...


class IntensityWindow(Part):
    """Intensities of the dataset's foreground that a normalization needs."""

    lower: Finite
    upper: Finite
    mean: Finite
    std: NonNegative

    @classmethod
    def from_foreground(cls, foreground: ForegroundStatistics) -> "IntensityWindow":
        """Builds the window from the 0.5th to the 99.5th percentile of the foreground."""
        return cls(
            lower=foreground.percentile_00_5,
            upper=foreground.percentile_99_5,
            mean=foreground.mean,
            std=foreground.std,
        )

    def explain_flaw(self) -> str | None:
        """Explains why normalization by this window would leave no contrast; None if it would not."""
        if self.std < SMALLEST_DIVISOR:
            return (
                f"the standard deviation of its foreground, by which images are divided, is {self.std:g} (mean "
                f"{self.mean:g})"
            )
        largest = max(abs(self.lower - self.mean), abs(self.upper - self.mean)) / self.std
        if not largest <= LARGEST_NORMALIZED:
            return (
                f"clipping to [{self.lower:g}, {self.upper:g}] leaves up to {largest:.3g} standard deviations, which "
                f"overflow in the network"
            )
        if self.lower >= self.upper:
            return (
                f"99 % of its foreground have the intensity {self.upper:g}, so that clipping to [{self.lower:g}, "
                f"{self.upper:g}] would make every image constant"
            )
        return None


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


def are_colours(channels: Sequence[ChannelPlan]) -> bool:
    """Returns whether channels are red, green and blue: by their names, or by a normalization that only they have."""
    names = tuple(channel.name.casefold() for channel in channels)
    return names in COLOUR_CHANNELS or are_pictures(channels)


def are_pictures(channels: Sequence[ChannelPlan]) -> bool:
    """Returns whether channels have the intensities of colour pictures."""
    return [channel.normalization for channel in channels] == [PICTURE_SCHEME] * 3


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
