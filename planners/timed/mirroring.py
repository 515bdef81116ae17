"""Mirroring by data: kept, dropped, or with the labels of left and right exchanged."""

import re
from collections import Counter
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from autoseg.fingerprint import Fingerprint, MirrorOverlap
from autoseg.geometry import IntTriple
from autoseg.plan.augmentation import MirrorPairsPlan, MirrorPlan, TransformPlan
from autoseg.plan.decisions import Decision
from planners.reasons import AXIS_NAMES

SIDE_WORDS: Final = {"left": "right", "l": "r", "lh": "rh", "lt": "rt"}
"""Words of names of classes that tell sides, such as in kidney_left, Lung-L, lh.hippocampus."""
PAIR_OVERLAP: Final = 0.2
"""Dice of a named pair with each other's mirror image, which must also exceed that with their own (guess)."""
UNNAMED_PAIR_OVERLAP: Final = 0.5  # the same of a pair whose names tell no sides (guess)
UNNAMED_OWN_OVERLAP: Final = 0.1  # Dice of these with their own mirror image, at most (guess)
SYMMETRIC_OVERLAP: Final = 0.5
"""Mean Dice of all labels with the mirror image of their partner, or their own, from which on mirrored anatomy with
exchanged sides looks like anatomy (guess)."""
SYMMETRIC_OWN_OVERLAP: Final = 0.7
"""Mean Dice of all labels with their own mirror image from which on anatomy without pairs counts as symmetric along an
axis (guess). Hippocampus, where mirroring costs, reaches 0.52, brain tumours 0.31 (measured, along the best axis)."""
MEASURED: Final = "mirroring all axes costs 0.004 to 0.02 of mean Dice on Hippocampus in the same time"

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SideFindings:
    """Labels of left and right.

    Attributes:
        axis: Array axis between left and right.
        named: Pairs by their names, confirmed or not.
        confirmed: Pairs of labels that are each other's mirror image.
        symmetry: Mean overlap of all labels with the mirror image of their partner, or their own; None if it was not
            measured.
    """

    axis: int
    named: Pairs
    confirmed: Pairs
    symmetry: float | None


def choose_mirroring(
    fingerprint: Fingerprint, axis_permutation: IntTriple, dimensions: int
) -> Decision[tuple[TransformPlan, ...]]:
    """Chooses the transforms that flip patches, which may be none.

    Images without an orientation are mirrored along every axis. Those of a known orientation are not, as mirrored
    anatomy need not be learnt in little time, but for axes along which it is symmetric: between left and right once
    paired labels are exchanged, along others if labels overlap their own mirror images.

    Args:
        fingerprint: Fingerprint of the dataset.
        axis_permutation: Array axis of each plan axis.
        dimensions: Number of axes of the patch.
    """
    found = find_sides(fingerprint)
    axes = axis_permutation[-dimensions:]
    side = axes.index(found.axis) if found.axis in axes else None
    measured = describe_sides(found, fingerprint)
    pairs = () if side is None or not found.confirmed else (MirrorPairsPlan(axis=side, pairs=found.confirmed),)
    if fingerprint.orientation is None:
        return _choose_for_pictures(found, pairs, side, (dimensions, measured))
    passes = f"prediction takes one pass instead of {2**dimensions}"
    oriented = f"every image is brought to the orientation {fingerprint.orientation}"
    own = measure_symmetry(fingerprint)
    paired_axis = found.axis if found.named or found.confirmed else None
    alike = tuple(
        index for index, axis in enumerate(axes) if own.get(axis, 0.0) >= SYMMETRIC_OWN_OVERLAP and axis != paired_axis
    )
    measured = "; ".join(part for part in (measured, describe_symmetry(own)) if part)
    if alike:
        exchanged = pairs if found.symmetry is not None and found.symmetry >= SYMMETRIC_OVERLAP else ()
        change = ", and left and right, where paired labels change places" if exchanged else ""
        names = " and ".join(AXIS_NAMES[axes[index]] for index in alike)
        because = (
            f"mirrored along {names}, where labels look like their own mirror images{change}: {measured}; {oriented}, "
            f"so other mirrored anatomy need not be learnt"
        )
        return Decision((MirrorPlan(axes=alike), *exchanged), because)
    if pairs and found.symmetry is not None and found.symmetry >= SYMMETRIC_OVERLAP:
        because = (
            f"only the axis between left and right is mirrored, and paired labels change places: {measured}; "
            f"{oriented}, so other mirrored anatomy need not be learnt"
        )
        return Decision(pairs, because)
    because = (
        f"nothing is mirrored: {oriented}, so mirrored anatomy need not be learnt in little time ({MEASURED}), and "
        f"{passes}"
    )
    return Decision((), f"{because}; {measured}" if measured else because)


def _choose_for_pictures(
    found: SideFindings, pairs: tuple[MirrorPairsPlan, ...], side: int | None, told: tuple[int, str]
) -> Decision[tuple[TransformPlan, ...]]:
    dimensions, measured = told
    if not found.named and not pairs:
        because = f"all {dimensions} axes are mirrored, here and in prediction"
        return Decision((MirrorPlan(axes=tuple(range(dimensions))),), f"{because}; {measured}" if measured else because)
    others = tuple(axis for axis in range(dimensions) if axis != side)
    plain = (MirrorPlan(axes=others),) if others else ()
    change = "paired labels change places" if pairs else "is not mirrored, so that left and right stay apart"
    because = f"along the axis between left and right {change}; the others are mirrored: {measured}"
    return Decision((*plain, *pairs), because)


