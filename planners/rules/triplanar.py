"""Slices across several axes of a volume, each seen by a 2D network ("tri-planar")."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from autoseg.geometry import list_plane_order
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.document import ConfigurationPlan
from planners.reasons import format_lengths, record, record_offer
from planners.rules.cascade import FULL_RESOLUTION
from planners.rules.context_slices import SLICES
from planners.rules.median_shape import ResampledDataset

TRIPLANAR = "2d_triplanar"

STRETCHED_FACTOR: Final = 3.0
"""Pixels of a plane are too stretched where one side is more than this number of times the other: the anisotropy factor
of the nnU-Net paper."""
LARGEST_CUBE_FACTOR: Final = 1.5
"""Longest side of a voxel as a multiple of the shortest up to which slices across all axes are taken to look alike
(guess)."""
OWN_REASON: Final = (
    "asked for; the slices across each axis have a network of their own, and these are trained in turn, in the time of "
    "one; their predictions are averaged"
)
SHARED_REASON: Final = (
    "asked for; one network sees the slices across all axes, as this family has none for each of them; its predictions "
    "across all axes are averaged"
)


def choose_plane_axes(dataset: ResampledDataset, *, has_volumes: bool) -> Decision[tuple[int, ...]]:
    """Chooses the plan axes across which slices are seen.

    Args:
        dataset: The dataset at full resolution, in three axes.
        has_volumes: Whether a configuration of volumes is planned, whose data are resampled along all axes.
    """
    if not has_volumes:
        because = f"{FULL_RESOLUTION} is not planned, whose volumes the other axes would need: as in {SLICES}"
        return Decision((0,), because)
    ratios = {axis: _compute_stretch(dataset, axis) for axis in range(3)}
    kept = tuple(axis for axis, ratio in ratios.items() if axis == 0 or ratio <= STRETCHED_FACTOR)
    dropped = [
        f"axis {axis} is left out, as pixels across it are {ratio:.3g} times as long as wide"
        for axis, ratio in ratios.items()
        if axis not in kept
    ]
    spacing = format_lengths(dataset.spacing_mm, dataset.distance_unit)
    because = f"voxels are {spacing}, and pixels of a plane may be up to {STRETCHED_FACTOR:g} times as long as wide"
    same = f", which leaves {SLICES}" if kept == (0,) else ""
    return Decision(kept, "; ".join([because, *dropped]) + same)


def find_plane_dataset(dataset: ResampledDataset, plane_axes: tuple[int, ...]) -> ResampledDataset:
    """Returns the dataset for whose slices the network is chosen: mean spacing and largest extents over the planes."""
    orders = [list_plane_order(axis)[1:] for axis in plane_axes]
    along = list(zip(*orders, strict=True))
    return replace(
        dataset,
        spacing_mm=tuple(sum(dataset.spacing_mm[axis] for axis in axes) / len(axes) for axes in along),
        median_shape_voxels=tuple(max(dataset.median_shape_voxels[axis] for axis in axes) for axes in along),
    )


def choose_triplanar(
    dataset: ResampledDataset,
    *,
    slices: ConfigurationPlan,
    volumes: ConfigurationPlan | None,
    choose: Callable[[str, ResampledDataset], tuple[ConfigurationPlan, tuple[Reason, ...]]],
) -> tuple[ConfigurationPlan, tuple[Reason, ...]]:
    """Chooses the configuration whose network sees slices across several axes.

    Args:
        dataset: The dataset at full resolution, in three axes.
        slices: The 2D configuration, which it equals where one axis is left.
        volumes: The configuration whose data it uses otherwise; None if volumes are not planned.
        choose: Chooses the network and all else for slices of a dataset.
    """
    planes = choose_plane_axes(dataset, has_volumes=volumes is not None)
    told = record(f"{TRIPLANAR}: plane axes", planes, ", ".join(map(str, planes.value)))
    if volumes is None or planes.value == (0,):
        exists = record(TRIPLANAR, Decision(TRIPLANAR, "asked for"), "planned")
        return slices.model_copy(update={"data_of": SLICES}), (exists, told)
    chosen, reasons = choose(TRIPLANAR, find_plane_dataset(dataset, planes.value))
    has_own = chosen.network.may_have_planes
    exists = record(TRIPLANAR, Decision(TRIPLANAR, OWN_REASON if has_own else SHARED_REASON), "planned")
    changes = {
        "spacing_mm": volumes.spacing_mm,
        "median_shape_voxels": volumes.median_shape_voxels,
        "resampling": volumes.resampling,
        "data_of": FULL_RESOLUTION,
        "plane_axes": planes.value,
        "network": chosen.network.with_planes(len(planes.value)) if has_own else chosen.network,
    }
    own = tuple(reason for reason in reasons if reason.subject != f"{TRIPLANAR}: resampling")
    return chosen.model_copy(update=changes), (exists, told, *own)


def offer_triplanar(dataset: ResampledDataset, *, has_volumes: bool) -> tuple[Reason, ...]:
    """Offers the configuration where voxels are nearly cubes, so that slices across all axes look alike.

    Args:
        dataset: The dataset at full resolution, in three axes.
        has_volumes: Whether a configuration of volumes is planned, whose data it needs.
    """
    factor = max(dataset.spacing_mm) / min(dataset.spacing_mm)
    if not has_volumes or factor > LARGEST_CUBE_FACTOR:
        return ()
    because = (
        f"voxels are {format_lengths(dataset.spacing_mm, dataset.distance_unit)}, the longest side {factor:.3g} times "
        f"the shortest, where at most {LARGEST_CUBE_FACTOR:g} times counts as a cube (guess): what sees slices "
        f"across every axis with 2D networks, and averages, is planned with --configuration {TRIPLANAR}"
    )
    return (record_offer(TRIPLANAR, because),)


def _compute_stretch(dataset: ResampledDataset, axis: int) -> float:
    """Computes how many times as long as wide the pixels across an axis are."""
    sides = [dataset.spacing_mm[other] for other in list_plane_order(axis)[1:]]
    return max(sides) / min(sides)
