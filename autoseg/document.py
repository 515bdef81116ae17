"""JSON documents of a run: strict, versioned schemas, atomic writing, and readable errors."""

import difflib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from autoseg.errors import DocumentError
from autoseg.run_folder import write_atomically
from autoseg.untrusted.json_reading import MOST_BYTES, read_json

AnyPart = TypeVar("AnyPart", bound="Part")
AnyCasePart = TypeVar("AnyCasePart", bound="CasePart")
AnyDocument = TypeVar("AnyDocument", bound="Document")

PositiveTriple = tuple[
    Annotated[float, Field(gt=0, allow_inf_nan=False)],
    Annotated[float, Field(gt=0, allow_inf_nan=False)],
    Annotated[float, Field(gt=0, allow_inf_nan=False)],
]
ShapeTriple = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]

LONGEST_SHOWN_VALUE: Final = 80  # characters
MOST_SHOWN_PROBLEMS: Final = 20
MOST_RESULT_BYTES: Final = 2**29  # of what autoseg itself writes about every case of a large dataset


class Part(BaseModel):
    """A frozen part of a document; unknown keys are errors.

    JSON has no NaN and no infinity: they are written as the texts "NaN" and "Infinity" and read back as numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, ser_json_inf_nan="strings")

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Shows all fields in one line, with long values abbreviated."""
        for name, value in super().__repr_args__():
            yield name, value if len(repr(value)) <= LONGEST_SHOWN_VALUE else _Abbreviated(value)


