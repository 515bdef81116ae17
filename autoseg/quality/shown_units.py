"""Units in which a person is told of a case, whatever those of its features are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from autoseg.geometry import DistanceUnit

VolumeUnit = Literal["ml", "1000 voxels"]

VOLUME_UNITS: Final[Mapping[DistanceUnit, VolumeUnit]] = {"mm": "ml", "pixel": "1000 voxels"}
LENGTH_WORDS: Final[Mapping[DistanceUnit, str]] = {"mm": "mm", "pixel": "pixels"}
VOLUME_WORDS: Final[Mapping[DistanceUnit, str]] = {"mm": "ml", "pixel": "thousand voxels"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownUnits:
    """Units in which a person is told of a case.

    Attributes:
        lengths: Unit of all lengths.
        depth_factor: Depth of the voxels in the features by that which is shown: 1, but that of a 2D image is made up.
    """

    lengths: DistanceUnit = "mm"
    depth_factor: float = 1.0

    def show_volume(self, volume_ml: float) -> float:
        """Returns the volume that is shown."""
        return volume_ml / self.depth_factor


USUAL_UNITS: Final = ShownUnits()
