"""What is known of every case is packed, and comes back; documents are read and written one case at a time."""

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from autoseg.dataset import Case, pack_cases
from autoseg.document import (
    CasePart,
    Document,
    FieldsCodec,
    NamedItems,
    Packed,
    PackedMapping,
    PackedResults,
    PackedSequence,
    pack_parts,
    read_document,
    write_document,
)
from autoseg.errors import DocumentError
from autoseg.labels import InstanceTargets
from autoseg.untrusted import json_reading
from autoseg.untrusted.json_reading import read_entries


class Bud(CasePart):
    size: float


class Twig(CasePart):
    name: str
    size: Annotated[int, Field(gt=0)] = 1
    bud: Bud | None = None
    leaves: dict[str, Bud] = Field(default_factory=dict)
    marks: tuple[tuple[int, int], ...] = ()


class Branch(Document):
    schema_version: Literal[2] = 2
    name: str
    twigs: Annotated[Sequence[Twig], Packed(Twig, fewest=1)]
    length: float = 1.0


class WholeBranch(Document):
    """The same, not packed."""

    schema_version: Literal[2] = 2
    name: str
    twigs: tuple[Twig, ...]
    length: float = 1.0


TWIGS = (
    Twig(name='a "quoted"\n"twigs": []', bud=Bud(size=float("nan")), marks=((1, 2), (3, 4))),
    Twig(name="ä", size=2**40, leaves={"x": Bud(size=0.1), "y": Bud(size=-0.0)}),
    Twig(name="ä", size=2**40, leaves={"x": Bud(size=0.1), "y": Bud(size=-0.0)}),
)
BRANCH = Branch(name="b\n", twigs=TWIGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    x: int
    y: float


POINTS = tuple(Point(x=x, y=x / 3) for x in (1, 2, 2, 3))


@pytest.mark.parametrize("change", [lambda packed: packed, lambda packed: pickle.loads(pickle.dumps(packed))])
def test_a_packed_sequence_is_the_sequence_of_what_was_packed(change) -> None:
    packed = change(PackedSequence(FieldsCodec(Point), POINTS))
    assert packed == POINTS == tuple(packed)
    assert packed != POINTS[:3]
    assert (packed[1], packed[-1], packed[1:3], len(packed)) == (POINTS[1], POINTS[3], POINTS[1:3], 4)
    assert packed.reorder([3, 0]) == (POINTS[3], POINTS[0])
    assert repr(packed[:1]) == "<1 entry>"
    with pytest.raises(IndexError):
        packed[4]
    packed.append(POINTS[0])
    assert packed == (*POINTS, POINTS[0])


def test_results_come_back_in_the_order_of_the_cases_and_mappings_by_name() -> None:
    results, mapping = PackedResults(FieldsCodec(Point)), PackedMapping(FieldsCodec(Point))
    for index in (2, 0, 3):
        results.add(index, POINTS[index])
        mapping.add(str(index), POINTS[index])
    assert results.sort() == (POINTS[0], POINTS[2], POINTS[3])
    assert dict(mapping) == {"2": POINTS[2], "0": POINTS[0], "3": POINTS[3]}
    named = NamedItems(POINTS, lambda point: str(point.x))
    assert (named[3], len(named[1:3])) == (("3", POINTS[3]), 2)


def test_parts_come_back_with_the_parts_in_them() -> None:
    first, *rest = pack_parts(Twig, TWIGS)
    assert str(first) == str(TWIGS[0])  # in which a number is none, which equals nothing
    assert rest == list(TWIGS[1:])
    assert first.model_copy(update={"size": 3}).size == 3
    with pytest.raises(Exception, match="frozen"):
        first.size = 2


def test_a_document_is_written_byte_for_byte_as_if_it_were_not_packed(tmp_path: Path) -> None:
    for twigs in (TWIGS, TWIGS[:1]):
        write_document(tmp_path / "whole.json", WholeBranch(name="b\n", twigs=twigs))
        for name, given in (("packed", twigs), ("loose", BRANCH.model_copy(update={"twigs": twigs}).twigs)):
            write_document(tmp_path / f"{name}.json", BRANCH.model_copy(update={"twigs": given}))
            assert (tmp_path / f"{name}.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    write_document(tmp_path / "empty.json", BRANCH.model_copy(update={"twigs": ()}))
    assert json.loads((tmp_path / "empty.json").read_text())["twigs"] == []


@pytest.mark.parametrize("characters", [1, 7, 2**16])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_document_is_read_in_parts_of_any_size(tmp_path: Path, monkeypatch, characters: int, indent: int) -> None:
    path = tmp_path / "branch.json"
    content = json.loads(BRANCH.model_dump_json())
    content["twigs"][0]["bud"] = {"size": 1.25e-7}
    path.write_text("\ufeff" + json.dumps(content, indent=indent), encoding="utf-8")
    monkeypatch.setattr(json_reading, "PART_CHARACTERS", characters)
    monkeypatch.setattr("autoseg.document.read_json", None)  # which reads whole documents
    branch = read_document(path, Branch)
    assert branch == Branch.model_validate(content)
    assert isinstance(branch.twigs, PackedSequence)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"schema_version": 2, "name": "b", "twigs": [{"name": "a"}, {"name": "b", "size": 0}]}',
            "twigs.1.size: input",
        ),
        (
            '{"schema_version": 2, "name": "b", "twigs": [{"name": "a", "size": 0}, {"nmae": "b"}]}',
            "twigs.1.nmae: unkn",
        ),
        ('{"schema_version": 2, "name": "b", "twigs": []}', "twigs: .*at least 1"),
        ('{"schema_version": 2, "name": "b", "twigs": {}}', "twigs: "),
        ('{"schema_version": 2, "name": "b"}', "twigs: is missing"),
        ('{"schema_version": 1, "name": "b", "twigs": [{"name": "a"}]}', "has schema version 1"),
        ('{"schema_version": 2, "name": "b", "twigs": [{"name": "a"},]}', "not valid JSON"),
        ('{"schema_version": 2, "name": "b", "twigs": [{"name": "a"}', "line 1, column .*: not valid JSON"),
        ('{"schema_version": 2, "name": "b", "twigs": [{"name": "a"}]} x', "not valid JSON"),
        ('{"schema_version": 2, "name": "b", "twigs": [{"name": "a", "name": "a"}]}', "'name' stands twice"),
        ('{"name": "b", "name": "b", "twigs": [{"name": "a"}]}', "'name' stands twice"),
        ('{"schema_version": 2, "name": "b", "twigs": [{"name": "a"}], "length": NaN}', "NaN is no number of JSON"),
        ('{"schema_version": 2, "name": "b", "twigs": [{"name": "\\ud800"}]}', "half of a character"),
        ("[1]", "must hold a JSON object, found list"),
    ],
)
def test_what_is_wrong_with_a_document_is_said_as_of_any_other(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "branch.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DocumentError, match=message):
        read_document(path, Branch)


def test_a_file_that_is_too_large_or_none_is_left_to_the_reader_of_whole_documents(tmp_path: Path) -> None:
    entries: list[Any] = []
    path = tmp_path / "a.json"
    path.write_text('{"x": [1, 2], "y": [3]}')
    read = {"take": lambda key, entry: entries.append((key, entry)), "keys": ("x",)}
    assert read_entries(path, most_bytes=100, **read) == {"x": None, "y": [3]}
    assert entries == [("x", 1), ("x", 2)]
    assert read_entries(path, most_bytes=9, **read) is None
    assert read_entries(tmp_path / "gone.json", most_bytes=9, **read) is None


def test_cases_come_back_with_their_paths_inside_and_outside_of_the_dataset(tmp_path: Path) -> None:
    cases = (
        Case(name="a", images=(f"{tmp_path}/imagesTr/a_0000.nii", "/elsewhere/a_0001.nii"), label=None),
        Case(name="b", images=(f"{tmp_path}x/b.nii",), label=f"{tmp_path}/labelsTr/b.nii", fix_geometry=True),
    )
    packed = pack_cases(tmp_path, cases)
    assert packed == cases
    assert all(case.targets is None or isinstance(case.targets, InstanceTargets) for case in packed)
