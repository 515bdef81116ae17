"""Overlap of labels with mirror images, of their own and of other labels, along each axis.

A label map is mirrored about the centre of its foreground, so that the place of the patient in the image does not
matter. It is sampled at a grid of points that mirroring maps onto itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64, Int16, Int64

from autoseg.fingerprint import MirrorOverlap
from autoseg.labels import LabelScheme

MOST_POINTS: Final = 64  # per axis; all voxels of a smaller foreground


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorCounts:
    """Sampled points of one case.

    Attributes:
        sizes: Points of each label, background included.
        overlaps: Rows of axis, label, label whose mirror image lies there, and the number of such points, if any.
    """

    sizes: Int64[np.ndarray, " label"]
    overlaps: Int64[np.ndarray, "overlap 4"]


def count_mirrored(label_map: Int16[np.ndarray, "z y x"], labels: LabelScheme) -> MirrorCounts:
    """Counts the points at which a foreground label meets the mirror image of a foreground label, by axis."""
    count = len(labels.foreground_labels) + 1
    points = _sample_foreground(label_map)
    points = np.where((points < 0) | (points >= count), 0, points).astype(np.int64)
    rows = []
    for axis in range(points.ndim):
        met = np.bincount((points * count + np.flip(points, axis)).ravel(), minlength=count * count)
        table = met.reshape(count, count)[1:, 1:]
        first, second = np.nonzero(table)
        rows.append(np.stack([np.full_like(first, axis), first + 1, second + 1, table[first, second]], axis=1))
    return MirrorCounts(sizes=np.bincount(points.ravel(), minlength=count), overlaps=np.concatenate(rows))


def merge_mirror_counts(cases: Iterable[MirrorCounts], labels: LabelScheme) -> tuple[MirrorOverlap, ...]:
    """Computes the mean overlaps (Dice) of each label along each axis, over the cases that have it."""
    count = len(labels.foreground_labels) + 1
    dice, present = np.zeros((3, count, count)), np.zeros((count, count), np.int64)
    for case in cases:
        is_there = case.sizes > 0
        present += np.outer(is_there, is_there)
        axis, first, second, points = case.overlaps.T
        dice[axis, first, second] += 2 * points / (case.sizes[first] + case.sizes[second])
    means = dice / np.maximum(present, 1)
    return tuple(
        _describe_overlap(label, axis, means[axis, label], case_count=int(present[label, label]))
        for label in labels.foreground_labels
        if present[label, label]
        for axis in range(3)
    )


def _describe_overlap(label: int, axis: int, means: Float64[np.ndarray, " label"], *, case_count: int) -> MirrorOverlap:
    others = means.copy()
    others[label] = 0
    partner = int(others.argmax())
    return MirrorOverlap(
        label=label,
        axis=axis,
        case_count=case_count,
        own=float(means[label]),
        partner=partner if others[partner] > 0 else None,
        partner_overlap=float(others[partner]),
    )


def _sample_foreground(
    label_map: Int16[np.ndarray, "z y x"],
) -> Int16[np.ndarray, "point_z point_y point_x"]:
    """Samples the bounding box of the foreground; a single point of background where there is none."""
    plane = np.zeros(label_map.shape[1:], dtype=bool)
    is_slice_used = np.zeros(len(label_map), dtype=bool)
    for index, labels in enumerate(label_map):  # slice by slice: no array of the whole case
        is_foreground = labels > 0
        is_slice_used[index] = is_foreground.any()
        plane |= is_foreground
    if not is_slice_used.any():
        return np.zeros((1, 1, 1), np.int16)
    profiles = (is_slice_used, plane.any(axis=1), plane.any(axis=0))
    ends = (np.flatnonzero(profile)[[0, -1]].tolist() for profile in profiles)
    sampled: Int16[np.ndarray, "point_z point_y point_x"] = label_map[np.ix_(*(_choose_points(*each) for each in ends))]
    return sampled


def _choose_points(first: int, last: int) -> Int64[np.ndarray, " point"]:
    """Returns evenly spread indices from `first` to `last` that are symmetric about their centre."""
    extent = last - first + 1
    if extent <= MOST_POINTS:
        return np.arange(first, last + 1)
    lower = ((np.arange(MOST_POINTS // 2) + 0.5) * extent / MOST_POINTS).astype(np.int64)
    return first + np.concatenate([lower, extent - 1 - lower[::-1]])
