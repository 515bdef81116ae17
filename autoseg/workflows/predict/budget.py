"""Fits a prediction into a time per image: what is given up is chosen by what `autoseg select` measured.

Mirrored views, overlap of windows and a second configuration count with their Dice on held-out cases. What several
folds gain cannot be measured there, since all folds but one were trained on a case: that is an assumption. Where
nothing was measured, folds are given up last, and the slower of two ways counts as the better one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final

from autoseg.errors import AutosegError
from autoseg.geometry import Grid
from autoseg.inference.ensemble import Ensemble
from autoseg.inference.forecast import forecast_fold_seconds
from autoseg.inference.model import SegmentationModel
from autoseg.inference.options import PredictionOptions
from autoseg.processes.progress import Progress
from autoseg.workflows.predict.found_images import FoundImages
from autoseg.workflows.select.prediction_choice import USUAL_SCORE, PredictionChoice, ScoreName

NETWORK_SHARE: Final = 0.8
"""Part of the budget that the networks may take (guess); the rest is for what is not timed: reading, restoring the
grid, postprocessing and writing."""
STEPS: Final = (0.5, 0.75, 1.0)
"""Steps of the sliding window that are considered."""
ASSUMED_FOLD_GAIN: Final = 0.01
"""Gain in Dice of very many folds over one (guess). The error that differs between K folds falls to 1 / K by averaging,
so that K folds gain 1 - 1 / K of it."""
MOST_HEADERS: Final = 100
"""Images whose headers are read, evenly spread over the folder."""

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to predict.

    Attributes:
        model: The models with the folds that predict.
        dice: Mean Dice on held-out cases, or mean average precision of objects; None if it was not measured.
        score_name: Name of that score.
        seconds: Forecast of the networks' mean time for an image; 0 without one.
        given_up: Parts that are left out to fit into a budget, in words.
    """

    model: Ensemble
    options: PredictionOptions
    dice: float | None = None
    score_name: ScoreName = USUAL_SCORE
    seconds: float = 0.0
    given_up: tuple[str, ...] = ()

    @property
    def fold_count(self) -> int:
        """Number of folds of the member with the most."""
        return max(len(member.folds) for member in self.model.members)

    @property
    def fold_gain(self) -> float:
        """Assumed gain in the score of its folds over one."""
        return ASSUMED_FOLD_GAIN * (1 - 1 / self.fold_count)

    @property
    def rank(self) -> tuple[float, ...]:
        """Key that sorts ways, the best first, and of two that are equal the faster."""
        if self.dice is None:
            return float(-self.fold_count), -self.seconds
        return -(self.dice + self.fold_gain), self.seconds

    def describe(self, best: "Way") -> str:
        """Describes the way with its figures in one line, and what fewer folds than those of the best one cost."""
        names = " + ".join(member.configuration for member in self.model.members)
        folds = f"{self.fold_count} fold{'' if self.fold_count == 1 else 's'}"
        score = f"{self.score_name} {'not measured' if self.dice is None else f'{self.dice:.4f}'}"
        views = f"{'mirroring' if self.options.mirroring else 'no mirroring'}, " if has_views(self.model) else ""
        step = f"step {self.options.step_fraction:g}"
        return f"{names}, {folds}, {views}{step}: {self.seconds:.3g} s an image, {score}{self._describe_folds(best)}"

    def _describe_folds(self, best: "Way") -> str:
        if self.fold_count >= best.fold_count:
            return ""
        loss = "less" if self.dice is None else f"{self.fold_gain - best.fold_gain:+.4f}"
        return f", {loss} for {self.fold_count} of {best.fold_count} folds (assumed)"


def has_views(model: Ensemble) -> bool:
    """Returns whether any network predicts mirrored views."""
    return any(stage.configuration_plan.training.mirror_axes for stage in model.stages)


def fit_budget(
    usual: Way,
    found: FoundImages,
    *,
    budget_seconds: float,
    measured: PredictionChoice | None,
    kept: Sequence[str] = (),
    progress: Progress,
) -> Way:
    """Chooses the best way to predict whose networks are forecast to take at most `NETWORK_SHARE` of the budget.

    If none does, the fastest is taken, with a warning that says how long it will take.

    Args:
        usual: Prediction without a budget; nothing that takes longer is considered.
        found: The images, of which headers are read.
        budget_seconds: Seconds for an image on average.
        measured: The ways that `autoseg select` measured of these models; None if there are none.
        kept: Names of the options that the user chose, and that are not given up: "mirroring", "step_fraction".
        progress: Receives all ways with their figures, and the choice.
    """
    grids = _read_grids(found)
    if not grids:
        progress.note("warning: the budget is left aside, as the header of no image can be read")
        return usual
    scored = usual if measured is None else replace(usual, score_name=measured.score_name)
    ways = sorted(_list_ways(scored, grids, _find_dice(usual, measured, kept)), key=lambda way: way.rank)
    limit = NETWORK_SHARE * budget_seconds
    fastest = min(ways, key=lambda way: way.seconds)
    chosen = next((way for way in ways if way.seconds <= limit), fastest)
    progress.note(
        f"a budget of {budget_seconds:.3g} s an image, of which networks may take {limit:.3g} s; by the headers of "
        f"{len(grids)} images and the speed measured here:"
    )
    for way in _select_worthwhile(ways):
        progress.note(f"  {'*' if way is chosen else '-'} {way.describe(usual)}")
    progress.note(_explain_order(chosen))
    if chosen.seconds > limit:
        progress.note(
            f"warning: no way is forecast to fit; the fastest takes about {chosen.seconds:.3g} s an image without "
            f"reading and writing"
        )
    progress.note(describe_loss(_find_usual(ways, usual), chosen))
    return replace(chosen, given_up=list_given_up(usual, chosen))


