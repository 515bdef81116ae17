"""Voxels of each class that cropping and resampling lose, of which nobody would hear before the scores are low."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Final

import numpy as np
from jaxtyping import Int16

from autoseg.errors import shorten_names
from autoseg.fingerprint import CaseFingerprint, ResampledCounts
from autoseg.geometry import (
    IDENTITY,
    DistanceUnit,
    FloatTriple,
    Grid,
    Reorientation,
    compute_reorientation,
    tabulate_triples,
)
from autoseg.labels import LabelScheme
from autoseg.measurement import count_class_voxels
from autoseg.nonzero_region import Box, compute_bounding_box, slice_box
from autoseg.plan.preprocessing import ResamplingPlan
from autoseg.preprocessing.resample import compute_resampled_shape, resample_label_map

REPORTED_FRACTION: Final = 0.05
LEAST_VOXELS: Final = 1.0  # of the new grid: less than that is rounding
MARGIN_VOXELS: Final = 2

# What every planner of autoseg decides, whatever the data.
USUAL_RESAMPLING: Final = ResamplingPlan(image_order=3, label_order=1, logits_order=1, anisotropy_threshold=3.0)

CROPPING: Final = (
    "cropping to the nonzero region: they lie where every channel is 0; check the images (masked too tightly?) and the "
    "label maps"
)
KEPT: Final = "components that would vanish keep one voxel each"
WILL_BE_KEPT: Final = (
    "preprocessing then keeps at most one voxel of each component that would vanish, which is not counted here"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassLoss:
    """Loss of one class in one case.

    Attributes:
        name: Name of the class.
        rule: The rule that causes it, as the end of a sentence.
        before: Number of voxels before.
        expected: Number of voxels that have the same volume afterwards.
        found: Number of voxels afterwards.
        is_predicted: Whether `found` leaves out the voxels that preprocessing keeps of small components.
    """

    case: str
    name: str
    rule: str
    before: int
    expected: float
    found: int
    is_predicted: bool = False


def predict_target_spacing(grids: Iterable[Grid], orientation: str | None) -> FloatTriple | None:
    """Predicts the target spacing by the median of all headers along every axis; None without headers."""
    spacings_mm = tabulate_triples(
        find_reorientation(grid, orientation).apply_to_grid(grid).spacing_mm for grid in grids
    )
    if not len(spacings_mm):
        return None
    z, y, x = np.median(spacings_mm, axis=0).tolist()
    return z, y, x


def find_reorientation(grid: Grid, orientation: str | None) -> Reorientation:
    """Finds the change from the axes of a grid to those of the training orientation."""
    if orientation is None or not grid.is_oriented:
        return IDENTITY
    return compute_reorientation(grid.orientation_code, orientation)


def count_resampled(
    label_map: Int16[np.ndarray, "z y x"],
    labels: LabelScheme,
    *,
    spacing_mm: FloatTriple,
    target_spacing_mm: FloatTriple,
) -> ResampledCounts | None:
    """Counts voxels after resampling to another spacing; None where it has no fewer voxels in all, which loses little.

    Only the box of the foreground is resampled, as nearly as voxels allow on the grid of the whole. Single slices stay
    what they are, as in 2D networks.
    """
    z, y, x = (
        current if extent == 1 else wanted
        for extent, current, wanted in zip(label_map.shape, spacing_mm, target_spacing_mm, strict=True)
    )
    if prod(compute_resampled_shape(label_map.shape, spacing_mm, (z, y, x))) >= label_map.size:
        return None
    ratios = (z / spacing_mm[0], y / spacing_mm[1], x / spacing_mm[2])
    box = np.ascontiguousarray(label_map[slice_box(_find_foreground_box(label_map, ratios))])
    shape = compute_resampled_shape(box.shape, spacing_mm, (z, y, x))
    resampled = resample_label_map(
        box, shape=shape, spacing_mm=spacing_mm, target_spacing_mm=(z, y, x), plan=USUAL_RESAMPLING
    )
    return ResampledCounts(
        spacing_mm=(z, y, x), scale=prod(shape) / box.size, voxel_counts=count_class_voxels(resampled, labels)
    )


def _find_foreground_box(label_map: Int16[np.ndarray, "z y x"], ratios: FloatTriple) -> Box:
    """Finds the box of the labelled voxels between borders of new voxels, with two of those around it.

    Args:
        label_map: Labels.
        ratios: Voxels per new voxel along every axis.
    """
    found = zip(compute_bounding_box(label_map > 0), label_map.shape, ratios, strict=True)
    z, y, x = (
        (
            max(round((start // ratio - MARGIN_VOXELS) * ratio), 0),
            min(round((stop // ratio + 1 + MARGIN_VOXELS) * ratio), extent),
        )
        for (start, stop), extent, ratio in found
    )
    return z, y, x


def find_crop_losses(labels: LabelScheme, cases: Iterable[CaseFingerprint]) -> Iterator[ClassLoss]:
    """Finds classes of which cropping to the nonzero region loses more than a twentieth."""
    for case in cases:
        if case.cropped_voxel_counts is not None:
            yield from compare_counts(case.name, labels, case.voxel_counts, case.cropped_voxel_counts, rule=CROPPING)


def find_resampling_losses(
    labels: LabelScheme, cases: Iterable[CaseFingerprint], *, distance_unit: DistanceUnit
) -> Iterator[ClassLoss]:
    """Finds classes that would lose more than a twentieth of their volume at the predicted spacing."""
    for case in cases:
        resampled, counts = case.resampled, case.cropped_voxel_counts
        if resampled is None or counts is None:
            continue
        spacing = format_spacing(resampled.spacing_mm, distance_unit)
        rule = f"resampling to {spacing}, the median of the dataset (the plan decides); {WILL_BE_KEPT}"
        losses = compare_counts(case.name, labels, counts, resampled.voxel_counts, rule=rule, scale=resampled.scale)
        yield from (replace(loss, is_predicted=True) for loss in losses)


def compare_counts(
    case: str,
    labels: LabelScheme,
    before: Sequence[int],
    after: Sequence[int],
    *,
    rule: str,
    scale: float = 1.0,
) -> Iterator[ClassLoss]:
    """Finds the classes of one case that vanish, or lose more than a twentieth and a voxel.

    Args:
        case: Name of the case.
        labels: Labels of the dataset.
        before: Voxels of every class.
        after: The same afterwards.
        rule: The rule in between, as the end of a sentence.
        scale: Number of voxels afterwards that have the volume of one before.
    """
    for name, count, found in zip(labels.class_names, before, after, strict=True):
        lost = count * scale - found
        if count and (not found or (lost > REPORTED_FRACTION * count * scale and lost >= LEAST_VOXELS)):
            yield ClassLoss(case=case, name=name, rule=rule, before=count, expected=count * scale, found=found)


def warn_of_losses(losses: Iterable[ClassLoss], *, case_count: int) -> list[str]:
    """Writes one warning for each class and rule, with the numbers of the case that loses most."""
    kinds: dict[tuple[str, str], list[ClassLoss]] = {}
    for loss in losses:
        kinds.setdefault((loss.name, loss.rule), []).append(loss)
    return [_describe_losses(same, case_count) for same in kinds.values()]


def format_spacing(spacing_mm: Sequence[float], distance_unit: DistanceUnit) -> str:
    """Formats a spacing along z, y, x, which may be in pixels."""
    unit = "pixels" if distance_unit == "pixel" else distance_unit
    return f"{' x '.join(f'{length:.3g}' for length in spacing_mm)} {unit}"


def _describe_losses(same: Sequence[ClassLoss], case_count: int) -> str:
    vanished = [loss for loss in same if loss.found == 0]
    worst = min(same, key=lambda loss: (loss.found / loss.expected, -loss.expected))
    would = "would " if worst.is_predicted else ""
    vanishes, loses = ("vanish", "lose") if would else ("vanishes", "loses")
    what = vanishes if len(vanished) == len(same) else f"{loses} more than 5 % of its voxels"
    also = f", and {would}{vanishes} in {len(vanished)}" if 0 < len(vanished) < len(same) else ""
    digits = ".3g" if worst.expected < 100 else ".0f"
    volume = "" if worst.expected == worst.before else f" (the volume would be {worst.expected:{digits}} voxels)"
    return (
        f"warning: class {same[0].name!r} {would}{what} in {len(same)} of {case_count} cases "
        f"({shorten_names([loss.case for loss in same])}){also}: in {worst.case}, {worst.before} voxels {would}become "
        f"{worst.found}{volume}, by {same[0].rule}"
    )
