"""Coarse to fine: a network at full resolution that works only around what a coarse one finds."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from autoseg.errors import PlanError
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.stages import BoxOfPreviousStage
from planners.reasons import format_count, format_extents, format_lengths, format_share, record, record_offer
from planners.rules.cascade import FULL_RESOLUTION, LOW_RESOLUTION
from planners.rules.foreground import Share
from planners.rules.low_resolution import SMALLEST_REDUCTION, ChoosePatch, coarsen, compute_coarser
from planners.rules.median_shape import ResampledDataset

ROI = "3d_roi"
COARSE = "3d_coarse"

COARSE_REDUCTION: Final = 8.0
"""Fewer voxels by this factor, twice coarser along each axis, cost the first stage little beside the second (guess)."""
MOST_EDGE_VOXELS: Final = 16.0
"""Voxels along an edge of an object with which a detector finds it: eight cells at strides of two (guess)."""
LARGEST_BOX_FRACTION: Final = 0.3
"""Share of an image up to which a second stage in the box is offered: with its margin, about half of the voxels of a
median case are then left out at least (guess)."""
MARGIN_VOXELS: Final = 4.0
"""Margin of the box in voxels of the coarse spacing: about what its border may be wrong by (guess; `box_recall` of a
validation tells whether it suffices)."""


def choose_roi(
    fine: ConfigurationPlan,
    coarse: ConfigurationPlan,
    *,
    name: str,
    roi: str = ROI,
    margin_voxels: float = MARGIN_VOXELS,
) -> tuple[ConfigurationPlan, tuple[Reason, ...]]:
    """Chooses the configuration that predicts in the box of a coarse one; all else is as in `fine`.

    Args:
        fine: The configuration for whole images, or one that was chosen for the box, with data of its own.
        coarse: The first stage.
        name: Name of the first stage.
        roi: Name of the configuration that is chosen.
        margin_voxels: Margin of the box, in voxels of the first stage.
    """
    margin_mm = find_margin(coarse, margin_voxels)
    margin = Decision(
        margin_mm,
        f"{margin_voxels:g} times the coarsest spacing of {name}, {max(coarse.spacing_mm):.4g}; a validation measures "
        f"whether every case lies in its box",
    )
    z, y, x = (extent // 2 for extent in fine.patch_voxels)
    surroundings = Decision(
        (z, y, x),
        "half a patch at either end of each axis, so that every voxel of the box can be the centre of a patch: a "
        "network that knows its boxes alone finds foreground where the box of a new image is larger",
    )
    previous = BoxOfPreviousStage(configuration=name, margin_mm=margin.value, training_margin_voxels=surroundings.value)
    like = "" if fine.data_of == roi else f", all else is as in {fine.data_of}"
    exists = Decision(roi, f"asked for; it predicts only in the box of what {name} finds{like}")
    return fine.model_copy(update={"previous_stage": previous}), (
        record(roi, exists, "planned"),
        record(f"{roi}: box margin", margin, f"{margin.value:g} at either end of each axis"),
        record(f"{roi}: training margin", surroundings, f"{format_extents(surroundings.value)} voxels around the box"),
    )


def find_margin(coarse: ConfigurationPlan, margin_voxels: float = MARGIN_VOXELS) -> float:
    """Finds the margin of the box (mm) around what a first stage finds, by its coarsest spacing."""
    return round(margin_voxels * max(coarse.spacing_mm), 3)


def crop_to_box(full: ResampledDataset, box: Share | None, *, margin_mm: float) -> ResampledDataset:
    """Computes the dataset that a second stage sees, if the box has the proportions of the image.

    Args:
        full: The dataset at full resolution, in 3D.
        box: Share of the foreground's box in an image; None without foreground: the images stay whole.
        margin_mm: Margin at either end of each axis.
    """
    along = 1.0 if box is None else box.value ** (1 / len(full.median_shape_voxels))
    shape = tuple(
        min(extent, float(round(extent * along + 2 * margin_mm / spacing_mm)))
        for extent, spacing_mm in zip(full.median_shape_voxels, full.spacing_mm, strict=True)
    )
    share = math.prod(shape) / math.prod(full.median_shape_voxels)
    return replace(full, median_shape_voxels=shape, voxel_count=full.voxel_count * share)


def check_is_finer(fine: ConfigurationPlan, low: ConfigurationPlan) -> None:
    """Checks that a second stage, which was chosen for the box, sees more than the first.

    Raises:
        PlanError: It has not even twice as many voxels for the same volume.
    """
    gain = math.prod(low.spacing_mm) / math.prod(fine.spacing_mm)
    if gain < SMALLEST_REDUCTION:
        msg = (
            f"{ROI} would see {gain:.3g} times as many voxels of the same volume as {LOW_RESOLUTION}, and at least "
            f"{SMALLEST_REDUCTION:g} times are worth while: not even in the box is there time for a finer network; "
            f"leave out --configuration {ROI}, or give a longer --budget"
        )
        raise PlanError(msg)


def explain_box(fine: ConfigurationPlan, seen: ResampledDataset, box: Share | None) -> Reason:
    """Explains the spacing of a second stage that was chosen for the box."""
    share = "no image has foreground" if box is None else f"{format_share(box.value)} of an image, {box.source}"
    spacing = Decision(
        fine.spacing_mm,
        f"there is no time for {FULL_RESOLUTION}, which sees whole images; this one was chosen as if the images were "
        f"their boxes ({share}): {format_extents(seen.median_shape_voxels)} voxels at full resolution, with the margin",
    )
    return record(f"{ROI}: spacing", spacing, format_lengths(fine.spacing_mm, seen.distance_unit))


def choose_coarse(
    full: ResampledDataset,
    *,
    case_count: int,
    choose_patch: ChoosePatch,
    explain: Callable[[ResampledDataset], str | None],
    object_edge_mm: float | None = None,
) -> Decision[ResampledDataset | None]:
    """Chooses the spacing of the first stage: twice coarser, and so coarse that one patch holds the median case.

    Objects, where their size is stated, have at most as many voxels along an edge as a detector needs, unless no
    network exists at such a spacing.

    Args:
        full: The dataset at full resolution.
        case_count: Training cases.
        choose_patch: The patch that a network at another spacing would get.
        explain: Explains why there is no network at another spacing; None if there is one.
        object_edge_mm: Edge of the objects that are looked for; None: it does not matter.
    """
    spacing_mm, full_voxels = np.array(full.spacing_mm), math.prod(full.median_shape_voxels)
    while True:
        spacing_mm = coarsen(spacing_mm)
        coarse, voxels = compute_coarser(full, spacing_mm, case_count=case_count)
        missing = explain(coarse)
        if missing is not None:
            return Decision(None, missing)
        next_one, _ = compute_coarser(full, coarsen(spacing_mm), case_count=case_count)
        is_too_fine = _count_edge_voxels(object_edge_mm, coarse) > MOST_EDGE_VOXELS and explain(next_one) is None
        if is_too_fine or full_voxels < COARSE_REDUCTION * voxels:
            continue
        patch = choose_patch(coarse)
        if all(extent >= size for extent, size in zip(patch, coarse.median_shape_voxels, strict=True)):
            break
    because = (
        f"the first spacing at which the median case has at least {COARSE_REDUCTION:g} times fewer voxels "
        f"({format_count(voxels)}) and one patch of {format_extents(patch)} holds it"
    )
    if object_edge_mm is not None:
        because += (
            f", and an edge of the median object has {_count_edge_voxels(object_edge_mm, coarse):.3g} voxels, where "
            f"{MOST_EDGE_VOXELS:g} suffice"
        )
    return Decision(coarse, because)


def _count_edge_voxels(edge_mm: float | None, dataset: ResampledDataset) -> float:
    """Counts the voxels along an edge of a cube, the mean of all axes."""
    return 0.0 if edge_mm is None else edge_mm / math.prod(dataset.spacing_mm) ** (1 / len(dataset.spacing_mm))


def explain_coarse(coarse: Decision[ResampledDataset], name: str = COARSE) -> Reason:
    """Explains the first stage that is planned for the box alone."""
    return record(name, coarse, format_lengths(coarse.value.spacing_mm, coarse.value.distance_unit))


def offer_roi(configurations: dict[str, ConfigurationPlan], box: Share | None) -> tuple[Reason, ...]:
    """Offers the configuration where a patch shows little of an image, and little of it is foreground.

    Args:
        configurations: The planned ones.
        box: Share of the box of the foreground; None without foreground.
    """
    if LOW_RESOLUTION not in configurations or box is None or box.value > LARGEST_BOX_FRACTION:
        return ()
    problem = f"there is no time to train a network at full resolution, so {LOW_RESOLUTION} sees less than the images"
    if FULL_RESOLUTION in configurations:
        full = configurations[FULL_RESOLUTION]
        covered = math.prod(full.patch_voxels) / math.prod(full.median_shape_voxels)
        problem = (
            f"a patch of {FULL_RESOLUTION} covers {covered * 100:.3g} % of the median case, so prediction takes many "
            f"windows"
        )
    because = (
        f"{problem}, and the box of the foreground has {box.value * 100:.3g} % of an image ({box.source}), where at "
        f"most {LARGEST_BOX_FRACTION * 100:g} % pays (guess): one that predicts only around what {LOW_RESOLUTION} "
        f"finds is planned with --configuration {ROI}"
    )
    return (record_offer(ROI, because),)
