"""Objects from core and border: cores are seeds, and a watershed floods the class from them.

Where the centre distance is learned, too, its peaks may be the seeds, and the watershed descends from them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int16, Int32, Int64, Integer
from pydantic import Field
from scipy import ndimage
from skimage.segmentation import watershed

from autoseg.document import Part
from autoseg.geometry import FloatTriple, Grid
from autoseg.labels import InstanceTargets, LabelScheme
from autoseg.nonzero_region import number_components
from autoseg.postprocessing.application import compute_voxel_mm3, is_large_enough
from autoseg.postprocessing.rules import UNIT_NAMES, SizeUnit

USUAL_THRESHOLD: Final = 0.5
SEED_NAMES: Final = {"cores": "cores", "centres": "centre distances"}


class ObjectRule(Part):
    """Way to find the objects of a class.

    Attributes:
        name: Name of the class.
        value: Its value in the label files.
        seeds: Origin of the seeds, and with it the order in which the class is flooded from them. "cores": a share of
            the core in the probability of the class, the nearest voxels first. "centres": a centre distance, from the
            highest to the lowest.
        seed_threshold: Share of the core, or centre distance, from which on a voxel is a seed.
        minimum_mm3: Smallest object that is kept; an area or a number of pixels as in `MinimumSize`. 0 keeps all.
        unit: Unit of the minimum.
    """

    name: str
    value: int
    seeds: Literal["cores", "centres"] = "cores"
    seed_threshold: Annotated[float, Field(gt=0, lt=1)] = USUAL_THRESHOLD
    minimum_mm3: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    unit: SizeUnit = "mm3"

    def describe(self) -> str:
        """Describes the rule."""
        kept = f", of at least {self.minimum_mm3:g} {UNIT_NAMES[self.unit]}" if self.minimum_mm3 else ""
        return f"objects of {self.name} grow from {SEED_NAMES[self.seeds]} of at least {self.seed_threshold:g}{kept}"


def build_usual_rules(labels: LabelScheme) -> tuple[ObjectRule, ...]:
    """Builds the rules of all classes of a dataset where none were learned."""
    values = labels.file_values[1 : 1 + len(labels.foreground_labels)]
    return tuple(ObjectRule(name=name, value=value) for name, value in zip(labels.class_names, values, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CoreMaps:
    """What a network says of cores and classes, on the grid of the image.

    Attributes:
        classes: The most probable class, core and border together; 0 for background.
        probabilities: Probability of that class.
        cores: Share of the core in it.
        centres: Centre distance that is expected of a voxel of it; None where that is not learned.
    """

    classes: Int16[np.ndarray, "z y x"]
    probabilities: Float32[np.ndarray, "z y x"]
    cores: Float32[np.ndarray, "z y x"]
    centres: Float32[np.ndarray, "z y x"] | None = None


def build_core_maps(
    parts: Iterable[tuple[tuple[slice, slice, slice], Float32[np.ndarray, "label slab_z slab_y slab_x"]]],
    shape: tuple[int, int, int],
    targets: InstanceTargets,
) -> CoreMaps:
    """Summarizes the probabilities of the labels of the network, slab by slab, so that not all are in memory.

    Args:
        parts: Probabilities of background and of all parts of the classes, with their location.
        shape: Shape of the image.
        targets: Labels of the network.
    """
    distances = np.array(targets.part_distances, np.float32)
    maps = CoreMaps(
        classes=np.zeros(shape, np.int16),
        probabilities=np.zeros(shape, np.float32),
        cores=np.zeros(shape, np.float32),
        centres=np.zeros(shape, np.float32) if distances.size else None,
    )
    for place, slab in parts:
        of_parts = slab[1:].reshape(targets.part_count, targets.class_count, *slab.shape[1:])
        cores = sum(of_parts[2:], start=of_parts[0])
        sums = np.concatenate([slab[:1], cores + of_parts[1]])
        classes = sums.argmax(axis=0)
        highest = np.take_along_axis(sums, classes[None], axis=0)[0]
        maps.classes[place], maps.probabilities[place] = classes, highest
        maps.cores[place] = _find_share(cores, classes, highest)
        if maps.centres is not None:
            maps.centres[place] = _find_share(np.tensordot(distances, of_parts, axes=1), classes, highest)
    return maps


def _find_share(
    values: Float32[np.ndarray, "class slab_z slab_y slab_x"],
    classes: Int64[np.ndarray, "slab_z slab_y slab_x"],
    highest: Float32[np.ndarray, "slab_z slab_y slab_x"],
) -> Float32[np.ndarray, "slab_z slab_y slab_x"]:
    """Divides the value of the most probable class by its probability; 0 for background."""
    own = np.take_along_axis(values, np.maximum(classes - 1, 0)[None], axis=0)[0]
    share: Float32[np.ndarray, "slab_z slab_y slab_x"] = np.where(
        classes > 0, own / np.maximum(highest, np.finfo(np.float32).tiny), np.float32(0)
    )
    return share


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundObjects:
    """Objects of an image.

    Attributes:
        numbers: Number of the object at every voxel, 1, 2, ..., those of the first class first; 0 for none.
        classes: Label of the class of every object, that of number 1 first.
        voxels: Voxels of every object.
    """

    numbers: Int32[np.ndarray, "z y x"]
    classes: Int64[np.ndarray, " object"]
    voxels: Int64[np.ndarray, " object"]


def find_objects(maps: CoreMaps, rules: Sequence[ObjectRule], *, grid: Grid) -> FoundObjects:
    """Finds the objects of all classes by their rules, of which there is one for each class.

    A component of a class without any seed is an object, too. Objects below the minimum become background.
    """
    numbers = np.zeros(maps.classes.shape, np.int32)
    classes, total = [], 0
    for label, rule in enumerate(rules, start=1):
        found = remove_small(grow_by_rule(maps, label, rule, spacing_mm=grid.spacing_mm), rule, grid)
        count = int(found.max(initial=0))
        numbers += np.where(found > 0, found + np.int32(total), np.int32(0))
        classes += [label] * count
        total += count
    voxels = np.bincount(numbers.ravel(), minlength=1 + total)[1:]
    return FoundObjects(numbers=numbers, classes=np.array(classes, np.int64), voxels=voxels.astype(np.int64))


def grow_by_rule(
    maps: CoreMaps, label: int, rule: ObjectRule, *, spacing_mm: FloatTriple
) -> Int32[np.ndarray, "z y x"]:
    """Grows the objects of a class from the seeds of a rule, whatever their size."""
    is_class = maps.classes == label
    if rule.seeds == "cores":
        return grow_objects(is_class, is_class & (maps.cores >= rule.seed_threshold), spacing_mm=spacing_mm)
    assert maps.centres is not None, "rules are checked before"
    is_seed = is_class & (maps.centres >= rule.seed_threshold)
    return grow_objects(is_class, is_seed, spacing_mm=spacing_mm, heights=maps.centres)


def grow_objects(
    is_class: Bool[np.ndarray, "z y x"],
    is_seed: Bool[np.ndarray, "z y x"],
    *,
    spacing_mm: FloatTriple,
    heights: Float32[np.ndarray, "z y x"] | None = None,
) -> Int32[np.ndarray, "z y x"]:
    """Floods a class from the components of its seeds.

    Args:
        is_class: Voxels of the class.
        is_seed: Those that are seeds.
        spacing_mm: Spacing of both.
        heights: The highest voxels are flooded first; None: those that are nearest to a seed.
    """
    if not is_seed.any():
        return number_components(is_class)
    (box,) = ndimage.find_objects(is_class.astype(np.int8))
    depths = ndimage.distance_transform_edt(~is_seed[box], sampling=spacing_mm) if heights is None else -heights[box]
    objects = np.zeros(is_class.shape, np.int32)
    objects[box] = _grow_in_box(is_class[box], is_seed[box], depths)
    return objects


def _grow_in_box(
    is_class: Bool[np.ndarray, "z y x"], is_seed: Bool[np.ndarray, "z y x"], depths: Float[np.ndarray, "z y x"]
) -> Int32[np.ndarray, "z y x"]:
    seeds = number_components(is_seed)
    grown = watershed(depths, seeds, mask=is_class, connectivity=np.ones((3, 3, 3)))
    rest = number_components(is_class & (grown == 0))
    objects: Int32[np.ndarray, "z y x"] = np.where(rest > 0, rest + seeds.max(), grown).astype(np.int32)
    return objects


def remove_small(objects: Int32[np.ndarray, "z y x"], rule: ObjectRule, grid: Grid) -> Int32[np.ndarray, "z y x"]:
    """Removes objects below the minimum of a rule, and numbers the others anew without gaps."""
    sizes = np.bincount(objects.ravel()) * compute_voxel_mm3(grid.shape_voxels, grid.spacing_mm)
    is_kept = is_large_enough(sizes, rule.minimum_mm3)
    is_kept[0] = False
    table = np.where(is_kept, np.cumsum(is_kept), 0).astype(np.int32)
    kept: Int32[np.ndarray, "z y x"] = table[objects]
    return kept


def number_reference(
    numbers: Integer[np.ndarray, "z y x"], is_class: Bool[np.ndarray, "z y x"]
) -> Int64[np.ndarray, "z y x"]:
    """Returns the numbers of the objects of a class; its components without a number get one of their own, too."""
    own = np.where(is_class, numbers, 0).astype(np.int64)
    rest = number_components(is_class & (own == 0))
    numbered: Int64[np.ndarray, "z y x"] = np.where(rest > 0, rest + own.max(initial=0), own)
    return numbered


def number_scored_components(
    is_predicted: Bool[np.ndarray, "z y x"],
    is_scored: Bool[np.ndarray, "z y x"],
    *,
    numbers: Integer[np.ndarray, "z y x"],
    is_class: Bool[np.ndarray, "z y x"],
) -> Int32[np.ndarray, "z y x"]:
    """Numbers the components of what is predicted of a class, in its scored voxels alone.

    One that ignored voxels cut stays one, unless the reference has objects without numbers, which they cut, too.

    Args:
        is_predicted: The predicted class.
        is_scored: Voxels that are not ignored.
        numbers: Numbers of the objects of the reference.
        is_class: The class in the reference.
    """
    if (is_class & (numbers == 0)).any():
        return number_components(is_predicted & is_scored)
    return np.where(is_scored, number_components(is_predicted), np.int32(0))