class CasePart(Part):
    """A part of which a document has one or more for every case; the names of given fields are in memory once.

    They would take more memory than all values of a case together.
    """

    def model_post_init(self, context: Any, /) -> None:
        """Called by pydantic."""
        self._share_names()

    def model_copy(self: AnyCasePart, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> AnyCasePart:
        """Returns a copy, as of any part."""
        copied = super().model_copy(update=update, deep=deep)
        copied._share_names()
        return copied

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Called when it is unpickled, which makes new texts of the names."""
        values = {sys.intern(name): value for name, value in state["__dict__"].items()}
        super().__setstate__(state | {"__dict__": values})
        self._share_names()

    def _share_names(self) -> None:
        shared = _find_names(frozenset(self.__pydantic_fields_set__))
        object.__setattr__(self, "__pydantic_fields_set__", shared)


@functools.cache
def _find_names(names: frozenset[str]) -> set[str]:
    """Returns the one set of these names, which nobody changes: copies of a part get a set of their own."""
    return set(names)


@dataclass(frozen=True, slots=True, eq=False)  # hashable, as unions of annotations demand
class OneOf:
    """Annotates a field whose value is one of several kinds of part, told apart by a key of theirs.

    `Annotated[Base, OneOf(KINDS, "name")]` reads `{"name": "a", ...}` as `KINDS["a"]`. The table is looked up when a
    document is read, so that a new kind is one more row.

    Attributes:
        kinds: Subclasses of the annotated part, by the value of the key.
        key: The field that tells them apart; a `Literal` in each.
    """

    kinds: Mapping[str, type[Part]]
    key: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Called by pydantic."""
        written_as_it_is = core_schema.simple_ser_schema("any")  # with the fields of its own kind
        return core_schema.no_info_plain_validator_function(self._read, serialization=written_as_it_is)

    def _read(self, content: Any) -> Part:
        for kind in self.kinds.values():
            if isinstance(content, kind):
                return content
        if not isinstance(content, dict):
            msg = f"must be an object with the key {self.key!r} (got {content!r:.{LONGEST_SHOWN_VALUE}})"
            raise ValueError(msg)  # pydantic reports a ValueError with its place
        if self.key not in content:
            msg = f"{self.key!r} is missing; it must be one of {', '.join(self.kinds)}"
            raise ValueError(msg)
        name = content[self.key]
        if not isinstance(name, str) or name not in self.kinds:
            hint = suggest_key(str(name), list(self.kinds))
            msg = f"{self.key!r} must be one of {', '.join(self.kinds)} (got {name!r}){hint}"
            raise ValueError(msg)
        return self.kinds[name].model_validate(content)


class UpgradeError(ValueError):
    """A file of an earlier version cannot be upgraded.

    Attributes:
        problems: One line each, beginning with the place of the field in the file.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
"""Turns the JSON object of one schema version into that of the next, `schema_version` included."""


class Document(Part):
    """A file of its own. Subclasses narrow `schema_version` to the one version that they describe.

    Attributes:
        upgrades: Functions that turn files of an earlier version into the next one, by the earlier version.
        most_bytes: Larger files are refused; more than usual for a kind of document that grows with the cases.
    """

    upgrades: ClassVar[Mapping[int | None, Upgrade]] = {}
    most_bytes: ClassVar[int] = MOST_BYTES

    schema_version: int


def write_document(path: Path, document: Document, *, is_durable: bool = True) -> None:
    """Writes a document as indented JSON, atomically; see `autoseg.run_folder.write_atomically`."""
    with write_atomically(path, is_durable=is_durable) as temporary, temporary.open("wb") as file:
        file.write(document.__pydantic_serializer__.to_json(document, indent=2))  # bytes: no second copy as a text
        file.write(b"\n")


def read_document(path: Path, kind: type[AnyDocument]) -> AnyDocument:
    """Reads and checks a document; files of earlier versions are upgraded in memory.

    Raises:
        DocumentError: The file is missing, no JSON, of an unknown version, or breaks the schema; each problem is named
            by file and field.
    """
    written = read_json(path, most_bytes=kind.most_bytes)
    content = _upgrade(path, written, kind)
    try:
        return parse_part(content, kind, where=path.name)
    except DocumentError as error:
        if content is written:
            raise
        version = written["schema_version"]
        msg = f"{error}\n({path.name} has schema version {version}; fields are named as in the present one)"
        raise DocumentError(msg) from error


def parse_part(content: Any, kind: type[AnyPart], *, where: str) -> AnyPart:
    """Checks parsed JSON against a schema.

    Raises:
        DocumentError: Names every field that is wrong, what was expected and what was found.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problems = _drop_consequences(error.errors(include_url=False))
        lines = [_reword(problem, kind, where) for problem in problems[:MOST_SHOWN_PROBLEMS]]
        if len(problems) > len(lines):
            lines.append(f"{where}: and {len(problems) - len(lines)} more problems")
        raise DocumentError("\n".join(lines)) from error


def _drop_consequences(problems: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Leaves out that a list is too short where its entries are wrong, which pydantic then does not count."""
    above = {tuple(problem["loc"][:depth]) for problem in problems for depth in range(len(problem["loc"]))}
    return [problem for problem in problems if problem["type"] != "too_short" or tuple(problem["loc"]) not in above]


def suggest_key(found: str, known: list[str]) -> str:
    """Returns " (did you mean 'x'?)" for the closest known key, else an empty text."""
    closest = difflib.get_close_matches(found, known, n=1, cutoff=0.6)
    return f" (did you mean {closest[0]!r}?)" if closest else ""


class _Abbreviated:
    """Abbreviation of a long value in the representation of a part."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __repr__(self) -> str:
        if isinstance(self.value, str):
            return repr(self.value)
        if not isinstance(self.value, dict | tuple):
            return f"{type(self.value).__name__}(...)"
        keys = ", ".join(f"{key!r}: ..." for key in self.value) if isinstance(self.value, dict) else ""
        if 0 < len(keys) <= LONGEST_SHOWN_VALUE:
            return f"{{{keys}}}"
        return f"<{len(self.value)} {'entry' if len(self.value) == 1 else 'entries'}>"


def upgrade_content(content: dict[str, Any], kind: type[Document]) -> dict[str, Any]:
    """The JSON object of the version that `kind` describes, as far as upgrades lead to it."""
    while upgrade := kind.upgrades.get(_find_version(content)):
        content = upgrade(content)
    return content


def _find_version(content: dict[str, Any]) -> int | None:
    version = content.get("schema_version")
    return version if isinstance(version, int) else None


def _upgrade(path: Path, content: Any, kind: type[Document]) -> Any:
    if not isinstance(content, dict):
        msg = f"{path} must hold a JSON object, found {type(content).__name__}"
        raise DocumentError(msg)
    found = content.get("schema_version")
    try:
        content = upgrade_content(content, kind)
    except UpgradeError as error:
        raise DocumentError("\n".join(f"{path.name}: {problem}" for problem in error.problems)) from error
    (expected,) = getattr(kind.model_fields["schema_version"].annotation, "__args__", (None,))
    if content.get("schema_version") != expected:
        msg = (
            f"{path} has schema version {found!r}, this autoseg reads version {expected}; "
            f"use the autoseg that wrote it, or plan again"
        )
        raise DocumentError(msg)
    return content


def _reword(problem: Any, kind: type[BaseModel], where: str) -> str:
    location = ": ".join([where, ".".join(str(step) for step in problem["loc"])]) if problem["loc"] else where
    if problem["type"] == "extra_forbidden":
        hint = suggest_key(str(problem["loc"][-1]), list(kind.model_fields)) if len(problem["loc"]) == 1 else ""
        return f"{location}: unknown key{hint}"
    if problem["type"] == "missing":
        return f"{location}: is missing"
    if problem["type"] == "value_error":  # from our own validators, which say what they found
        return f"{location}: {problem['ctx']['error']}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{location}: {message} (got {problem['input']!r:.80})"
