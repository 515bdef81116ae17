"""Images and objects that a JSON file of the form of COCO lists (https://cocodataset.org/#format-data)."""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final

import numpy as np
from jaxtyping import Bool
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from autoseg.dataset.layouts.layout import CocoObjects, Layout, compile_pattern
from autoseg.dataset.layouts.matching import LayoutMatch, SourceCase, match_layout
from autoseg.errors import DocumentError
from autoseg.geometry import IntTriple
from autoseg.untrusted.json_reading import read_json
from autoseg.volume_io import read_picture
from autoseg.workflows.convert.polygons import FEWEST_CORNERS, Box, paint_polygon

HELD_OUT: Final = re.compile(r"(?<!la)(?<!con)test(?!i[sc])", re.IGNORECASE)
"""In the name of the JSON file, or of its folder: test2017, testimages, valtest, but not latest, contest, testis."""
COLOURS: Final = 3
RESERVED_NAMES: Final = ("background", "ignore")  # of labels in dataset.json
FIRST_CHARACTER: Final = ord("0")
LONGEST_NUMBER_BITS: Final = 32
EVERYWHERE: Final[Box] = (slice(None), slice(None), slice(None))
EMPTY: Final[Box] = (slice(0, 0), slice(0, 0), slice(0, 0))

Mask = Bool[np.ndarray, "z y x"]
Coordinates = Annotated[list[float], Field(min_length=2 * FEWEST_CORNERS)]


class _Listed(BaseModel):
    """An entry of the file, whose other keys are not needed."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    id: int


class CocoImage(_Listed):
    """An image."""

    file_name: str


class CocoCategory(_Listed):
    """A category."""

    name: Annotated[str, Field(min_length=1)]


class Runs(BaseModel):
    """Pixels of an object column by column: lengths of runs, the first of them outside; or the same as a string."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    counts: list[Annotated[int, Field(ge=0)]] | str
    size: tuple[int, int]


Outlines = TypeAdapter[list[Coordinates] | Runs]
OUTLINES: Final[Outlines] = TypeAdapter(list[Coordinates] | Runs, config=ConfigDict(allow_inf_nan=False))


class CocoAnnotation(_Listed):
    """An object, as polygons x, y, x, y, ... or as runs, of which a wrong one is a problem of its image alone.

    A crowd is several objects in one mask.
    """

    image_id: int
    category_id: int
    segmentation: Any
    iscrowd: bool | None = None

    def read_outlines(self, path: Path) -> list[list[float]] | Runs:
        """Returns the polygons or runs.

        Raises:
            DocumentError: They are neither.
        """
        try:
            return OUTLINES.validate_python(self.segmentation)
        except ValidationError as error:
            msg = (
                f"{path}: annotation {self.id} has no outline that can be painted: {error.errors()[0]['msg']}; "
                f"expected polygons of {FEWEST_CORNERS} corners or more, or runs; correct or remove it"
            )
            raise DocumentError(msg) from error


