"""Core and border of numbered objects: what a network learns in order to tell objects apart.

Cores of different objects never touch, so that each is a connected component, from which the object is grown again.
"""

import numpy as np
from jaxtyping import Bool, Int16, Int32

from autoseg.geometry import FloatTriple, surround
from autoseg.labels import InstanceTargets
from autoseg.preprocessing.touching_objects import find_contacts

NEIGHBOURS = 26  # faces, edges and corners
IGNORED = -1  # number of the part at voxels of the ignore label


def build_core_and_border(
    label_map: Int16[np.ndarray, "z y x"],
    objects: Int32[np.ndarray, "z y x"],
    *,
    spacing_mm: FloatTriple,
    targets: InstanceTargets,
) -> Int16[np.ndarray, "z y x"]:
    """Replaces the classes of a label map by cores and borders of its objects.

    The core of an object is farther from its surface than a fraction of its largest distance, and than one voxel along
    the finest axis; voxels that touch another object of the class are border, whatever their distance. Neither the end
    of the image nor a voxel of the ignore label is a surface: the object may continue there. Parts of an object that
    are not connected have cores of their own. Foreground without a number is taken apart into its connected components.

    With centre steps the core is divided by the centre distance: (d / D - f) / (1 - f), where d is the distance of a
    voxel from the surface of its object in mm, D the largest one in it, and f the fraction that is border. It is
    rounded up to the next step. d / D is the distance of StarDist (Schmidt et al. 2018, arXiv:1806.03535), steps as
    labels are those of the deep watershed transform (Bai and Urtasun 2017, arXiv:1611.08303).

    Args:
        label_map: Labels of the dataset.
        objects: Number of the object at every voxel; 0 for none.
        spacing_mm: Spacing of both.
        targets: Labels, width of the border, and centre steps.
    """
    count = targets.class_count
    classes = np.where((label_map > 0) & (label_map <= count), label_map, np.int16(0))
    parts = _number_parts(classes, objects, count)
    if targets.labels.ignore_label is not None:
        parts[label_map == targets.labels.ignore_label] = IGNORED
    steps = _find_steps(parts, spacing_mm, targets)
    is_core = steps > 0
    is_parted = is_core & ~find_contacts(classes, parts, dimensions=3)
    vanishing = np.setdiff1d(np.unique(parts[is_core]), np.unique(parts[is_parted]))
    if vanishing.size:
        is_parted |= is_core & np.isin(parts, vanishing)
    further = np.where(is_parted & (steps > 1), steps, np.int16(0))
    built = classes + np.int16(count) * np.where((classes > 0) & ~is_parted, np.int16(1), further)
    found: Int16[np.ndarray, "z y x"] = built.astype(np.int16, copy=False)
    if targets.labels.ignore_label is not None:
        found[label_map == targets.labels.ignore_label] = targets.target_labels.ignore_label
    return found


def _number_parts(
    classes: Int16[np.ndarray, "z y x"], objects: Int32[np.ndarray, "z y x"], count: int
) -> Int32[np.ndarray, "z y x"]:
    """Numbers the connected parts of every object of every class."""
    import cc3d  # imported here because only workers that prepare objects need it

    keys = np.where(classes > 0, objects.astype(np.uint64) * np.uint64(count + 1) + classes.astype(np.uint64), 0)
    parts: Int32[np.ndarray, "z y x"] = cc3d.connected_components(keys, connectivity=NEIGHBOURS).astype(np.int32)
    return parts


def _find_steps(
    parts: Int32[np.ndarray, "z y x"], spacing_mm: FloatTriple, targets: InstanceTargets
) -> Int16[np.ndarray, "z y x"]:
    """Finds the centre step of every voxel of a core, from 1; 1 for all where there are none, 0 outside of cores."""
    from scipy import ndimage  # imported here because it takes 0.3 s

    steps = np.zeros(parts.shape, np.int16)
    across = [mm for mm, extent in zip(spacing_mm, parts.shape, strict=True) if extent > 1]  # a slice has no depth
    least_mm = min(across or spacing_mm)
    for index, box in enumerate(ndimage.find_objects(parts)):
        around = surround(box)
        is_part = parts[around] == index + 1
        is_open = is_part | (parts[around] == IGNORED)
        found = _find_part_steps(is_part, is_open, spacing_mm, targets=targets, least_mm=least_mm)
        steps[around] = np.where(is_part, found, steps[around])
    return steps


def _find_part_steps(
    is_part: Bool[np.ndarray, "z y x"],
    is_open: Bool[np.ndarray, "z y x"],
    spacing_mm: FloatTriple,
    *,
    targets: InstanceTargets,
    least_mm: float,
) -> Int16[np.ndarray, "z y x"]:
    """Finds the steps of a part, whose surface is where `is_open` ends: it may continue in ignored voxels."""
    from scipy import ndimage  # imported here because it takes 0.3 s

    most = max(1, targets.centre_steps)
    if is_open.all():
        return np.full(is_part.shape, most, np.int16)
    distances_mm = ndimage.distance_transform_edt(is_open, sampling=spacing_mm)
    largest_mm, fraction = distances_mm[is_part].max(), targets.border_fraction
    width_mm = max(fraction * largest_mm, least_mm)
    is_core = distances_mm > width_mm if largest_mm > width_mm else distances_mm == largest_mm
    steps = np.ceil(targets.centre_steps * (distances_mm / largest_mm - fraction) / (1 - fraction)).clip(1, most)
    found: Int16[np.ndarray, "z y x"] = np.where(is_core, steps, 0).astype(np.int16)
    return found
