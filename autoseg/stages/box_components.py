"""The components of what a stage finds, and how small one may be without counting for the box of the next stage."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int64

from autoseg.geometry import FloatTriple, IntTriple
from autoseg.nonzero_region import Box, number_components
from autoseg.plan.decisions import Decision

TAKEN_SHARE: Final = 0.5
"""Share of the volume up to which components may be left out of the boxes of all held-out cases: in a new image, one
that matters may be smaller than in any of them (guess)."""
SMALL_SHARE: Final = 0.01
"""Share of the largest component of the median case above which none is left out, however large those of held-out cases
are: a new image may have a second object where none of these has (guess; learned without the only patient of a dataset
who has one, a fortieth to a thirtieth of the first, boxes lost it without this limit, and hold it now)."""
SMALL_VOXELS: Final = 4
"""Voxels of the first stage up to which a component is small, whatever the size of the largest (guess)."""
MISSED_FACTOR: Final = 2.0
"""Distance, as a multiple of the planned margin, from which on something is not predicted at all, so that a margin is
not the remedy (guess)."""

COUNT_DECIMALS: Final = 6  # of a number of voxels, before it is rounded up


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoxComponents:
    """The components of the foreground that a stage finds in a case, the largest first.

    Attributes:
        volumes_mm3: Volumes of the components.
        boxes: First and end voxel of the box of each, along each axis.
        voxel_mm3: Volume of a voxel in which they are found.
    """

    volumes_mm3: Float64[np.ndarray, " component"]
    boxes: Int64[np.ndarray, "component 3 2"]
    voxel_mm3: float

    def move(self, shape_voxels: IntTriple, new_shape_voxels: IntTriple) -> "BoxComponents":
        """Returns them with boxes of the voxels that each touches in another grid of the same space, by both shapes."""
        old, new = np.array(shape_voxels), np.array(new_shape_voxels)
        first, end = self.boxes[:, :, 0] * new // old, -(-self.boxes[:, :, 1] * new // old)
        return replace(self, boxes=np.stack([first, end], axis=-1))

    def widen(self, margin_mm: float, *, spacing_mm: FloatTriple, shape_voxels: IntTriple) -> "BoxComponents":
        """Returns them with boxes that hold the voxels up to a margin around each, as far as there are any."""
        margins = count_margin(margin_mm, spacing_mm)
        widened = self.boxes + np.stack([-margins, margins], axis=-1)
        return replace(self, boxes=np.clip(widened, 0, np.array(shape_voxels)[:, None]))

    def join(self, minimum_mm3: float) -> Box | None:
        """Returns the box around all components of a volume, or around all if none has it; None if there are none."""
        is_kept = self.volumes_mm3 >= minimum_mm3
        kept = self.boxes[is_kept] if is_kept.any() else self.boxes
        if not len(kept):
            return None
        z, y, x = zip(kept[:, :, 0].min(axis=0).tolist(), kept[:, :, 1].max(axis=0).tolist(), strict=True)
        return z, y, x


def count_margin(margin_mm: float, spacing_mm: FloatTriple) -> Int64[np.ndarray, " axis"]:
    """Counts the voxels of a margin along each axis; an error of rounding makes no further voxel."""
    return np.ceil(np.round(margin_mm / np.array(spacing_mm), COUNT_DECIMALS)).astype(np.int64)


def find_components(foreground: Bool[np.ndarray, "z y x"], *, voxel_mm3: float) -> BoxComponents:
    """Finds the components of the foreground."""
    from scipy import ndimage  # imported here because it takes 0.3 s

    numbers = number_components(foreground)
    voxels = np.bincount(numbers.ravel())[1:]
    order = np.argsort(-voxels, kind="stable")
    places = ndimage.find_objects(numbers)
    boxes = [[(part.start, part.stop) for part in places[index]] for index in order]
    return BoxComponents(
        volumes_mm3=voxels[order] * voxel_mm3,
        boxes=np.array(boxes, dtype=np.int64).reshape(len(order), 3, 2),
        voxel_mm3=voxel_mm3,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoxCase:
    """A held-out case whose foreground is to lie in the box.

    Attributes:
        found: Components that a stage finds, with boxes on the grid of the case, without any margin.
        reference: Box of the foreground of the reference; None without any.
        shape_voxels: Shape of the case.
        spacing_mm: Spacing of the case.
        margin_mm: Margin of the boxes.
    """

    found: BoxComponents
    reference: Box | None
    shape_voxels: IntTriple
    spacing_mm: FloatTriple
    margin_mm: float

    @property
    def components(self) -> BoxComponents:
        """The components, with boxes that hold the margin."""
        return self.found.widen(self.margin_mm, spacing_mm=self.spacing_mm, shape_voxels=self.shape_voxels)

    def measure_distance_mm(self, minimum_mm3: float) -> float:
        """Measures how far the reference reaches beyond the box without the margin, along the axis where most."""
        box = self.found.join(minimum_mm3)
        if box is None or self.reference is None:
            return 0.0
        beyond = (np.array(box) - np.array(self.reference)) * (1, -1)
        return max(0.0, float((beyond * np.array(self.spacing_mm)[:, None]).max()))

    def covers(self, minimum_mm3: float) -> bool:
        """Returns whether the reference lies in the box; without a box, the whole image is taken."""
        box = self.components.join(minimum_mm3)
        if box is None or self.reference is None:
            return True
        axes = zip(box, self.reference, strict=True)
        return all(first <= wanted[0] and end >= wanted[1] for (first, end), wanted in axes)

    def measure_share(self, minimum_mm3: float) -> float:
        """Measures the share of the image that the box holds."""
        box = self.components.join(minimum_mm3)
        extents = self.shape_voxels if box is None else [end - first for first, end in box]
        return math.prod(extents) / math.prod(self.shape_voxels)

    def find_largest_minimum(self) -> float:
        """Finds the largest volume of a component with which, as minimum, the box keeps what it has of the reference.

        There is a component.
        """
        boxes, wanted = self.components.boxes, self._find_wanted()
        is_inside = np.minimum.accumulate(boxes[:, :, 0]) <= wanted[:, 0]
        is_inside &= np.maximum.accumulate(boxes[:, :, 1]) >= wanted[:, 1]
        return float(self.components.volumes_mm3[int(np.argmax(is_inside.all(axis=1)))])

    def _find_wanted(self) -> Int64[np.ndarray, "3 2"]:
        """Finds the part of the reference's box that lies in the box of all components; that of the largest if none."""
        box = self.components.join(0.0)
        largest: Int64[np.ndarray, "3 2"] = self.components.boxes[0]
        if box is None or self.reference is None:
            return largest
        wanted: Int64[np.ndarray, "3 2"] = np.clip(np.array(self.reference), *np.array(box).T[:, :, None])
        return wanted if (wanted[:, 0] < wanted[:, 1]).all() else largest


