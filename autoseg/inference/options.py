"""Options of a prediction, and the expected workload of a model."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from autoseg.errors import PredictionError

Decoding = Literal["argmax", "dice"]
"""Ways to turn probabilities into labels: the most probable ones, or those with the highest expected Dice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionOptions:
    """Options of a prediction that trade time against accuracy and are valid for every model.

    Attributes:
        step_fraction: Distance of neighbouring windows as a fraction of the patch, above 0 and at most 1.
        mirroring: Whether to average over mirrored views along the axes that were mirrored in training (8 in 3D).
        decoding: Decoding of the label map.
    """

    step_fraction: float = 0.5
    mirroring: bool = True
    decoding: Decoding = "argmax"

    def __post_init__(self) -> None:
        if not 0 < self.step_fraction <= 1:
            msg = (
                f"the step between windows must be above 0 and at most 1 (a fraction of the patch), found "
                f"{self.step_fraction}; 0.5 is usual, larger is faster"
            )
            raise PredictionError(msg)
        if self.decoding not in get_args(Decoding):
            msg = f"no decoding is called {self.decoding!r}; choose one of: {', '.join(get_args(Decoding))}"
            raise PredictionError(msg)


DEFAULT_OPTIONS: Final = PredictionOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Expected use of a model when it is loaded: more work justifies a longer preparation.

    Attributes:
        images: Approximate number of images.
        options: Options of their prediction.
    """

    images: int = 1
    options: PredictionOptions = DEFAULT_OPTIONS


ONE_IMAGE: Final = Workload()
