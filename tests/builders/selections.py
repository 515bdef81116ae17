"""What `autoseg select` writes."""

from autoseg.evaluation.crossvalidation import Statistic
from autoseg.inference.options import Decoding
from autoseg.postprocessing.rules import Rule
from autoseg.workflows.select.prediction_choice import PredictionChoice, Variant
from autoseg.workflows.select.selection_document import Member, Postprocessing, Selection


def build_selection(members: tuple[Member, ...], rules: tuple[Rule, ...]) -> Selection:
    """Members and rules; nothing in it is measured."""
    nothing = Statistic(count=0, mean=None, std=None, lower=None, upper=None)
    return Selection(
        autoseg_version="0",
        cases=("a",),
        class_names={},
        classes_without_reference=(),
        candidates=(),
        members=members,
        because="",
        postprocessing=Postprocessing(rules=rules, steps=(), before=nothing, after=nothing),
    )


def build_variant(
    *configurations: str,
    mirroring: bool = True,
    step_fraction: float = 0.5,
    decoding: Decoding = "argmax",
    dice: float = 0.9,
) -> Variant:
    """A way to predict with a mean Dice."""
    return Variant(
        configurations=configurations,
        mirroring=mirroring,
        step_fraction=step_fraction,
        decoding=decoding,
        passes_per_case=1.0,
        foreground=Statistic(count=9, mean=dice, std=None, lower=None, upper=None),
    )


def build_prediction_choice(
    variants: tuple[Variant, ...] = (), *, mirroring: bool = True, decoding: Decoding = "argmax"
) -> PredictionChoice:
    """A choice without gains."""
    return PredictionChoice(
        mirroring=mirroring,
        mirroring_gain=None,
        mirroring_because="",
        decoding=decoding,
        decoding_gain=None,
        decoding_because="",
        variants=variants,
    )
