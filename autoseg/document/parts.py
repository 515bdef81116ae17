"""Parts of JSON documents: strict schemas, and parts of which a document has one for every case."""

import difflib
import functools
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Generic, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from autoseg.document.packing import PackedSequence

AnyCasePart = TypeVar("AnyCasePart", bound="CasePart")

PositiveTriple = tuple[
    Annotated[float, Field(gt=0, allow_inf_nan=False)],
    Annotated[float, Field(gt=0, allow_inf_nan=False)],
    Annotated[float, Field(gt=0, allow_inf_nan=False)],
]
ShapeTriple = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]

LONGEST_SHOWN_VALUE: Final = 80  # characters


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

    def pack(self) -> tuple[Any, ...]:
        """Returns the values of its fields, those of parts in it as tuples, too."""
        nested = _find_nested(type(self))
        return tuple(
            _pack_value(value) if name in nested else value
            for name, value in ((name, self.__dict__[name]) for name in type(self).model_fields)
        )

    @classmethod
    def unpack(cls: type[AnyCasePart], packed: Sequence[Any]) -> AnyCasePart:
        """Builds the part that `pack` has packed, without checking it again."""
        names, nested = _list_fields(cls), _find_nested(cls)
        values = dict(zip(names, packed, strict=True))
        for name, kind in nested.items():
            values[name] = _unpack_value(values[name], kind)
        part = cls.__new__(cls)
        object.__setattr__(part, "__dict__", values)
        object.__setattr__(part, "__pydantic_fields_set__", _find_names(names))
        object.__setattr__(part, "__pydantic_extra__", None)
        object.__setattr__(part, "__pydantic_private__", None)
        return part

    def _share_names(self) -> None:
        shared = _find_names(frozenset(self.__pydantic_fields_set__))
        object.__setattr__(self, "__pydantic_fields_set__", shared)


def _pack_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: entry.pack() for key, entry in value.items()}
    return None if value is None else value.pack()


def _unpack_value(packed: Any, kind: type[CasePart]) -> Any:
    if isinstance(packed, dict):
        return {key: kind.unpack(entry) for key, entry in packed.items()}
    return None if packed is None else kind.unpack(packed)


@functools.cache
def _find_names(names: Collection[str]) -> set[str]:
    """Returns the one set of these names, which nobody changes: copies of a part get a set of their own."""
    return set(names)


@functools.cache
def _list_fields(kind: type[CasePart]) -> tuple[str, ...]:
    return tuple(kind.model_fields)


@functools.cache
def _find_nested(kind: type[CasePart]) -> dict[str, type[CasePart]]:
    """Finds the fields of a part that hold one part each, or a mapping of some, and what kind."""
    found = ((name, _find_kind(field.annotation)) for name, field in kind.model_fields.items())
    return {name: part for name, part in found if part is not None}


def _find_kind(annotation: Any) -> type[CasePart] | None:
    if isinstance(annotation, type) and issubclass(annotation, CasePart):
        return annotation
    return next((kind for argument in get_args(annotation) if (kind := _find_kind(argument)) is not None), None)


@dataclass(frozen=True, slots=True)
class PartCodec(Generic[AnyCasePart]):
    """Packs parts of one kind, of which a document has one for every case."""

    kind: type[AnyCasePart]

    def pack(self, part: AnyCasePart) -> tuple[Any, ...]:
        """Returns the values of its fields."""
        return part.pack()

    def unpack(self, packed: Any) -> AnyCasePart:
        """Builds the part anew."""
        return self.kind.unpack(packed)


def pack_parts(kind: type[AnyCasePart], parts: Iterable[AnyCasePart] = ()) -> PackedSequence[AnyCasePart]:
    """Packs parts of one kind into a sequence that can be extended."""
    return PackedSequence(PartCodec(kind), parts)


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Annotates a field of a document with a part for every case: `Annotated[Sequence[Kind], Packed(Kind)]`.

    The parts are packed as soon as they are checked, and such a document is read and written one part at a time.

    Attributes:
        kind: Kind of the parts.
        fewest: Number of parts that there must be.
    """

    kind: type[CasePart]
    fewest: int = 0

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Called by pydantic."""
        parts = core_schema.tuple_variable_schema(handler.generate_schema(self.kind), min_length=self.fewest)
        written = core_schema.plain_serializer_function_ser_schema(tuple, return_schema=parts)
        return core_schema.no_info_wrap_validator_function(self._read, parts, serialization=written)

    def _read(self, content: Any, check: Callable[[Any], tuple[CasePart, ...]]) -> PackedSequence[Any]:
        if isinstance(content, PackedSequence) and len(content) >= self.fewest:
            return content
        return pack_parts(self.kind, check(content))


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
