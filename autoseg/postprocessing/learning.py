"""Learns postprocessing rules from cross-validation: rules that raise the mean Dice of held-out cases are accepted.

A rule that has nothing to learn, such as keeping the largest component, is judged by all held-out cases. A minimum size
is learned from the cases of all blocks but one and judged by the cases of that one, so that its gain is not measured on
the cases that selected it. A rule is accepted if the mean over classes rises and the mean of no class falls. Of
fewer than five cases nothing is accepted: one of them may decide it all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int64

from autoseg.document import Part
from autoseg.evaluation.gain import Gain, compute_column_means, compute_gain, find_scored_classes
from autoseg.postprocessing.application import is_large_enough
from autoseg.postprocessing.effects import Change, ComponentEffects, Counts
from autoseg.postprocessing.rules import UNIT_NAMES, MinimumSize, Rule

ROUND_FACTORS: Final = (1.0, 2.0, 5.0)
"""Minimum sizes tried in every decade: a finer series would overfit the cases."""


class Step(Part):
    """A rule that was tried, and the decision about it.

    Attributes:
        what: Description of the rule.
        rule: The rule; None if no rule of its kind was worth trying.
        gain: Gain in mean Dice on cases that did not select the rule; None where nothing was measured.
        because: Reason for accepting or rejecting it, with the numbers.
    """

    what: str
    rule: Rule | None
    accepted: bool
    gain: Gain | None
    because: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cases:
    """State of the cases at some point of the learning.

    Attributes:
        counts: One row for each case, after all rules that were accepted so far.
        blocks: Number of the block of each case; blocks are held out in turn.
        class_names: Names of the classes in the order of the columns of `counts`.
    """

    counts: Counts
    blocks: Int64[np.ndarray, " case"]
    class_names: tuple[str, ...]

    def change(self, counts: Counts) -> "Cases":
        """Returns the state after a rule."""
        return replace(self, counts=counts)


def stack_counts(counts: Sequence[Counts]) -> Counts:
    """Stacks the counts of cases, one row for each case."""
    return Counts(
        predicted=np.stack([entry.predicted for entry in counts]),
        reference=np.stack([entry.reference for entry in counts]),
        both=np.stack([entry.both for entry in counts]),
    )


def stack_changes(changes: Sequence[Change]) -> Change:
    """Stacks the changes of cases, one row for each case."""
    return Change(
        predicted=np.stack([entry.predicted for entry in changes]), both=np.stack([entry.both for entry in changes])
    )


def decide(rule: Rule, cases: Cases, after: Counts) -> Step:
    """Accepts or rejects a rule.

    Args:
        rule: The rule to be judged.
        cases: The cases without the rule.
        after: The counts with the rule; for a learned rule, each case with the rule that the other blocks select.
    """
    is_scored = find_scored_classes(cases.counts.reference)
    before_dice, after_dice = (counts.compute_dice()[:, is_scored] for counts in (cases.counts, after))
    gain = compute_gain(before_dice, after_dice)
    differences = compute_column_means(after_dice) - compute_column_means(before_dice)
    scored = [name for name, chosen in zip(cases.class_names, is_scored, strict=True) if chosen]
    losses = [
        f"{name} {difference:+.4f}" for name, difference in zip(scored, differences, strict=True) if difference < 0
    ]
    accepted = gain.mean > 0 and not losses and gain.has_interval
    figures = f"mean Dice {_compute_mean(before_dice):.4f} changes by {gain.describe()}"
    return Step(
        what=rule.describe(),
        rule=rule,
        accepted=accepted,
        gain=gain,
        because=_explain(
            figures, losses, gain=gain, is_changed=not np.array_equal(before_dice, after_dice, equal_nan=True)
        ),
    )


def _compute_mean(dice: Float64[np.ndarray, "case class"]) -> float:
    """Averages the means of the classes; 0 if there is no class to be scored."""
    return float(np.mean(compute_column_means(dice))) if dice.shape[1] else 0.0


def keep_largest_components(
    effects: Sequence[ComponentEffects], cases: Cases
) -> tuple[Counts, tuple[ComponentEffects, ...]]:
    """Returns the counts and the remaining components after each case keeps only its largest component."""
    classes = len(cases.class_names)
    changes = stack_changes([entry.remove(~entry.is_largest, classes) for entry in effects])
    return cases.counts.change(changes), tuple(entry.select(entry.is_largest) for entry in effects)


def learn_minimum_size(
    build_rule: Callable[[float], MinimumSize], effects: Sequence[ComponentEffects], cases: Cases
) -> tuple[Step, Counts]:
    """Learns a minimum size from all cases, and estimates its gain from held-out blocks.

    Args:
        build_rule: Builds the rule for a minimum in cubic millimetres.
        effects: The components of each case.
        cases: The cases without the rule.

    Returns:
        The step, and the counts after it: with the rule if it was accepted, else unchanged.
    """
    candidates = list_minimum_sizes(effects)
    what = build_rule(1.0).describe().split(" below ")[0]
    if not candidates or len(np.unique(cases.blocks)) < 2:
        because = "there are no components of different sizes" if not candidates else "it needs two blocks of cases"
        return _reject(what, because), cases.counts
    tried = [_apply_minimum(minimum, effects, cases) for minimum in candidates]
    everything = np.ones(len(cases.blocks), bool)
    chosen = _select_best(tried, cases.counts, everything)
    if chosen is None:
        lowest, highest = candidates[0], candidates[-1]
        sizes = f"{lowest:g} and {highest:g} {UNIT_NAMES[build_rule(lowest).unit]}"
        because = f"no minimum between {sizes} raises the mean without a loss of some class"
        return _reject(what, because), cases.counts
    step = decide(build_rule(candidates[chosen]), cases, _hold_out_blocks(tried, cases))
    return step, tried[chosen] if step.accepted else cases.counts


def list_minimum_sizes(effects: Sequence[ComponentEffects]) -> list[float]:
    """Lists round volumes above the smallest component and up to the largest one, ascending."""
    volumes = np.concatenate([entry.volumes_mm3 for entry in effects])
    if not len(volumes):
        return []
    lowest, highest = float(volumes.min()), float(volumes.max())
    decades = range(int(np.floor(np.log10(lowest))), int(np.ceil(np.log10(highest))) + 1)
    series = [float(f"{factor:g}e{decade}") for decade in decades for factor in ROUND_FACTORS]
    return [value for value in series if lowest < value <= highest]


def _apply_minimum(minimum_mm3: float, effects: Sequence[ComponentEffects], cases: Cases) -> Counts:
    classes = len(cases.class_names)
    changes = [entry.remove(~is_large_enough(entry.volumes_mm3, minimum_mm3), classes) for entry in effects]
    return cases.counts.change(stack_changes(changes))


def _select_best(tried: Sequence[Counts], counts: Counts, rows: Bool[np.ndarray, " case"]) -> int | None:
    """Selects the first candidate with the highest gain in these cases among those that reduce no class."""
    before = counts.select(rows)
    is_scored = find_scored_classes(before.reference)
    if not is_scored.any():
        return None
    means = compute_column_means(before.compute_dice()[:, is_scored])
    best, highest = None, 0.0
    for index, after in enumerate(tried):
        gains = compute_column_means(after.select(rows).compute_dice()[:, is_scored]) - means
        if gains.min() >= 0 and gains.mean() > highest:
            best, highest = index, float(gains.mean())
    return best


def _hold_out_blocks(tried: Sequence[Counts], cases: Cases) -> Counts:
    """Returns the counts of every case with the minimum that the other blocks select."""
    predicted, both = cases.counts.predicted.copy(), cases.counts.both.copy()
    for block in np.unique(cases.blocks):
        held_out = cases.blocks == block
        chosen = _select_best(tried, cases.counts, ~held_out)
        if chosen is not None:
            predicted[held_out], both[held_out] = tried[chosen].predicted[held_out], tried[chosen].both[held_out]
    return Counts(predicted=predicted, reference=cases.counts.reference, both=both)


def _explain(figures: str, losses: Sequence[str], *, gain: Gain, is_changed: bool) -> str:
    if not is_changed:
        return "it changes nothing in these cases"
    if gain.mean <= 0:
        return f"{figures}, which is no gain"
    if losses:
        return f"{figures}, but {losses[0]}{' and others lose' if len(losses) > 1 else ''}"
    return f"{figures}, and no class loses" if gain.has_interval else f"{figures}, so it is left out"


def _reject(what: str, because: str) -> Step:
    return Step(what=what, rule=None, accepted=False, gain=None, because=because)
