"""Effects of postprocessing rules on one case in voxel counts, from which rules are learned without label maps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer

from autoseg.evaluation.case_metrics import LabelMapPair, clear_ignored
from autoseg.evaluation.overlap import count_confusion, count_voxels
from autoseg.geometry import FloatTriple
from autoseg.labels import LabelScheme
from autoseg.nonzero_region import compute_bounding_box, slice_box
from autoseg.postprocessing.application import compute_voxel_mm3, find_fillable_holes
from autoseg.postprocessing.components import Components, Groups, find_components

BACKGROUND = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counts:
    """Numbers of voxels of every class in the prediction, in the reference, and in both, without ignored voxels.

    Attributes:
        predicted: Counts of one case, or one row for each case.
    """

    predicted: Int64[np.ndarray, "*case class"]
    reference: Int64[np.ndarray, "*case class"]
    both: Int64[np.ndarray, "*case class"]

    def compute_dice(self) -> Float64[np.ndarray, "*case class"]:
        """Computes the Dice of every class; NaN where a class is in neither."""
        total = self.predicted + self.reference
        dice = np.full(total.shape, np.nan)
        np.divide(2.0 * self.both, total, out=dice, where=total > 0)
        return dice

    def change(self, change: "Change") -> "Counts":
        """Returns the counts after a change of the prediction."""
        return Counts(
            predicted=self.predicted + change.predicted, reference=self.reference, both=self.both + change.both
        )

    def select(self, rows: Bool[np.ndarray, " case"]) -> "Counts":
        """Selects some of the cases."""
        return Counts(predicted=self.predicted[rows], reference=self.reference[rows], both=self.both[rows])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change:
    """Change of the counts of a prediction; negative where voxels are removed."""

    predicted: Int64[np.ndarray, "*case class"]
    both: Int64[np.ndarray, "*case class"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComponentEffects:
    """The components of one mask in one case.

    Attributes:
        volumes_mm3: Volume of each component.
        voxels: Number of voxels of each component.
        classes: Indices of the classes that change when a component is removed.
        predicted: Change of their voxels in the prediction when a component is removed.
        both: Change of their voxels in both prediction and reference.
    """

    volumes_mm3: Float64[np.ndarray, " component"]
    voxels: Int64[np.ndarray, " component"]
    classes: Int64[np.ndarray, " affected"]
    predicted: Int64[np.ndarray, "component affected"]
    both: Int64[np.ndarray, "component affected"]

    @property
    def is_largest(self) -> Bool[np.ndarray, " component"]:
        """Whether a component is the largest; several are if they tie."""
        largest: Bool[np.ndarray, " component"] = self.voxels == self.voxels.max(initial=0)
        return largest

    def select(self, chosen: Bool[np.ndarray, " component"]) -> "ComponentEffects":
        """Selects some of the components."""
        return ComponentEffects(
            volumes_mm3=self.volumes_mm3[chosen],
            voxels=self.voxels[chosen],
            classes=self.classes,
            predicted=self.predicted[chosen],
            both=self.both[chosen],
        )

    def remove(self, removed: Bool[np.ndarray, " component"], class_count: int) -> Change:
        """Computes the change when some components are removed."""
        change = Change(predicted=np.zeros(class_count, np.int64), both=np.zeros(class_count, np.int64))
        change.predicted[self.classes] = self.predicted[removed].sum(axis=0)
        change.both[self.classes] = self.both[removed].sum(axis=0)
        return change


def count_class_voxels(pair: LabelMapPair, labels: LabelScheme) -> Counts:
    """Counts the voxels of every class."""
    cleared, ignored_voxels = clear_ignored(pair.prediction, pair.reference, labels.ignore_label)
    confusion = count_confusion(
        cleared.prediction,
        cleared.reference,
        label_count=len(labels.file_values),
        total_voxels=pair.reference.size - ignored_voxels,
    )
    counts = [count_voxels(confusion, members) for members in labels.class_labels]
    return Counts(
        predicted=np.array([entry.predicted for entry in counts], np.int64),
        reference=np.array([entry.in_reference for entry in counts], np.int64),
        both=np.array([entry.true_positives for entry in counts], np.int64),
    )


def measure_components(
    pair: LabelMapPair, groups: Groups, *, labels: LabelScheme, spacing_mm: FloatTriple
) -> tuple[ComponentEffects, ...]:
    """Measures the components of disjoint masks and the effect of their removal, in one pass for all masks."""
    box = slice_box(compute_bounding_box(pair.prediction != BACKGROUND))
    prediction, reference = pair.prediction[box], pair.reference[box]
    components = find_components(prediction, groups)
    counted = _count_triples(components, prediction, reference, labels)
    voxel_mm3 = compute_voxel_mm3(pair.prediction.shape, spacing_mm)
    return tuple(
        _collect_effects(components, index, members, counted=counted, voxel_mm3=voxel_mm3)
        for index, members in enumerate(groups)
    )


def measure_holes(pair: LabelMapPair, index: int, *, labels: LabelScheme) -> Change:
    """Measures the effect of filling the holes of a class."""
    fill_label = labels.region_write_labels[index] if labels.has_regions else labels.class_labels[index][0]
    box = slice_box(compute_bounding_box(pair.prediction != BACKGROUND))
    is_image = len(pair.prediction) == 1
    holes = find_fillable_holes(pair.prediction[box], labels.class_labels[index], is_image=is_image)
    found = np.bincount(pair.reference[box][holes], minlength=len(labels.file_values))
    if labels.ignore_label is not None:
        found[labels.ignore_label] = 0
    is_member = _tabulate_members(labels)
    change = is_member[:, fill_label].astype(np.int64) - is_member[:, BACKGROUND]
    return Change(predicted=change * found.sum(), both=change * (is_member @ found))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Triples:
    """Numbers of voxels of each combination of component, predicted label and reference label."""

    components: Int64[np.ndarray, " triple"]
    predicted: Int64[np.ndarray, " triple"]
    referenced: Int64[np.ndarray, " triple"]
    voxels: Int64[np.ndarray, " triple"]
    is_member: Bool[np.ndarray, "class label"]


def _count_triples(
    components: Components,
    prediction: Integer[np.ndarray, "z y x"],
    reference: Integer[np.ndarray, "z y x"],
    labels: LabelScheme,
) -> _Triples:
    label_count = len(labels.file_values)
    is_counted = components.numbers > 0
    if labels.ignore_label is not None:
        is_counted &= reference != labels.ignore_label
    keys = components.numbers[is_counted].astype(np.int64)
    for label_map in (prediction, reference):
        keys *= label_count
        keys += label_map[is_counted]
    found, voxels = np.unique(keys, return_counts=True)
    pairs, referenced = np.divmod(found, label_count)
    numbers, predicted = np.divmod(pairs, label_count)
    return _Triples(
        components=numbers,
        predicted=predicted,
        referenced=referenced,
        voxels=voxels.astype(np.int64),
        is_member=_tabulate_members(labels),
    )


def _tabulate_members(labels: LabelScheme) -> Bool[np.ndarray, "class label"]:
    table = np.zeros((len(labels.class_labels), len(labels.file_values)), bool)
    for index, members in enumerate(labels.class_labels):
        table[index, list(members)] = True
    return table


def _collect_effects(
    components: Components, group: int, members: Sequence[int], *, counted: _Triples, voxel_mm3: float
) -> ComponentEffects:
    chosen = np.flatnonzero(components.groups == group)
    # A class changes where its voxels become background, and where background belongs to it.
    differs = counted.is_member[:, list(members)] != counted.is_member[:, [BACKGROUND]]
    classes = np.flatnonzero(differs.any(axis=1))
    changes = [_sum_changes(counted, int(index), len(components.voxels)) for index in classes]
    return ComponentEffects(
        volumes_mm3=components.voxels[chosen] * voxel_mm3,
        voxels=components.voxels[chosen],
        classes=classes,
        predicted=np.array([change.predicted[chosen] for change in changes], np.int64).reshape(len(classes), -1).T,
        both=np.array([change.both[chosen] for change in changes], np.int64).reshape(len(classes), -1).T,
    )


def _sum_changes(counted: _Triples, index: int, component_count: int) -> Change:
    is_member = counted.is_member[index]
    change = counted.voxels * (int(is_member[BACKGROUND]) - is_member[counted.predicted].astype(np.int64))
    sums = [np.zeros(component_count, np.int64) for _ in range(2)]
    np.add.at(sums[0], counted.components, change)
    np.add.at(sums[1], counted.components, change * is_member[counted.referenced])
    return Change(predicted=sums[0], both=sums[1])
