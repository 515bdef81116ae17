"""Features of a predicted case, from which its quality is estimated.

They are the same for the held-out cases of a run, which calibrate the estimates, and for new images.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import Field, model_serializer

from autoseg.document import Part, PositiveTriple
from autoseg.plan.values import Fraction

Triple = tuple[float, float, float]

SMALLEST: Final = 1e-6
MM3_PER_ML: Final = 1000.0


class PlausiblePart(Part):
    """A part whose fields `plausibility` and `objects` are not written where they are None, as for most networks."""

    @model_serializer(mode="wrap")
    def _omit_missing(self, write: Callable[[Part], dict[str, Any]]) -> dict[str, Any]:
        rare = ("plausibility", "objects")
        return {key: value for key, value in write(self).items() if value is not None or key not in rare}


class ClassProbabilities(Part):
    """Probabilities of one class that a network predicts somewhere, on the network's grid.

    Attributes:
        soft_dice: Dice that would be expected if every probability were right.
        border_uncertainty: Sum over all voxels of p times the probability of the background, divided by the predicted
            voxels; of regions, sum of p (1 - p).
        class_uncertainty: The same with the probability of all other classes in place of that of the background; 0 of
            regions.
        expected_fraction: Sum of the probabilities, divided by the predicted voxels.
        intensities: Mean of each normalized channel over the predicted voxels.
    """

    soft_dice: float
    border_uncertainty: float
    class_uncertainty: float
    expected_fraction: float
    intensities: tuple[float, ...]


class ChannelFeatures(Part):
    """One channel of the preprocessed image.

    Attributes:
        percentiles: The 1st, 25th, 50th, 75th and 99th percentile of the normalized intensities.
        contrast: Mean difference of neighbouring voxels in plane, divided by the standard deviation.
        roughness: Mean second difference in plane, divided by the mean difference: noise raises, blur lowers it.
        floor_fraction: Share of the voxels that have the lowest intensity.
        thumbnail: Means of 8 x 8 x 8 blocks, standardized; shows which part of the body lies where.
        scale: Standard deviation before normalization, which differs between scanners; None in features of earlier
            versions.
        extremes: The lowest and the highest normalized intensity of the same voxels as the percentiles; None in
            features of earlier versions.
    """

    percentiles: tuple[float, float, float, float, float]
    contrast: float
    roughness: float
    floor_fraction: float
    thumbnail: tuple[float, ...]
    scale: float | None = None
    extremes: tuple[float, float] | None = None


class ImageFeatures(Part):
    """The grid and the channels of an image, in plan axes.

    Attributes:
        spacing_mm: Spacing of the file.
        extent_mm: Extents of the file.
        tilt_degrees: Largest angle between an axis of the image and the nearest axis of world space.
        channels: Features of each channel.
    """

    spacing_mm: PositiveTriple
    extent_mm: PositiveTriple
    tilt_degrees: float
    channels: tuple[ChannelFeatures, ...]


class ClassShape(Part):
    """Size and shape of one class in a finished label map, in plan axes.

    Attributes:
        volume_ml: Volume; thousands of voxels where no file tells a spacing. A 2D image has the depth of its grid here,
            which is large and told to nobody.
        components: Number of connected components.
        largest_fraction: Share of the largest component.
        compactness: Cube of the surface divided by 36 pi times the square of the volume: 1 for a ball, larger for rough
            and elongated shapes.
        border_fraction: Share of the surface that lies on the border of the image.
        centre: Centre of mass as fractions of the extents of the image.
    """

    volume_ml: Annotated[float, Field(gt=0)]
    components: int
    largest_fraction: float
    compactness: float
    border_fraction: float
    centre: Triple


class NetworkFeatures(PlausiblePart):
    """Features that are measured while the logits are there.

    Attributes:
        image: The image.
        probabilities: Features of every class; None where it is not predicted. Of several models, the means.
        plausibility: Mean Dice with which label autoencoders reconstruct the label map; None where no network holds
            one, or nothing is predicted.
    """

    image: ImageFeatures
    probabilities: tuple[ClassProbabilities | None, ...]
    plausibility: Fraction | None = None


class CaseFeatures(Part):
    """All features of a predicted case.

    Attributes:
        network: Measured from image and logits.
        shapes: Shape of every class in the finished label map; None where it is empty.
    """

    network: NetworkFeatures
    shapes: tuple[ClassShape | None, ...]


def compute_log(value: float) -> float:
    """Computes the logarithm of a positive number; that of 0 is a large negative one."""
    return math.log(max(value, SMALLEST))


def compute_logit(value: float) -> float:
    """Computes the logit of a fraction, within finite limits."""
    clipped = min(max(value, SMALLEST), 1 - SMALLEST)
    return math.log(clipped / (1 - clipped))
