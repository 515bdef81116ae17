"""JSON documents of a run: strict, versioned schemas, atomic writing, readable errors; packed where cases are many."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from autoseg.document.packing import (
    ComputedMapping,
    FieldsCodec,
    NamedItems,
    PackedMapping,
    PackedResults,
    PackedSequence,
)
from autoseg.document.parts import (
    CasePart,
    OneOf,
    Packed,
    Part,
    PartCodec,
    PositiveTriple,
    ShapeTriple,
    pack_parts,
    suggest_key,
)
from autoseg.errors import DocumentError
from autoseg.run_folder import write_atomically
from autoseg.untrusted.json_reading import MOST_BYTES, read_entries, read_json

__all__ = [
    "MOST_RESULT_BYTES",
    "AnyDocument",
    "AnyPart",
    "CasePart",
    "ComputedMapping",
    "Document",
    "FieldsCodec",
    "NamedItems",
    "OneOf",
    "Packed",
    "PackedMapping",
    "PackedResults",
    "PackedSequence",
    "Part",
    "PartCodec",
    "PositiveTriple",
    "ShapeTriple",
    "Upgrade",
    "UpgradeError",
    "pack_parts",
    "parse_part",
    "read_document",
    "suggest_key",
    "upgrade_content",
    "write_document",
]

AnyPart = TypeVar("AnyPart", bound=Part)
AnyDocument = TypeVar("AnyDocument", bound="Document")

MOST_SHOWN_PROBLEMS: Final = 20
INDENT: Final = "  "
MOST_RESULT_BYTES: Final = 2**29  # of what autoseg itself writes about every case of a large dataset


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
        file.writelines(_write_parts(document))
        file.write(b"\n")


def _write_parts(document: Document) -> Iterator[bytes]:
    """Yields the JSON of a document in pieces, of which each packed part is one."""
    packed = _find_packed(type(document))
    rest = _write_json(document.model_copy(update=dict.fromkeys(packed, ())) if packed else document)
    for name in packed:
        before, key, rest = rest.partition(f'\n{INDENT}"{name}": '.encode())
        yield before + key
        yield from _write_entries(getattr(document, name))
        rest = rest.removeprefix(b"[]")
    yield rest


def _write_entries(entries: Iterable[CasePart]) -> Iterator[bytes]:
    deeper = b"\n" + 2 * INDENT.encode()
    opening = b"["
    for entry in entries:
        yield opening + deeper + _write_json(entry).replace(b"\n", deeper)
        opening = b","
    yield b"[]" if opening == b"[" else f"\n{INDENT}]".encode()


def _write_json(part: Part) -> bytes:
    return part.__pydantic_serializer__.to_json(part, indent=len(INDENT))  # bytes: no second copy as a text


@functools.cache
def _find_packed(kind: type[Document]) -> dict[str, type[CasePart]]:
    """Finds the fields of a document that have a part for every case, in their order, and what kind."""
    marks = ((name, mark) for name, field in kind.model_fields.items() for mark in field.metadata)
    return {name: mark.kind for name, mark in marks if isinstance(mark, Packed)}


def read_document(path: Path, kind: type[AnyDocument]) -> AnyDocument:
    """Reads and checks a document; files of earlier versions are upgraded in memory.

    Raises:
        DocumentError: The file is missing, no JSON, of an unknown version, or breaks the schema; each problem is named
            by file and field.
    """
    document = _read_by_parts(path, kind) if _find_packed(kind) else None
    if document is not None:
        return document
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


def _read_by_parts(path: Path, kind: type[AnyDocument]) -> AnyDocument | None:
    """Reads a document and packs its parts one after the other; None for one of another version, or with problems."""
    packed = {name: pack_parts(part) for name, part in _find_packed(kind).items()}

    def take(name: str, entry: Any) -> None:
        packed[name].append(packed_kinds[name].model_validate(entry))

    packed_kinds = _find_packed(kind)
    content = read_entries(path, take, keys=packed, most_bytes=kind.most_bytes)
    if content is None or content.get("schema_version") != kind.model_fields["schema_version"].default:
        return None
    try:
        return kind.model_validate(content | {name: parts for name, parts in packed.items() if name in content})
    except ValidationError:
        return None


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