def learn_minimum(cases: Sequence[BoxCase], *, distance_unit: str) -> Decision[float]:
    """Learns the volume in mm3 that a component needs to count for the box, from predictions of held-out cases.

    The box of every case keeps what it has of the reference, and the boxes become smaller; else every component counts.
    """
    count, found = len(cases), [case for case in cases if len(case.found.boxes)]
    largest = min((case.find_largest_minimum() for case in found), default=0.0)
    small = _find_small_volume(found)
    minimum = float(f"{min(TAKEN_SHARE * largest, small):.4g}")
    before, after = (sum(case.measure_share(volume) for case in cases) / count for volume in (0.0, minimum))
    if after >= before:
        because = f"leaving out small components makes the box of no held-out case smaller ({count} cases)"
        return Decision(0.0, because)
    missed = sum(not case.covers(0.0) for case in cases)
    lying = f"all {count} held-out cases"
    if missed:
        lying = f"{count - missed} of {count} held-out cases, as many as in the box of all components,"
    taken = "of which half is taken"
    if minimum < TAKEN_SHARE * largest:
        taken = (
            f"of which {minimum:.4g} are taken, {SMALL_SHARE:g} of what the median case has or {SMALL_VOXELS} voxels"
        )
    because = (
        f"{lying} lie in the box of the components of at least {largest:.4g} {distance_unit}3, {taken}, "
        f"as new images may have smaller ones (guess); boxes hold {after:.3g} of an image, the mean over the cases, "
        f"instead of {before:.3g}"
    )
    return Decision(minimum, because)


def _find_small_volume(cases: Sequence[BoxCase]) -> float:
    """Finds the volume of a component that is small beside the largest one of the median case."""
    if not cases:
        return 0.0
    voxel_mm3 = max(case.found.voxel_mm3 for case in cases)
    return max(SMALL_VOXELS * voxel_mm3, SMALL_SHARE * float(np.median([case.found.volumes_mm3[0] for case in cases])))


def learn_margin(cases: Sequence[BoxCase], minimum_mm3: float, *, distance_unit: str) -> Decision[float]:
    """Learns the distance in mm by which boxes have to be larger than the planned margin, from held-out cases.

    Args:
        cases: The cases; all have the planned margin.
        minimum_mm3: Volume that a component needs to count for the box.
        distance_unit: Unit of lengths.
    """
    count, planned_mm = len(cases), cases[0].margin_mm
    distances_mm = [case.measure_distance_mm(minimum_mm3) for case in cases]
    is_inside = [case.covers(minimum_mm3) for case in cases]
    known_mm = [
        distance_mm
        for distance_mm, is_covered in zip(distances_mm, is_inside, strict=True)
        if is_covered or distance_mm <= MISSED_FACTOR * planned_mm
    ]
    if not known_mm:
        because = (
            f"all {count} held-out cases reach beyond what is predicted by more than {MISSED_FACTOR:g} times the "
            f"margin of {planned_mm:.4g} {distance_unit}: they are predicted in part only, which no margin mends"
        )
        return Decision(0.0, because)
    largest_mm, missed = max(known_mm), count - len(known_mm)
    found = f"the reference reaches at most {largest_mm:.4g} {distance_unit} beyond what is predicted"
    if missed:
        found += f" (in {count - missed} of {count} held-out cases; the others are predicted in part only)"
    else:
        found += f" ({count} held-out cases)"
    if sum(is_inside) == len(known_mm):
        return Decision(0.0, f"{found}, so the margin of {planned_mm:.4g}, in whole voxels, suffices")
    further_mm = float(f"{largest_mm - planned_mm:.9g}")
    wider = [replace(case, margin_mm=planned_mm + further_mm) for case in cases]
    before, after = (sum(case.measure_share(minimum_mm3) for case in some) / count for some in (cases, wider))
    inside_then = sum(case.covers(minimum_mm3) for case in wider)
    because = (
        f"{found}, and the margin is {planned_mm:.4g}: {inside_then} of {count} lie in their boxes instead of "
        f"{sum(is_inside)}, and boxes hold {after:.3g} of an image instead of {before:.3g}"
    )
    return Decision(further_mm, because)
