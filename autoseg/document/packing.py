"""Sequences of many values of which little is kept: each is packed into some bytes, and built anew when it is read."""

import marshal
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, Generic, Protocol, TypeVar, overload, runtime_checkable

Item = TypeVar("Item")
Other = TypeVar("Other")


@runtime_checkable
class Codec(Protocol[Item]):
    """Protocol of what packs the values of one kind."""

    def pack(self, item: Item, /) -> Any:
        """Returns numbers, texts and bytes that stand for a value, in tuples and dictionaries."""
        ...

    def unpack(self, packed: Any, /) -> Item:
        """Builds a value from what `pack` has returned."""
        ...


class FieldsCodec(Generic[Item]):
    """Packs the fields of a dataclass that hold numbers and texts."""

    def __init__(self, kind: type[Item]) -> None:
        self._kind = kind

    def pack(self, item: Item) -> tuple[Any, ...]:
        """Returns the values of the fields."""
        return tuple(getattr(item, each.name) for each in fields(self._kind))  # type: ignore[arg-type]

    def unpack(self, packed: Any) -> Item:
        """Builds the object anew."""
        names = (each.name for each in fields(self._kind))  # type: ignore[arg-type]
        return self._kind(**dict(zip(names, packed, strict=True)))


class PackedSequence(Sequence[Item]):
    """A sequence that can be extended at its end; each look at an item builds it anew.

    As objects, most values take five to ten times the memory. An item like the one before it takes that of its place.
    """

    __slots__ = ("_codec", "_content", "_ends", "_starts")

    def __init__(self, codec: Codec[Item], items: Iterable[Item] = ()) -> None:
        self._codec = codec
        self._content = bytearray()
        self._starts, self._ends = array("Q"), array("Q")
        for item in items:
            self.append(item)

    def append(self, item: Item) -> None:
        """Adds an item."""
        packed = marshal.dumps(self._codec.pack(item))
        if not (self and packed == self._content[self._starts[-1] : self._ends[-1]]):
            self._content += packed
        self._starts.append(len(self._content) - len(packed))
        self._ends.append(len(self._content))

    def reorder(self, places: Iterable[int]) -> "PackedSequence[Item]":
        """Returns the items at the given places, which are in memory once."""
        chosen = array("Q", places)
        other = PackedSequence(self._codec)
        other._content = self._content
        other._starts = array("Q", (self._starts[place] for place in chosen))
        other._ends = array("Q", (self._ends[place] for place in chosen))
        return other

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> "PackedSequence[Item]": ...

    def __getitem__(self, index: int | slice) -> "Item | PackedSequence[Item]":
        if isinstance(index, slice):
            return self.reorder(range(len(self))[index])
        return self._unpack(self._starts[index], self._ends[index])

    def __iter__(self) -> Iterator[Item]:
        return map(self._unpack, self._starts, self._ends)

    def __eq__(self, other: object) -> bool:
        """Whether another sequence, packed or not, has equal items."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} {'entry' if len(self) == 1 else 'entries'}>"

    def _unpack(self, start: int, end: int) -> Item:
        return self._codec.unpack(marshal.loads(self._content[start:end]))


class PackedResults(Generic[Item]):
    """Packs the results of cases, which come in any order."""

    def __init__(self, codec: Codec[Item]) -> None:
        self._items = PackedSequence(codec)
        self._indices = array("Q")

    def add(self, index: int, item: Item) -> None:
        """Adds the result of the case with this index."""
        self._indices.append(index)
        self._items.append(item)

    def sort(self) -> PackedSequence[Item]:
        """Returns the results in the order of the cases."""
        return self._items.reorder(sorted(range(len(self._indices)), key=self._indices.__getitem__))


class PackedMapping(Mapping[str, Item]):
    """A mapping of names to packed values."""

    def __init__(self, codec: Codec[Item]) -> None:
        self._items = PackedSequence(codec)
        self._places: dict[str, int] = {}

    def add(self, name: str, item: Item) -> None:
        """Adds a value under a name."""
        self._places[name] = len(self._items)
        self._items.append(item)

    def __getitem__(self, name: str) -> Item:
        return self._items[self._places[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class ComputedMapping(Mapping[str, Item], Generic[Other, Item]):
    """A mapping whose values are computed from those of another one whenever they are asked for."""

    def __init__(self, source: Mapping[str, Other], compute: Callable[[Other], Item]) -> None:
        self._source, self._compute = source, compute

    def __getitem__(self, name: str) -> Item:
        return self._compute(self._source[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)


class NamedItems(Sequence[tuple[str, Item]]):
    """Pairs of the name of an item and the item, which are built when they are asked for."""

    __slots__ = ("_items", "_name")

    def __init__(self, items: Sequence[Item], name: Callable[[Item], str]) -> None:
        self._items, self._name = items, name

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> tuple[str, Item]: ...

    @overload
    def __getitem__(self, index: slice) -> "NamedItems[Item]": ...

    def __getitem__(self, index: int | slice) -> "tuple[str, Item] | NamedItems[Item]":
        if isinstance(index, slice):
            return NamedItems(self._items[index], self._name)
        item = self._items[index]
        return self._name(item), item
