"""The description of the files of a public dataset, as far as it is needed to convert them.

A pattern is a path with `/` below the folder of the dataset. `**/` stands for any folders or none, `*` for any text in
a name, `{case}` for any text in a name that is called `case`, and `{case:\\d+}` for text that a regular expression
matches; a placeholder that stands twice must be the same text. Files belong to the same case if the placeholders that
their patterns share are equal. A pattern of images that ends with `/` stands for a folder that holds, in any
subfolders, the files of one DICOM series.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from autoseg.untrusted.names import suggest_name

LabelValue = int | tuple[int, ...]
"""Value of a label, or the values of a region."""

TOKEN: Final = re.compile(
    r"(?P<folders>\*\*/)|(?P<any>\*)|\{(?P<name>\w+)(?::(?P<regex>(?:[^{}]|\{[^{}]*\})+))?\}|(?P<text>[^*{}]+)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelValues:
    """One label map for each case.

    Attributes:
        pattern: Pattern of the file.
        values: Value to be written by value in the file; a file may hold no other values.
        has_own_axes: Whether the header of the file does not place it where the image lies: its axes are brought to
            those of the image, and it is written on the grid of the image.
    """

    pattern: str
    values: Mapping[int, int]
    has_own_axes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ForegroundMask:
    """One or several black and white pictures for each case; what is white in any of them gets one label.

    Attributes:
        pattern: Pattern of the files.
        label: Value to be written.
    """

    pattern: str
    label: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Objects:
    """Objects that are told apart, such as nuclei; each gets a number in a second map, and all get one label.

    Attributes:
        pattern: Pattern of the files.
        stored_as: `numbers`: one picture with one number for each object and 0 elsewhere. `masks`: one black and white
            picture for each object. `polygons`: outlines in an XML file of Aperio ImageScope. `coco`: outlines or runs
            in one JSON file for all images, whose categories are the labels.
        label: Value to be written into the label map.
    """

    pattern: str
    stored_as: Literal["numbers", "masks", "polygons", "coco"]
    label: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoObjects:
    """The objects of one image in a JSON file of the form of COCO.

    Attributes:
        image_id: The image.
        labels: Values to be written by number of the category.
    """

    image_id: int
    labels: Mapping[int, int]

    def find_label(self, category_id: int) -> int | None:
        """Returns the value to be written for a category; None if the file does not list it."""
        return self.labels.get(category_id)


MaskRule = LabelValues | ForegroundMask | Objects


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTable:
    """A table in a CSV file that tells which cases belong together.

    Attributes:
        pattern: Pattern of the file.
        case_column: Heading of the column that holds the name of the case.
        group_column: Heading of the column that holds the group.
    """

    pattern: str
    case_column: str
    group_column: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The files of one public dataset.

    Attributes:
        title: The dataset in a few words.
        reference: The place from which the dataset comes.
        names_from: The source of the names of the files.
        images: Pattern of each file of an image, which may hold several channels, or of each folder of a DICOM series.
        channels: Names of the channels.
        labels: Values of labels and regions by name, without the background.
        masks: Rules for the files that hold labels, in the order in which they are painted.
        case: Name of a case, with placeholders of the first pattern of `images`.
        group: Group of a case with placeholders, or a table of groups; empty if each case is a group of its own.
        held_out: Regular expression that is found in the paths of test images alone; empty if there are none.
        slices_per_group: Number of successive slices that stay together, where the files are stacks whose slices become
            cases; 0 elsewhere.
        recognized_by: Text that the path must contain, in any case, for the dataset to be recognized; for patterns that
            other datasets have as well.
        remarks: Sentences that the user should know.
    """

    title: str
    reference: str
    names_from: str
    images: tuple[str, ...]
    channels: tuple[str, ...]
    labels: Mapping[str, LabelValue]
    masks: tuple[MaskRule, ...]
    case: str = "{case}"
    group: str | GroupTable = ""
    held_out: str = ""
    slices_per_group: int = 0
    recognized_by: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def patterns(self) -> tuple[str, ...]:
        """Patterns of the images, then of the masks."""
        return (*self.images, *(rule.pattern for rule in self.masks))

    @property
    def has_objects(self) -> bool:
        """Whether the masks tell objects apart."""
        return any(isinstance(rule, Objects) for rule in self.masks)

    def name_case(self, fields: Mapping[str, str]) -> str:
        """Returns the name of a case, which can be that of a file."""
        return suggest_name(self.case.format_map(fields))

    def recognizes_test_image(self, path: str) -> bool:
        """Returns whether an image is one of the test images."""
        return bool(self.held_out) and re.search(self.held_out, path) is not None


def may_have_many_files(rule: MaskRule) -> bool:
    """Returns whether a case may have several files of a rule."""
    return isinstance(rule, ForegroundMask) or (isinstance(rule, Objects) and rule.stored_as == "masks")


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Translates a pattern into a regular expression for whole paths."""
    parts: list[str] = []
    seen: set[str] = set()
    for token in TOKEN.finditer(pattern):
        if token["folders"]:
            parts.append("(?:.*/)?")
        elif token["any"]:
            parts.append("[^/]*")
        elif token["text"]:
            parts.append(re.escape(token["text"]))
        elif token["name"] in seen:
            parts.append(f"(?P={token['name']})")
        else:
            seen.add(token["name"])
            parts.append(f"(?P<{token['name']}>{token['regex'] or '[^/]+'})")
    return re.compile("".join(parts))


def show_pattern(pattern: str) -> str:
    """Returns a pattern as a user would write it: `{case:\\d+}` as `{case}`."""
    return TOKEN.sub(lambda token: f"{{{token['name']}}}" if token["name"] else token[0], pattern)
