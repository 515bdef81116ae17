"""Postprocessing rules as values that a document of a run can hold.

A rule looks at some values of the label files as one mask: a label, a region, or all of the foreground. So it needs no
label scheme to be understood, and fits images of any spacing: sizes are in millimetres, where the files tell a spacing.
"""

from collections.abc import Iterable
from typing import Annotated, Final, Literal

from pydantic import Field

from autoseg.document import Part
from autoseg.geometry import Grid, find_distance_unit
from autoseg.labels import LabelScheme

FOREGROUND: Final = "foreground"
SizeUnit = Literal["mm3", "mm2", "pixel"]
UNIT_NAMES: Final[dict[SizeUnit, str]] = {"mm3": "mm3", "mm2": "mm2", "pixel": "pixels"}

Values = Annotated[tuple[int, ...], Field(min_length=1)]


class LargestComponent(Part):
    """Keep the largest connected component of a mask; the rest becomes background.

    Neighbours touch by faces, edges or corners. Components that tie for the largest are all kept.

    Attributes:
        name: Of the class, or "foreground".
        values: Of the label files, which make up the mask.
    """

    kind: Literal["largest_component"] = "largest_component"
    name: str
    values: Values

    def describe(self) -> str:
        """In words."""
        return f"keep the largest component of {self.name}"


class MinimumSize(Part):
    """Turn connected components of a mask that are smaller than a volume into background.

    Attributes:
        name: Of the class.
        values: Of the label files, which make up the mask.
        minimum_mm3: A component of just this volume is kept. In an image of one slice, which has no thickness, an area
            in square millimetres; where the files tell no spacing, a number of pixels.
        unit: Of the minimum.
    """

    kind: Literal["minimum_size"] = "minimum_size"
    name: str
    values: Values
    minimum_mm3: Annotated[float, Field(gt=0)]
    unit: SizeUnit = "mm3"

    def describe(self) -> str:
        """In words."""
        return f"remove components of {self.name} below {self.minimum_mm3:g} {UNIT_NAMES[self.unit]}"


class FillHoles(Part):
    """Fill the background that a mask encloses.

    A hole is what no path of face neighbours outside of the mask connects to the border of the image. Other classes in
    a hole are left as they are.

    Attributes:
        name: Of the class.
        values: Of the label files, which make up the mask.
        fill_value: What the background in a hole becomes.
    """

    kind: Literal["fill_holes"] = "fill_holes"
    name: str
    values: Values
    fill_value: int

    def describe(self) -> str:
        """In words."""
        return f"fill holes of {self.name}"


ComponentRule = LargestComponent | MinimumSize
Rule = Annotated[LargestComponent | MinimumSize | FillHoles, Field(discriminator="kind")]


def keep_largest_foreground(labels: LabelScheme) -> LargestComponent:
    """Of all foreground labels together."""
    return LargestComponent(name=FOREGROUND, values=list_file_values(labels, labels.foreground_labels))


def keep_largest(labels: LabelScheme, index: int) -> LargestComponent:
    """Of the class of this index."""
    return LargestComponent(name=labels.class_names[index], values=list_file_values(labels, labels.class_labels[index]))


def find_size_unit(grids: Iterable[Grid]) -> SizeUnit:
    """What sizes in these images are: pixels if no file tells a spacing, areas if all images have one slice."""
    present = list(grids)
    if find_distance_unit(present) == "pixel":
        return "pixel"
    return "mm2" if all(grid.shape_voxels[0] == 1 for grid in present) else "mm3"


def demand_size(labels: LabelScheme, index: int, minimum_mm3: float, unit: SizeUnit = "mm3") -> MinimumSize:
    """Of the class of this index."""
    values = list_file_values(labels, labels.class_labels[index])
    return MinimumSize(name=labels.class_names[index], values=values, minimum_mm3=minimum_mm3, unit=unit)


def fill_holes(labels: LabelScheme, index: int) -> FillHoles:
    """Of the class of this index; what is filled becomes the label, or what is written where the region is."""
    members = labels.class_labels[index]
    written = labels.region_write_labels[index] if labels.has_regions else members[0]
    return FillHoles(
        name=labels.class_names[index],
        values=list_file_values(labels, members),
        fill_value=labels.file_values[written],
    )


def list_file_values(labels: LabelScheme, members: tuple[int, ...]) -> tuple[int, ...]:
    """The values of the label files that internal labels stand for."""
    return tuple(labels.file_values[label] for label in members)