class CocoContent(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    images: list[CocoImage]
    categories: list[CocoCategory]
    annotations: list[CocoAnnotation]


def match_coco(root: Path, layout: Layout, paths: Sequence[str]) -> LayoutMatch:
    """Finds the images that the JSON files below a folder list; the labels become those of their categories.

    Raises:
        DocumentError: A file does not have the form of COCO, or names an image that is not there, or its categories
            cannot be labels.
    """
    (rule,) = layout.masks
    expression = compile_pattern(rule.pattern)
    files = [path for path in paths if expression.fullmatch(path)]
    contents = {path: read_coco(root / path) for path in files if is_coco(root / path)}
    by_name: dict[str, list[str]] = {}
    for path in paths:
        by_name.setdefault(PurePosixPath(path).name, []).append(path)
    names = _list_categories(contents)
    labels = {number: label for label, number in enumerate(sorted(names), start=1)}
    cases = [
        _build_case(path, image, _find_image(path, image, by_name), labels)
        for path, content in contents.items()
        for image in content.images
    ]
    if not cases:
        return match_layout(layout, ())
    channels = layout.channels if len(read_picture(root / cases[0].images[0])) == COLOURS else ("image",)
    return LayoutMatch(
        layout=replace(layout, labels={names[number]: label for number, label in labels.items()}, channels=channels),
        cases=tuple(cases),
        incomplete=(),
        counts={layout.images[0]: len(cases), rule.pattern: len(contents)},
        problems=(),
    )


def is_coco(path: Path) -> bool:
    """Returns whether a JSON file has the lists of COCO; other files may have the same names."""
    try:
        content = read_json(path)
    except DocumentError:
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= set(content)


@functools.lru_cache(maxsize=4)
def read_coco(path: Path) -> CocoContent:
    """Reads a JSON file of the form of COCO, once per process.

    Raises:
        DocumentError: It has another form.
    """
    try:
        return CocoContent.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        msg = f"{path} does not have the form of COCO: {place}: {first['msg']}"
        raise DocumentError(msg) from error


@functools.lru_cache(maxsize=4)
def group_annotations(path: Path) -> Mapping[int, Sequence[CocoAnnotation]]:
    """Groups the objects of a file by their image, once per process.

    Raises:
        DocumentError: The file has another form.
    """
    groups: dict[int, list[CocoAnnotation]] = {}
    for annotation in read_coco(path).annotations:
        groups.setdefault(annotation.image_id, []).append(annotation)
    return groups


def paint_coco_objects(path: Path, rule: CocoObjects, shape: IntTriple) -> Iterator[tuple[int, Box, Mask, bool]]:
    """Yields label, box and mask of the objects of an image, and whether it is a crowd; crowds and the largest first.

    Raises:
        DocumentError: An object has a category that is not listed, no outline, or runs that do not fit the image.
    """
    painted = []
    for annotation in group_annotations(path).get(rule.image_id, ()):
        label = rule.find_label(annotation.category_id)
        if label is None:
            msg = f"{path}: annotation {annotation.id} has the category {annotation.category_id}, which is not listed"
            raise DocumentError(msg)
        painted.append((label, *_paint(annotation, shape, path), bool(annotation.iscrowd)))
    yield from sorted(painted, key=lambda entry: (not entry[3], -int(np.count_nonzero(entry[2]))))


def _list_categories(contents: Mapping[str, CocoContent]) -> dict[int, str]:
    """Lists the names of the categories by number.

    Raises:
        DocumentError: A number has two names, or two numbers have one name, or a name has a meaning of its own.
    """
    names: dict[int, str] = {}
    for path, content in contents.items():
        for category in content.categories:
            number, name = category.id, category.name
            same = [other for other, known in names.items() if known == name and other != number]
            if names.setdefault(number, name) != name:
                problem = f"but it is called {names[number]!r} in another place; give every category one number"
            elif same:
                problem = f"as has the category {same[0]}; give every category a name of its own"
            elif name in RESERVED_NAMES:
                problem = "which is no class of objects; give it another name"
            else:
                continue
            msg = f"{path}: the category {number} has the name {name[:200]!r}, {problem}"
            raise DocumentError(msg)
    return names


def _build_case(path: str, image: CocoImage, file: str, labels: Mapping[int, int]) -> SourceCase:
    return SourceCase(
        fields={"case": PurePosixPath(file).stem},
        images=(file,),
        masks=((CocoObjects(image_id=image.id, labels=labels), (path,)),),
        is_held_out=HELD_OUT.search("/".join(PurePosixPath(path).parts[-2:])) is not None,
    )


def _find_image(path: str, image: CocoImage, by_name: Mapping[str, Sequence[str]]) -> str:
    """Finds the picture that an entry names among the files of the dataset; nothing else is ever opened.

    Raises:
        DocumentError: There is none, or more than one.
    """
    wanted = PurePosixPath(image.file_name)
    found = [file for file in by_name.get(wanted.name, ()) if f"/{file}".endswith(f"/{wanted}")]
    folder, stem = PurePosixPath(path).parent, PurePosixPath(path).stem
    near = [file for file in found if PurePosixPath(file).is_relative_to(folder)] or found
    named = [file for file in near if PurePosixPath(file).parent.name and PurePosixPath(file).parent.name in stem]
    chosen = named if len(near) > 1 and named else near
    if len(chosen) != 1:
        what = "no picture" if not chosen else f"{len(chosen)} pictures ({chosen[0]}, {chosen[1]})"
        msg = f"{path} lists the image {image.file_name[:200]!r}, but there is {what} of this name"
        raise DocumentError(msg)
    return chosen[0]


def _paint(annotation: CocoAnnotation, shape: IntTriple, path: Path) -> tuple[Box, Mask]:
    outlines = annotation.read_outlines(path)
    if isinstance(outlines, Runs):
        return EVERYWHERE, decode_runs(outlines, shape, where=f"{path}: annotation {annotation.id}")
    corners = [np.array(part[: len(part) // 2 * 2], np.float64).reshape(-1, 2)[:, ::-1] for part in outlines]
    if not corners:
        return EMPTY, np.zeros((0, 0, 0), bool)
    box, _ = paint_polygon(np.concatenate(corners), shape)
    mask: Mask = np.zeros(tuple(side.stop - side.start for side in box), bool)
    offset = np.array([box[1].start, box[2].start])
    for part in corners:
        place, inside = paint_polygon(part - offset, mask.shape)
        mask[place] |= inside
    return box, mask


def decode_runs(runs: Runs, shape: IntTriple, *, where: str) -> Mask:
    """Decodes the runs of an object.

    Raises:
        DocumentError: They have another size than the image, or do not fill it.
    """
    counts = decode_counts(runs.counts, where=where) if isinstance(runs.counts, str) else runs.counts
    if runs.size != shape[1:] or min(counts, default=0) < 0 or sum(counts) != shape[1] * shape[2]:
        msg = f"{where}: expected runs of an image of {shape[1]} x {shape[2]} pixels (y, x), found others"
        raise DocumentError(msg)
    values = np.arange(len(counts)) % 2 == 1
    mask: Mask = np.repeat(values, counts).reshape(shape[2], shape[1]).T[None]
    return mask


def decode_counts(text: str, *, where: str) -> list[int]:
    """Decodes the compressed form of runs, in which a character from "0" on stands for 5 bits and a bit to continue.

    The lowest bits come first, the highest is the sign. From the fourth number on, each is the difference to the last
    but one.

    Raises:
        DocumentError: The text holds another character, or a number of more than 32 bits.
    """
    counts: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - FIRST_CHARACTER
        if not 0 <= bits < 64 or shift > LONGEST_NUMBER_BITS:
            msg = f"{where}: the compressed runs hold {character!r}, or a number of more than 32 bits"
            raise DocumentError(msg)
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= (1 << shift) if bits & 16 else 0
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value, shift = 0, 0
    return counts
