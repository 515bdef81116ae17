"""Applies postprocessing rules to a label map in their order; rules for disjoint masks share one pass over it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float64, Integer

from autoseg.geometry import FloatTriple
from autoseg.labels import LabelScheme
from autoseg.nonzero_region import compute_bounding_box, find_holes, slice_box
from autoseg.postprocessing.components import Components, find_components
from autoseg.postprocessing.rules import ComponentRule, FillHoles, LargestComponent, MinimumSize, Rule


def postprocess_label_map(
    file_label_map: Integer[np.ndarray, "z y x"], rules: Sequence[Rule], *, labels: LabelScheme, spacing_mm: FloatTriple
) -> Integer[np.ndarray, "z y x"]:
    """Applies rules to a label map with the values of the dataset's files; returns a copy if there are rules."""
    if not rules:
        return file_label_map
    return labels.decode(apply_rules(labels.encode(file_label_map), rules, labels=labels, spacing_mm=spacing_mm))


def apply_rules(
    label_map: Integer[np.ndarray, "z y x"], rules: Sequence[Rule], *, labels: LabelScheme, spacing_mm: FloatTriple
) -> Integer[np.ndarray, "z y x"]:
    """Applies rules in their order to a copy of a label map (internal labels).

    Only the bounding box of the foreground is processed: there are no components or holes beyond it.
    """
    finished = label_map.copy()
    for step in _plan_passes(rules, labels):
        box = finished[slice_box(compute_bounding_box(finished != 0))]
        if isinstance(step, _ComponentPass):
            step.apply(box, compute_voxel_mm3(label_map.shape, spacing_mm))
        else:
            holes = find_fillable_holes(box, _find_labels(step, labels), is_image=len(label_map) == 1)
            box[holes] = labels.file_values.index(step.fill_value)
    return finished


def find_fillable_holes(
    label_map: Integer[np.ndarray, "z y x"], members: Sequence[int], *, is_image: bool
) -> Bool[np.ndarray, "z y x"]:
    """Finds the background that a class encloses.

    Args:
        label_map: Internal labels.
        members: Labels of the class.
        is_image: Whether the file has one slice, in which holes are two-dimensional.
    """
    mask = np.isin(label_map, np.asarray(members))
    found = np.zeros_like(mask)
    if not mask.any():
        return found
    box = slice_box(compute_bounding_box(mask))
    found[box] = find_holes(mask[box][0])[None] if is_image else find_holes(mask[box])
    found &= label_map == 0
    return found


def compute_voxel_mm3(shape: Sequence[int], spacing_mm: FloatTriple) -> float:
    """Computes the volume of a voxel; a single slice counts as 1 mm thick."""
    return math.prod(spacing_mm[1:] if shape[0] == 1 else spacing_mm)


@dataclass(frozen=True, slots=True)
class _ComponentPass:
    """Rules for components of equal or disjoint masks, which do not affect each other's components."""

    groups: list[frozenset[int]] = field(default_factory=list)
    rules: list[tuple[int, ComponentRule]] = field(default_factory=list)

    def accepts(self, members: frozenset[int]) -> bool:
        return all(members == group or not members & group for group in self.groups)

    def add(self, members: frozenset[int], rule: ComponentRule) -> None:
        if members not in self.groups:
            self.groups.append(members)
        self.rules.append((self.groups.index(members), rule))

    def apply(self, label_map: Integer[np.ndarray, "z y x"], voxel_mm3: float) -> None:
        """Sets removed components to background, in place."""
        components = find_components(label_map, [sorted(group) for group in self.groups])
        is_kept = np.ones(len(components.voxels), bool)
        for group, rule in self.rules:
            is_kept &= select_kept_components(components, group, rule, voxel_mm3=voxel_mm3)
        for plane, numbers in zip(label_map, components.numbers, strict=True):
            plane[~is_kept[numbers]] = 0


def select_kept_components(
    components: Components, group: int, rule: ComponentRule, *, voxel_mm3: float
) -> Bool[np.ndarray, " component"]:
    """Selects the components that a rule keeps: all of other masks, and those of its mask that satisfy the rule."""
    if isinstance(rule, LargestComponent):
        is_enough = components.find_largest(group)
    else:
        is_enough = is_large_enough(components.voxels * voxel_mm3, rule.minimum_mm3)
    kept: Bool[np.ndarray, " component"] = (components.groups != group) | is_enough
    return kept


def is_large_enough(
    volumes_mm3: Float64[np.ndarray, " component"], minimum_mm3: float
) -> Bool[np.ndarray, " component"]:
    """Compares volumes with a minimum, up to rounding."""
    enough: Bool[np.ndarray, " component"] = volumes_mm3 >= minimum_mm3 * (1 - 1e-9)
    return enough


def _plan_passes(rules: Iterable[Rule], labels: LabelScheme) -> list[_ComponentPass | FillHoles]:
    passes: list[_ComponentPass | FillHoles] = []
    for rule in rules:
        if isinstance(rule, FillHoles):
            passes.append(rule)
            continue
        members = frozenset(_find_labels(rule, labels))
        last = passes[-1] if passes else None
        if not isinstance(last, _ComponentPass) or not last.accepts(members):
            last = _ComponentPass()
            passes.append(last)
        last.add(members, rule)
    return passes


def _find_labels(rule: LargestComponent | MinimumSize | FillHoles, labels: LabelScheme) -> tuple[int, ...]:
    return tuple(labels.file_values.index(value) for value in rule.values)
