"""Schema of the ways to predict that `autoseg select` measured, and of its choice among them."""

from typing import Final, Literal

from pydantic import Field

from autoseg.document import Part
from autoseg.evaluation.crossvalidation import Statistic
from autoseg.evaluation.gain import Gain
from autoseg.inference.options import DEFAULT_OPTIONS, Decoding, PredictionOptions

ScoreName = Literal["Dice", "AP of objects"]
USUAL_SCORE: Final = "Dice"


class Variant(Part):
    """A way to predict the held-out cases, and what it costs.

    Attributes:
        configurations: The selected configurations, or one of them alone.
        passes_per_case: Mean number of patches that the network of one fold computes for a case, mirrored views
            counted; of all configurations together.
        foreground: Mean Dice over the classes that occur in some reference, before postprocessing; mean average
            precision of objects where these are told apart.
    """

    configurations: tuple[str, ...]
    mirroring: bool
    step_fraction: float
    decoding: Decoding
    passes_per_case: float
    foreground: Statistic

    def describe(self) -> str:
        """Describes the options in a few words."""
        views = "mirroring" if self.mirroring else "no mirroring"
        decoding = "" if self.decoding == "argmax" else f", {self.decoding}"
        return f"{' + '.join(self.configurations)}: {views}, step {self.step_fraction:g}{decoding}"


class PredictionChoice(Part):
    """The options with which new images are predicted, and what was measured of them on held-out cases.

    Attributes:
        mirroring_gain: Gain in the score by mirrored views; None if it was not measured.
        decoding_gain: Gain in Dice by decoding with the highest expected Dice; None if it was not measured.
        variants: Ways to predict that were measured, the usual one first.
        score_name: Score of the variants; that of files that do not tell is Dice.
    """

    mirroring: bool
    mirroring_gain: Gain | None
    mirroring_because: str
    decoding: Decoding
    decoding_gain: Gain | None
    decoding_because: str
    variants: tuple[Variant, ...]
    score_name: ScoreName = Field(default=USUAL_SCORE, exclude_if=lambda name: name == USUAL_SCORE)

    @property
    def options(self) -> PredictionOptions:
        """The chosen options."""
        return PredictionOptions(
            step_fraction=DEFAULT_OPTIONS.step_fraction, mirroring=self.mirroring, decoding=self.decoding
        )

    def describe(self) -> str:
        """Describes the choice in one line."""
        decoding = f"decoding {self.decoding}: {self.decoding_because}"
        return f"{'mirroring' if self.mirroring else 'no mirroring'}: {self.mirroring_because}; {decoding}"