def _select_worthwhile(ways: Sequence[Way]) -> Iterator[Way]:
    """Yields the ways that are faster than all better ones."""
    fastest_seconds = inf
    for way in ways:
        if way.seconds < fastest_seconds:
            fastest_seconds = way.seconds
            yield way


def _explain_order(chosen: Way) -> str:
    if chosen.dice is None:
        return "nothing was measured of these models: folds are given up last, and a slower way counts as a better one"
    return (
        f"{chosen.score_name} is that of one fold on held-out cases; K folds are assumed to add {ASSUMED_FOLD_GAIN} x "
        f"(1 - 1 / K), which was not measured"
    )


def _find_usual(ways: Sequence[Way], usual: Way) -> Way:
    """Finds the way that gives nothing up, with its figures."""
    return next(way for way in ways if not list_given_up(usual, way))


def describe_duration(seconds: float, images: int, budget_seconds: float) -> str:
    """Describes what a prediction took beside its budget."""
    return f"{seconds / images:.3g} s an image, with reading and writing; the budget is {budget_seconds:.3g} s"


def list_given_up(best: Way, chosen: Way) -> tuple[str, ...]:
    """Lists in words what one way leaves out of another."""
    names = {member.configuration for member in chosen.model.members}
    given_up = [member.configuration for member in best.model.members if member.configuration not in names]
    if best.options.mirroring and not chosen.options.mirroring:
        given_up.append("mirrored views")
    if best.options.step_fraction != chosen.options.step_fraction:
        given_up.append(f"step {best.options.step_fraction:g} (now {chosen.options.step_fraction:g})")
    if best.fold_count > chosen.fold_count:
        given_up.append(f"{best.fold_count - chosen.fold_count} of {best.fold_count} folds")
    return tuple(given_up)


def describe_loss(best: Way, chosen: Way) -> str:
    """Describes what is given up, and what that costs in the score."""
    given_up = list_given_up(best, chosen)
    if not given_up:
        return "nothing is given up"
    text = f"given up: {', '.join(given_up)}"
    if best.dice is not None and chosen.dice is not None:
        text += f"; {chosen.score_name} on held-out cases {chosen.dice:.4f} instead of {best.dice:.4f}"
    if best.fold_count > chosen.fold_count:
        text += "; what the folds gain was not measured"
    return text


def keep_folds(model: SegmentationModel, count: int) -> SegmentationModel:
    """Returns a model with the first folds alone, in every stage."""
    previous = None if model.previous is None else keep_folds(model.previous, count)
    return replace(model, folds=model.folds[:count], networks=model.networks[:count], previous=previous)


def _read_grids(found: FoundImages) -> list[Grid]:
    """Reads headers; an image that cannot be read is reported when it is to be predicted."""
    grids = []
    for case in found.cases[:: -(-len(found.cases) // MOST_HEADERS) or 1]:
        try:
            grids.append(found.read_grid(case))
        except AutosegError:
            continue
    return grids


def _find_dice(
    usual: Way, measured: PredictionChoice | None, kept: Sequence[str]
) -> Mapping[tuple[Names, PredictionOptions], float | None]:
    """Finds the Dice of all configurations and options that may be chosen.

    Where that of the usual ones is not known, the others cannot be compared with it, so that none counts. What gives up
    less comes first: it is taken of ways that rank equally.
    """
    names = tuple(member.configuration for member in usual.model.members)
    alone = [(name,) for name in names] if len(names) > 1 else []
    is_kept = "mirroring" in kept or not has_views(usual.model)
    views = dict.fromkeys((usual.options.mirroring, usual.options.mirroring and is_kept))
    larger = () if "step_fraction" in kept else [step for step in STEPS if step > usual.options.step_fraction]
    wanted = [
        (chosen, replace(usual.options, mirroring=mirroring, step_fraction=step))
        for chosen in (names, *alone)
        for mirroring in views
        for step in (usual.options.step_fraction, *larger)
    ]
    known = {} if measured is None else _tabulate(measured, usual.options)
    if (names, usual.options) not in known:
        return dict.fromkeys(wanted)
    return {key: known[key] for key in wanted if key in known}


def _tabulate(
    measured: PredictionChoice, options: PredictionOptions
) -> dict[tuple[Names, PredictionOptions], float | None]:
    """Tabulates what was measured, with the decoding of the options where that was measured, else with argmax."""
    found: dict[tuple[Names, PredictionOptions], float | None] = {}
    for variant in sorted(measured.variants, key=lambda variant: variant.decoding == options.decoding):
        chosen = replace(options, mirroring=variant.mirroring, step_fraction=variant.step_fraction)
        found[variant.configurations, chosen] = variant.foreground.mean
    return found


def _list_ways(
    usual: Way, grids: Sequence[Grid], dice: Mapping[tuple[Names, PredictionOptions], float | None]
) -> Iterator[Way]:
    for (names, options), value in dice.items():
        members = [member for member in usual.model.members if member.configuration in names]
        seconds = {
            stage.configuration: forecast_fold_seconds(stage, grids, options)
            for member in members
            for stage in member.stages
        }
        for count in range(1, max(len(member.folds) for member in members) + 1):
            model = Ensemble(members=tuple(keep_folds(member, count) for member in members))
            total = sum(len(stage.folds) * seconds[stage.configuration] for stage in model.stages)
            yield replace(usual, model=model, options=options, dice=value, seconds=total)
