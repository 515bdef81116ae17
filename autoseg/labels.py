"""Label values, regions and the ignore label, and their encoding for the network.

Inside autoseg a label map holds **consecutive** labels 0, 1, 2, ... (0 is background); the values in the user's files
may be any integers and are mapped on reading and restored on writing.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_serializer, model_validator

from autoseg.document import Part
from autoseg.errors import shorten_names

LARGEST_TABLE: Final = 2**20  # entries of a look-up table (2 MiB)
MOST_CENTRE_STEPS: Final = 16  # Bai and Urtasun 2017, for the objects of streets

NonEmptyValues = Annotated[tuple[int, ...], Field(min_length=1)]


class LabelClass(Part):
    """A named label or region.

    Attributes:
        name: Name in dataset.json.
        values: The values in the user's label files that belong to it; a class with several values is a region.
    """

    name: str
    values: NonEmptyValues


class CodedTerm(Part):
    """A term of a coding scheme, as DICOM stores it (PS3.3 8.8).

    Attributes:
        scheme: Designator of the scheme, such as SCT (SNOMED CT).
        value: Code in the scheme.
        meaning: The term in words.
    """

    scheme: Annotated[str, Field(pattern=r"^[ -\[\]-~]{1,16}$")]
    value: Annotated[str, Field(pattern=r"^[ -\[\]-~]{1,16}$")]
    meaning: Annotated[str, Field(pattern=r"^[^\\\x00-\x1f]{1,64}$")]


class ClassTerms(Part):
    """The terms of a class.

    Attributes:
        type: The class itself, such as the liver.
        category: Its kind, such as a morphologically abnormal structure; None for an anatomical structure.
    """

    type: CodedTerm
    category: CodedTerm | None = None


class LabelScheme(Part):
    """All labels of a dataset.

    Attributes:
        classes: Foreground classes in the order of declaration (background and ignore are not among them).
        ignore_value: The value whose voxels are neither trained nor evaluated, or None.
        region_write_values: None for plain labels. For regions, the value (of the user's files) that is written where
            class i is predicted; later classes overwrite earlier ones (`regions_class_order` of dataset.json).
        declared_count: Number of entries of `labels` in dataset.json, background and ignore included (the K of the
            reference planner's feature map estimate).
    """

    classes: Annotated[tuple[LabelClass, ...], Field(min_length=1)]
    ignore_value: int | None
    region_write_values: tuple[int, ...] | None
    declared_count: int

    @model_validator(mode="after")
    def _check(self) -> "LabelScheme":
        if self.region_write_values is not None and len(self.region_write_values) != len(self.classes):
            msg = (
                f"regions_class_order must name one value for each of the {len(self.classes)} classes, "
                f"found {len(self.region_write_values)}"
            )
            raise ValueError(msg)
        if self.ignore_value == 0 or any(self.ignore_value in entry.values for entry in self.classes):
            msg = f"ignore_value must be a value that no class has, nor background (0), found {self.ignore_value}"
            raise ValueError(msg)
        unknown = set(self.region_write_values or ()) - set(self.file_values)
        if unknown:
            msg = f"regions_class_order must name values of the classes, found {sorted(unknown)}"
            raise ValueError(msg)
        return self

    @property
    def has_regions(self) -> bool:
        """Whether classes may overlap (sigmoid outputs) instead of excluding each other (softmax)."""
        return self.region_write_values is not None

    @cached_property
    def file_values(self) -> tuple[int, ...]:
        """Values of the user's files; internal label i stands for `file_values[i]`. Background is first; the ignore
        value, where there is one, is last."""
        foreground = sorted({value for entry in self.classes for value in entry.values} - {0})
        ignore = () if self.ignore_value is None else (self.ignore_value,)
        return (0, *foreground, *ignore)

    @cached_property
    def _regions_of_values(self) -> dict[int, frozenset[int]]:
        regions: dict[int, set[int]] = {value: set() for value in self.file_values}
        for index, entry in enumerate(self.classes):
            for value in entry.values:
                regions[value].add(index)
        return {value: frozenset(own) for value, own in regions.items()}

    def find_regions(self, value: int) -> frozenset[int]:
        """Returns the indices of the classes that a value of the user's files belongs to."""
        return self._regions_of_values.get(value, frozenset())

    @property
    def ignore_label(self) -> int | None:
        """The internal label of the ignore value, or None."""
        return None if self.ignore_value is None else len(self.file_values) - 1

    @cached_property
    def foreground_labels(self) -> tuple[int, ...]:
        """Internal foreground labels 1, 2, ... without the ignore label."""
        return tuple(range(1, len(self.file_values) - (self.ignore_value is not None)))

    @cached_property
    def class_labels(self) -> tuple[tuple[int, ...], ...]:
        """For every class the internal labels that belong to it, in the order of declaration for regions and
        ascending otherwise; index i belongs to network output i (regions) or i + 1 (plain labels)."""
        if not self.has_regions:
            return tuple((label,) for label in self.foreground_labels)
        places = {value: label for label, value in enumerate(self.file_values)}
        return tuple(tuple(places[value] for value in entry.values) for entry in self.classes)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of `class_labels`."""
        if self.has_regions:
            return tuple(entry.name for entry in self.classes)
        by_value = {entry.values[0]: entry.name for entry in self.classes}
        return tuple(by_value[self.file_values[label]] for label in self.foreground_labels)

    @property
    def output_channel_count(self) -> int:
        """Channels of the network's output: one per region, or background plus one per label."""
        return len(self.classes) if self.has_regions else 1 + len(self.foreground_labels)

    def exchange_outputs(self, pairs: Sequence[tuple[int, int]]) -> tuple[int, ...] | None:
        """Returns, for each channel of the network's output, the one that it becomes when paired labels are exchanged.

        None if a region becomes a set of labels that is no region.

        Args:
            pairs: Pairs of internal labels.
        """
        partners = {first: second for pair in pairs for first, second in (pair, pair[::-1])}
        members = [frozenset(labels) for labels in self.class_labels]
        exchanged = [frozenset(partners.get(label, label) for label in labels) for labels in members]
        if any(labels not in members for labels in exchanged):
            return None
        order = [index if labels == members[index] else members.index(labels) for index, labels in enumerate(exchanged)]
        return tuple(order) if self.has_regions else (0, *(index + 1 for index in order))

    @cached_property
    def region_write_labels(self) -> tuple[int, ...]:
        """`region_write_values` as internal labels; empty for plain labels."""
        return tuple(self.file_values.index(value) for value in self.region_write_values or ())

    def find_unknown_values(self, file_label_map: NDArray[np.integer]) -> tuple[int, ...]:
        """Values that occur in a label map but not in the scheme, ascending."""
        if self._has_known_values_only(file_label_map):
            return ()
        found = np.unique(file_label_map)
        return tuple(int(value) for value in found if int(value) not in self.file_values)

    def _has_known_values_only(self, file_label_map: NDArray[np.integer]) -> bool:
        """Checks every voxel by a look-up table, which is ten times as fast as listing the values."""
        lowest, highest = min(self.file_values), max(self.file_values)
        if highest - lowest >= LARGEST_TABLE or file_label_map.size == 0:
            return False
        if int(file_label_map.min()) < lowest or int(file_label_map.max()) > highest:
            return False
        is_known = np.zeros(highest - lowest + 1, dtype=bool)
        is_known[np.asarray(self.file_values) - lowest] = True
        if lowest == 0 and is_known.all():
            return True
        return all(bool(is_known[plane.astype(np.int64) - lowest].all()) for plane in file_label_map)

    def encode(self, file_label_map: NDArray[np.integer]) -> NDArray[np.int16]:
        """Maps the values of the user's files to internal labels. Every value must be known."""
        values = np.asarray(self.file_values)
        lowest, highest = int(values.min()), int(values.max())
        if highest - lowest < LARGEST_TABLE:  # one look-up is twenty times faster than a search
            table = np.zeros(highest - lowest + 1, np.int16)
            table[values - lowest] = np.arange(len(values))
            places = file_label_map if lowest == 0 else np.subtract(file_label_map, lowest, dtype=np.int64)
            return np.ascontiguousarray(table[places])
        order = np.argsort(values)
        labels = order[np.searchsorted(values[order], file_label_map)]
        return np.ascontiguousarray(labels.astype(np.int16))

    def decode(self, label_map: NDArray[np.integer]) -> NDArray[np.integer]:
        """Maps internal labels back to the values of the user's files in the smallest sufficient integer dtype
        (uint8, uint16, int16, int32)."""
        values = np.asarray(self.file_values)
        kind = next(
            kind
            for kind in (np.uint8, np.uint16, np.int16, np.int32)
            if values.min() >= np.iinfo(kind).min and values.max() <= np.iinfo(kind).max
        )
        table, decoded = values.astype(kind), np.empty(label_map.shape, kind)
        for index, labels in enumerate(label_map):  # indexing the whole array would take 8 bytes per voxel
            decoded[index] = table[labels]
        return decoded


class InstanceTargets(Part):
    """Labels by which a network tells objects apart: core and border of every class, instead of the class.

    Attributes:
        labels: Labels of the dataset, none of which is a region.
        border_fraction: Width of the border as a fraction of the largest distance of a voxel of the object from its
            surface; the border is at least one voxel wide.
        centre_steps: Steps of the centre distance, which rises from 0 in the border to 1 at the centre of an object:
            the core is divided into so many labels. 0: the core is one label, and the distance is not learned.
    """

    labels: LabelScheme
    border_fraction: Annotated[float, Field(gt=0, lt=1)]
    centre_steps: Annotated[int, Field(ge=0, le=MOST_CENTRE_STEPS)] = 0

    @model_validator(mode="after")
    def _check(self) -> "InstanceTargets":
        if self.labels.has_regions:
            msg = "labels must exclude each other where objects are told apart, found regions"
            raise ValueError(msg)
        if self.centre_steps == 1:
            msg = f"centre_steps must be 0 or 2 to {MOST_CENTRE_STEPS}: one step is the core itself (got 1)"
            raise ValueError(msg)
        return self

    @model_serializer(mode="wrap")
    def _omit_unused(self, write: Callable[[Part], dict[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if (key, value) != ("centre_steps", 0)}

    @property
    def class_count(self) -> int:
        """Number of classes: label i + k * class_count is part k of class i, for i from 1 to class_count."""
        return len(self.labels.foreground_labels)

    @property
    def part_count(self) -> int:
        """Labels of every class: 0 is its core (or the first step of it), 1 its border, k the step k of its core."""
        return max(2, 1 + self.centre_steps)

    @property
    def part_distances(self) -> tuple[float, ...]:
        """Centre distance of every part of a class; none where it is not learned."""
        steps = self.centre_steps
        return (1 / steps, 0.0, *(step / steps for step in range(2, 1 + steps))) if steps else ()

    @property
    def core_classes(self) -> tuple[int, ...]:
        """Class of the core that each label of the network is, or is a step of; 0 for borders."""
        classes, borders = tuple(range(1, 1 + self.class_count)), (0,) * self.class_count
        return (*classes, *borders, *classes * (self.part_count - 2))

    @cached_property
    def target_labels(self) -> LabelScheme:
        """The labels of the network: a core has the file value of its class, other parts values that were not used."""
        parts = ("core", "border", *(f"centre_{step}" for step in range(2, self.part_count)))
        names = [f"{name}_{part}" for part in parts for name in self.labels.class_names]
        values = self.labels.file_values[1 : 1 + self.class_count]
        highest = max(0, *(value for value in self.labels.file_values if value != self.labels.ignore_value))
        added = self.class_count * (self.part_count - 1)
        further = range(highest + 1, highest + 2 + added)  # one more, as one may mean what is ignored
        free = [value for value in further if value != self.labels.ignore_value]
        return LabelScheme(
            classes=tuple(
                LabelClass(name=name, values=(value,)) for name, value in zip(names, (*values, *free), strict=False)
            ),
            ignore_value=self.labels.ignore_value,
            region_write_values=None,
            declared_count=self.labels.declared_count + added,
        )

    def merge(self, label_map: NDArray[np.integer]) -> NDArray[np.int16]:
        """Turns labels of the network into those of the dataset: all parts belong to their class."""
        classes = [*range(1, 1 + self.class_count)]
        ignored = () if self.labels.ignore_label is None else (self.labels.ignore_label,)
        table = np.array([0, *classes * self.part_count, *ignored], np.int16)
        merged: NDArray[np.int16] = table[label_map]
        return merged


def list_painting_errors(labels: LabelScheme) -> tuple[str, ...]:
    """Lists what `regions_class_order` makes wrong, by painting the regions of every file value in their order.

    The painted value must belong to exactly the regions of the value that it stands for. Values of the same regions
    are one and the same to the network and may be painted as one of them.
    """
    if labels.region_write_values is None:
        return ()
    outside = [
        f"{value}, the value of {entry.name!r}, is not in it ({shorten_names([str(own) for own in entry.values])})"
        for entry, value in zip(labels.classes, labels.region_write_values, strict=True)
        if value not in entry.values
    ]
    wrong = [
        f"{value} ({_name_regions(labels, value)}) is written as {found} ({_name_regions(labels, found)})"
        for found, values in group_painted_values(labels).items()
        for value in values
        if labels.find_regions(value) != labels.find_regions(found)
    ]
    return (*outside, *wrong)


def group_painted_values(labels: LabelScheme) -> dict[int, tuple[int, ...]]:
    """Returns, for every value that a right prediction of regions holds, the file values that it stands for."""
    groups: dict[int, list[int]] = {}
    for value in labels.file_values:
        if value != labels.ignore_value:
            groups.setdefault(_paint(labels, value), []).append(value)
    return {painted: tuple(values) for painted, values in groups.items()}


def propose_regions(labels: LabelScheme) -> tuple[tuple[LabelClass, int], ...]:
    """Returns regions and the values to write for them, in an order in which painting gives every file value back.

    It is the declared order, but for regions that have to be moved; those move before the regions inside them. Where
    no order works, a region is added for values that no region has alone.
    """
    values_of: dict[frozenset[int], list[int]] = {}
    for value in labels.file_values:
        if value != labels.ignore_value and labels.find_regions(value):
            values_of.setdefault(labels.find_regions(value), []).append(value)
    waiting, counts = set(values_of), Counter(itertools.chain.from_iterable(values_of))
    left, order, inner_regions = set(range(len(labels.classes))), [], _find_inner_regions(labels)
    while left:
        # Found from the last to the first: a region may be painted over the others left if one set of regions at most
        # would then end with it. Taking such a region never makes another one impossible.
        last = _find_last_region([index for index in sorted(left, reverse=True) if counts[index] <= 1], inner_regions)
        if last is None:
            own = max(waiting, key=lambda regions: (len(regions), -values_of[regions][0]))
            added = tuple(values_of[own])
            order.append((LabelClass(name=f"label_{added[0]}", values=added), added[0]))
        else:
            own = next((regions for regions in waiting if last in regions), frozenset())
            order.append(_choose_write_value(labels, last, values_of.get(own, labels.classes[last].values)))
            left.remove(last)
        waiting.discard(own)
        counts.subtract(own)
    return tuple(reversed(order))


def _find_last_region(possible: Sequence[int], inner_regions: Sequence[int]) -> int | None:
    """Finds the first of the regions that are possible in which no other one of them lies."""
    bits = sum(1 << index for index in possible)
    return next((index for index in possible if not inner_regions[index] & bits), None)


def _find_inner_regions(labels: LabelScheme) -> list[int]:
    """Finds the regions that lie inside each region, as bits of an integer: a thousand fit where sets take seconds."""
    places = {value: place for place, value in enumerate(labels.file_values)}
    bits = [sum(1 << places[value] for value in set(entry.values)) for entry in labels.classes]
    return [
        sum(1 << index for index, inner in enumerate(bits) if inner != outer and inner | outer == outer)
        for outer in bits
    ]


def _choose_write_value(labels: LabelScheme, index: int, values: Sequence[int]) -> tuple[LabelClass, int]:
    assert labels.region_write_values is not None, "only regions are painted"
    declared = labels.region_write_values[index]
    return labels.classes[index], declared if declared in values else values[0]


def _paint(labels: LabelScheme, value: int) -> int:
    """Returns the value that is written where exactly the regions of a value are predicted."""
    assert labels.region_write_values is not None, "only regions are painted"
    inside = labels.find_regions(value)
    return labels.region_write_values[max(inside)] if inside else 0


def _name_regions(labels: LabelScheme, value: int) -> str:
    return shorten_names([labels.classes[index].name for index in sorted(labels.find_regions(value))]) or "background"
