"""Measures each case of a dataset."""

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int16, Int32, Int64
from numpy.typing import NDArray

from autoseg.fingerprint import CaseFingerprint, MirrorOverlap
from autoseg.geometry import FloatTriple
from autoseg.intensities import IntensityFindings, examine_image
from autoseg.labels import LabelScheme
from autoseg.measurement.foreground import AnySummary, summarize_intensities
from autoseg.measurement.foreground_shape import measure_foreground_shape
from autoseg.nonzero_region import Box, compute_nonzero_box, slice_box
from autoseg.plan.preprocessing import CT_NAME

MOST_POINTS: Final = 64  # of a label map along an axis, where it is compared with its mirror image


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorCounts:
    """Sampled points of one case.

    Attributes:
        sizes: Points of each label, background included.
        overlaps: Rows of axis, label, label whose mirror image lies there, and the number of such points, if any.
    """

    sizes: Int32[np.ndarray, " label"]
    overlaps: Int32[np.ndarray, "overlap 4"]


NO_MIRROR_COUNTS: Final = MirrorCounts(sizes=np.zeros(0, np.int32), overlaps=np.zeros((0, 4), np.int32))


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseMeasurement:
    """Measurements of one case.

    Attributes:
        fingerprint: Shapes, spacing and class sizes.
        mirror_counts: Points at which labels meet mirror images.
        intensities: One summary per channel; empty if the case has no foreground.
    """

    fingerprint: CaseFingerprint
    mirror_counts: MirrorCounts
    intensities: tuple[AnySummary, ...]

    def forget_mirror_counts(self) -> "CaseMeasurement":
        """Returns the measurements without the points at which labels meet mirror images."""
        return replace(self, mirror_counts=NO_MIRROR_COUNTS)


def check_case(
    image: Float32[np.ndarray, "channel z y x"],
    label_map: Int16[np.ndarray, "label_z label_y label_x"] | None = None,
    *,
    channel_names: Sequence[str],
    labels: LabelScheme,
) -> IntensityFindings:
    """Examines the content of one case, except for unknown labels."""
    clipped = [name.casefold() == CT_NAME for name in channel_names]
    if label_map is None:
        return examine_image(image, channel_names, clipped=clipped)
    if image.shape[1:] == label_map.shape:
        foreground = _find_foreground(label_map, labels)
        return examine_image(
            image, channel_names, clipped=clipped, foreground=foreground, label_map=label_map, labels=labels
        )
    text = (
        f"image and label map must have the same shape, found {_show(image.shape[1:])} and "
        f"{_show(label_map.shape)} voxels (z, y, x); draw the labels on the grid of the image"
    )
    return IntensityFindings(problems=(text,)) + examine_image(image, channel_names, clipped=clipped)


def measure_case(
    name: str,
    image: Float32[np.ndarray, "channel z y x"],
    label_map: Int16[np.ndarray, "z y x"],
    *,
    spacing_mm: FloatTriple,
    labels: LabelScheme,
    nonzero_box: Box | None = None,
    intensity_warnings: tuple[str, ...] = (),
) -> CaseMeasurement:
    """Measures one case, with axes z, y, x in the training orientation.

    Args:
        name: Name of the case.
        image: Intensities, all finite.
        label_map: Internal labels.
        spacing_mm: Spacing along z, y, x.
        labels: The label scheme of the dataset.
        nonzero_box: Bounding box of the nonzero region; computed if not given.
        intensity_warnings: Warnings of `check_case`.
    """
    box = nonzero_box or compute_nonzero_box(image)
    cropped_shape = _compute_box_shape(box)
    counts = count_class_voxels(label_map, labels)
    is_whole = cropped_shape == label_map.shape
    inside = slice_box(box)
    cropped = label_map[inside]
    is_foreground = _find_foreground(cropped, labels)
    fingerprint = CaseFingerprint(
        name=name,
        spacing_mm=spacing_mm,
        shape_voxels=label_map.shape,
        cropped_shape_voxels=cropped_shape,
        relative_size_after_cropping=float(np.prod(cropped_shape) / np.prod(label_map.shape)),
        voxel_counts=counts,
        image_digest=compute_image_digest(image),
        cropped_voxel_counts=counts if is_whole else count_class_voxels(cropped, labels),
        intensity_warnings=intensity_warnings,
        ignored_fraction=_measure_ignored(cropped, labels),
        **measure_foreground_shape(cropped, is_foreground),
    )
    intensities = (
        tuple(summarize_intensities(channel[inside][is_foreground]) for channel in image) if is_foreground.any() else ()
    )
    return CaseMeasurement(
        fingerprint=fingerprint, mirror_counts=count_mirrored(label_map, labels), intensities=intensities
    )