def measure_symmetry(fingerprint: Fingerprint) -> dict[int, float]:
    """Returns the mean overlap of all labels with their own mirror images by array axis."""
    axes = sorted({entry.axis for entry in fingerprint.mirror_overlaps})
    return {axis: fmean(entry.own for entry in fingerprint.mirror_overlaps if entry.axis == axis) for axis in axes}


def describe_symmetry(own: dict[int, float]) -> str:
    """Describes the overlaps of labels with their own mirror images; empty if they were not measured."""
    if not own:
        return ""
    figures = ", ".join(f"{AXIS_NAMES[axis]} {overlap:.2f}" for axis, overlap in own.items())
    return (
        f"labels overlap with their own mirror images by a mean Dice of {figures} (an axis counts as symmetric from "
        f"{SYMMETRIC_OWN_OVERLAP:g} on)"
    )


def find_sides(fingerprint: Fingerprint) -> SideFindings:
    """Finds the labels of left and right by their names and by their overlap with mirror images."""
    axis = find_side_axis(fingerprint.orientation)
    overlaps = {entry.label: entry for entry in fingerprint.mirror_overlaps if entry.axis == axis}
    named = pair_names(name_labels(fingerprint))
    confirmed = (*(pair for pair in named if _is_confirmed(pair, overlaps)), *_pair_unnamed(named, overlaps))
    if fingerprint.labels.exchange_outputs(confirmed) is None:
        confirmed = ()  # a region has no counterpart
    paired = {label for pair in confirmed for label in pair}
    symmetries = [entry.partner_overlap if label in paired else entry.own for label, entry in overlaps.items()]
    return SideFindings(axis=axis, named=named, confirmed=confirmed, symmetry=fmean(symmetries) if symmetries else None)


def find_side_axis(orientation: str | None) -> int:
    """Finds the array axis (z, y, x) between left and right; of pictures, the horizontal one."""
    if orientation is None:
        return 2
    return 2 - next(index for index, letter in enumerate(orientation) if letter in "LR")


def name_labels(fingerprint: Fingerprint) -> dict[int, str]:
    """Returns the names of internal labels; a label that is no class by itself has none."""
    values = fingerprint.labels.file_values
    return {values.index(entry.values[0]): entry.name for entry in fingerprint.labels.classes if len(entry.values) == 1}


def pair_names(names: dict[int, str]) -> Pairs:
    """Pairs labels whose names differ in one word, which tells the side: kidney_left and kidney_right, L2 and R2.

    Names of the same words, such as Lung-L and lung_l, do not tell which of them is meant, and are not paired; nor is
    a label that would belong to several pairs.
    """
    words_of = {label: _split(name) for label, name in names.items()}
    owners = Counter(words_of.values())
    labels = {words: label for label, words in words_of.items() if owners[words] == 1}
    pairs = []
    for words, label in labels.items():
        for position, word in enumerate(words):
            other = SIDE_WORDS.get(word)
            partner = None if other is None else labels.get((*words[:position], other, *words[position + 1 :]))
            if partner is not None:
                pairs.append((label, partner))
    uses = Counter(label for pair in pairs for label in pair)
    return tuple(pair for pair in pairs if all(uses[label] == 1 for label in pair))


def _split(name: str) -> tuple[str, ...]:
    """Splits a name into words in small letters, at changes of letters, numbers and capitals."""
    return tuple(word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name))


def _is_confirmed(pair: tuple[int, int], overlaps: dict[int, MirrorOverlap]) -> bool:
    """Whether each of a named pair overlaps the mirror image of the other more than that of any label."""
    return all(
        (entry := overlaps.get(label)) is not None
        and entry.partner == partner
        and entry.partner_overlap >= max(PAIR_OVERLAP, entry.own)
        for label, partner in (pair, pair[::-1])
    )


def _pair_unnamed(named: Pairs, overlaps: dict[int, MirrorOverlap]) -> Pairs:
    """Pairs labels that are each other's mirror image by their overlaps alone."""
    taken = {label for pair in named for label in pair}
    found = []
    for label, entry in overlaps.items():
        other = None if entry.partner is None else overlaps.get(entry.partner)
        if other is None or label > other.label or other.partner != label or {label, other.label} & taken:
            continue
        is_clear = entry.partner_overlap >= UNNAMED_PAIR_OVERLAP
        if is_clear and max(entry.own, other.own) <= UNNAMED_OWN_OVERLAP:
            found.append((label, other.label))
    return tuple(found)


def describe_sides(found: SideFindings, fingerprint: Fingerprint) -> str:
    """Describes what was measured of left and right; empty if nothing was."""
    if found.symmetry is None:
        return "classes of left and right are known by their names alone" if found.named else ""
    names = name_labels(fingerprint)
    overlaps = {entry.label: entry for entry in fingerprint.mirror_overlaps if entry.axis == found.axis}
    text = (
        f"mirrored along {AXIS_NAMES[found.axis]} about the centre of the foreground, labels overlap with their own "
        f"mirror image, or that of their partner, by a Dice of {found.symmetry:.2f} on average (anatomy counts as "
        f"symmetric from {SYMMETRIC_OVERLAP:g} on, if it has pairs)"
    )
    for label, partner in (found.confirmed or found.named)[:1]:
        first, second = (names.get(each, f"label {each}") for each in (label, partner))
        more = len(found.confirmed or found.named) - 1
        also = f" (and {more} more)" if more else ""
        mirrored = overlaps[label].partner_overlap if found.confirmed else None
        state = (
            "not each other's mirror image" if mirrored is None else f"each other's mirror image, Dice {mirrored:.2f}"
        )
        text += f"; {first} and {second}{also} are {state}"
    return text
