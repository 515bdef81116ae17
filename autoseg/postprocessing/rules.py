"""Postprocessing rules as values that a document of a run can hold.

A rule treats some values of the label files as one mask: a label, a region, or the whole foreground. So it can be read
without a label scheme, and applies to images of any spacing: sizes are in millimetres where the files have a spacing.
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
        name: Name of the class, or "foreground".
        values: Values of the label files that make up the mask.
    """

    kind: Literal["largest_component"] = "largest_component"
    name: str
    values: Values

    def describe(self) -> str:
        """Describes the rule."""
        return f"keep the largest component of {self.name}"


class MinimumSize(Part):
    """Turn connected components of a mask that are smaller than a volume into background.

    Attributes:
        name: Name of the class.
        values: Values of the label files that make up the mask.
        minimum_mm3: Smallest volume that is kept. For images of one slice an area in square millimetres; where the
            files have no spacing, a number of pixels.
        unit: Unit of the minimum.
    """

    kind: Literal["minimum_size"] = "minimum_size"
    name: str
    values: Values
    minimum_mm3: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    unit: SizeUnit = "mm3"

    def describe(self) -> str:
        """Describes the rule."""
        return f"remove components of {self.name} below {self.minimum_mm3:g} {UNIT_NAMES[self.unit]}"


class FillHoles(Part):
    """Fill the background that a mask encloses.

    A hole is a region that no path of face neighbours outside of the mask connects to the border of the image. Other
    classes in a hole are not changed.

    Attributes:
        name: Name of the class.
        values: Values of the label files that make up the mask.
        fill_value: The value that background in a hole gets.
    """

    kind: Literal["fill_holes"] = "fill_holes"
    name: str
    values: Values
    fill_value: int

    def describe(self) -> str:
        """Describes the rule."""
        return f"fill holes of {self.name}"


ComponentRule = LargestComponent | MinimumSize
Rule = Annotated[LargestComponent | MinimumSize | FillHoles, Field(discriminator="kind")]


def keep_largest_foreground(labels: LabelScheme) -> LargestComponent:
    """Builds the rule that keeps the largest component of all foreground labels together."""
    return LargestComponent(name=FOREGROUND, values=list_file_values(labels, labels.foreground_labels))


def keep_largest(labels: LabelScheme, index: int) -> LargestComponent:
    """Builds the rule that keeps the largest component of a class."""
    return LargestComponent(name=labels.class_names[index], values=list_file_values(labels, labels.class_labels[index]))


def find_size_unit(grids: Iterable[Grid]) -> SizeUnit:
    """Returns the unit of sizes in images: pixels without spacing, areas if all images have one slice, else volumes."""
    present = list(grids)
    if find_distance_unit(present) == "pixel":
        return "pixel"
    return "mm2" if all(grid.shape_voxels[0] == 1 for grid in present) else "mm3"


def require_minimum_size(labels: LabelScheme, index: int, minimum_mm3: float, unit: SizeUnit = "mm3") -> MinimumSize:
    """Builds the rule that removes small components of a class."""
    values = list_file_values(labels, labels.class_labels[index])
    return MinimumSize(name=labels.class_names[index], values=values, minimum_mm3=minimum_mm3, unit=unit)


def fill_holes(labels: LabelScheme, index: int) -> FillHoles:
    """Builds the rule that fills the holes of a class with its label, or with the value written for the region."""
    members = labels.class_labels[index]
    written = labels.region_write_labels[index] if labels.has_regions else members[0]
    return FillHoles(
        name=labels.class_names[index],
        values=list_file_values(labels, members),
        fill_value=labels.file_values[written],
    )


def list_file_values(labels: LabelScheme, members: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the values of the label files for internal labels."""
    return tuple(labels.file_values[label] for label in members)