def count_class_voxels(label_map: Int16[np.ndarray, "z y x"], labels: LabelScheme) -> tuple[int, ...]:
    """Counts the voxels of every class, in the order of `LabelScheme.class_names`; negative labels are background."""
    # bincount widens its input to 64 bit: slice by slice that costs no memory, and background need not be counted.
    counts: NDArray[np.int64] = np.zeros(len(labels.file_values), dtype=np.int64)
    for plane in label_map:
        counts += np.bincount(plane[plane > 0], minlength=counts.size)
    counts[0] = label_map.size - counts.sum()
    return tuple(int(sum(counts[label] for label in members)) for members in labels.class_labels)


def compute_image_digest(image: Float32[np.ndarray, "channel z y x"]) -> str:
    """Computes a digest by which copies of an image are found under other names.

    A checksum of every plane (26 GB/s, measured) goes into the hash instead of its bytes (0.7 GB/s), because this runs
    over every image of a dataset. It does not protect against forgery.
    """
    from isal import isal_zlib

    digest = hashlib.sha256(repr(image.shape).encode())
    for plane in itertools.chain.from_iterable(image):
        stored = np.ascontiguousarray(plane).data
        digest.update(isal_zlib.crc32(stored).to_bytes(4, "little"))
        digest.update(isal_zlib.adler32(stored).to_bytes(4, "little"))
    return digest.hexdigest()


def _find_foreground(label_map: Int16[np.ndarray, "z y x"], labels: LabelScheme) -> Bool[np.ndarray, "z y x"]:
    """Finds the voxels of all classes; the ignore label is none, unlike in the reference implementation."""
    is_foreground: Bool[np.ndarray, "z y x"] = label_map > 0
    if labels.ignore_label is not None:
        is_foreground &= label_map != labels.ignore_label
    return is_foreground


def _measure_ignored(label_map: Int16[np.ndarray, "z y x"], labels: LabelScheme) -> float | None:
    if labels.ignore_label is None:
        return None
    return sum(int(np.count_nonzero(plane == labels.ignore_label)) for plane in label_map) / label_map.size


def _compute_box_shape(box: Box) -> tuple[int, int, int]:
    (z_start, z_stop), (y_start, y_stop), (x_start, x_stop) = box
    return z_stop - z_start, y_stop - y_start, x_stop - x_start


def _show(shape: tuple[int, ...]) -> str:
    return " x ".join(str(extent) for extent in shape)


def count_mirrored(label_map: Int16[np.ndarray, "z y x"], labels: LabelScheme) -> MirrorCounts:
    """Counts the points at which a foreground label meets the mirror image of a foreground label, by axis.

    The label map is mirrored about the centre of its foreground, so that the place of the patient does not matter.
    """
    count = len(labels.foreground_labels) + 1
    points = _sample_foreground(label_map)
    points = np.where((points < 0) | (points >= count), 0, points).astype(np.int64)
    rows = []
    for axis in range(points.ndim):
        met = np.bincount((points * count + np.flip(points, axis)).ravel(), minlength=count * count)
        table = met.reshape(count, count)[1:, 1:]
        first, second = np.nonzero(table)
        rows.append(np.stack([np.full_like(first, axis), first + 1, second + 1, table[first, second]], axis=1))
    sizes = np.bincount(points.ravel(), minlength=count)
    return MirrorCounts(sizes=sizes.astype(np.int32), overlaps=np.concatenate(rows).astype(np.int32))


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
