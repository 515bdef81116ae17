import json
import math
import pickle
from typing import Annotated, Literal, Self

import pytest
from pydantic import Field, model_validator

from autoseg.document import CasePart, Document, OneOf, Part, parse_part, read_document, suggest_key, write_document
from autoseg.errors import DocumentError
from autoseg.untrusted.json_reading import read_json


class Leaf(Part):
    size: Annotated[int, Field(gt=0)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.size == 13:
            msg = "size must not be 13"
            raise ValueError(msg)
        return self


class Tree(Document):
    schema_version: Literal[2] = 2
    name: str
    leaves: tuple[Leaf, ...]
    height: float = 1.0


TREE = Tree(name="oak", leaves=(Leaf(size=1), Leaf(size=2)))


def read(tmp_path, content) -> Tree:
    path = tmp_path / "tree.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_document(path, Tree)


def test_a_document_comes_back(tmp_path):
    write_document(tmp_path / "tree.json", TREE)
    assert read_document(tmp_path / "tree.json", Tree) == TREE
    assert (tmp_path / "tree.json").read_text().endswith("}\n")
    assert json.loads((tmp_path / "tree.json").read_text())["leaves"] == [{"size": 1}, {"size": 2}]


class CaseLeaf(CasePart):
    name: str
    size: int = 1


def test_parts_of_cases_share_the_names_of_their_fields_wherever_they_come_from():
    first, second = CaseLeaf(name="a"), CaseLeaf.model_validate({"name": "b"})
    for other in (second, pickle.loads(pickle.dumps(first)), first.model_copy(), CaseLeaf.model_construct(name="c")):
        assert other.__pydantic_fields_set__ is first.__pydantic_fields_set__
    assert all(
        key is other for key, other in zip(first.__dict__, pickle.loads(pickle.dumps(first)).__dict__, strict=True)
    )
    changed = first.model_copy(update={"size": 2})
    assert (changed.model_fields_set, first.model_fields_set) == ({"name", "size"}, {"name"})
    assert pickle.loads(pickle.dumps(changed)) == changed == CaseLeaf(name="a", size=2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_does_not_know_come_back(tmp_path, value):
    write_document(tmp_path / "tree.json", TREE.model_copy(update={"height": value}))
    json.loads((tmp_path / "tree.json").read_text(), parse_constant=pytest.fail)
    height = read_document(tmp_path / "tree.json", Tree).height
    assert height == value or (math.isnan(height) and math.isnan(value))


def test_every_problem_is_named_with_file_and_field(tmp_path):
    content = {"schema_version": 2, "nmae": "x", "leaves": [{"size": 1}, {"size": 0, "colour": 1}, {"size": 13}]}
    with pytest.raises(DocumentError) as caught:
        read(tmp_path, content)
    assert str(caught.value).splitlines() == [
        "tree.json: name: is missing",
        "tree.json: leaves.1.size: input should be greater than 0 (got 0)",
        "tree.json: leaves.1.colour: unknown key",
        "tree.json: leaves.2: size must not be 13",
        "tree.json: nmae: unknown key (did you mean 'name'?)",
    ]


def test_a_problem_of_the_whole_document_is_named_by_its_file():
    with pytest.raises(DocumentError, match=r"^leaf\.json: size must not be 13$"):
        parse_part({"size": 13}, Leaf, where="leaf.json")


@pytest.mark.parametrize("version", [1, 3, "2", None])
def test_another_version_is_refused_with_advice(tmp_path, version):
    with pytest.raises(DocumentError, match=r"tree\.json has schema version .*, this autoseg reads version 2; use the"):
        read(tmp_path, {"schema_version": version, "name": "x", "leaves": []})


def test_a_missing_version_is_refused(tmp_path):
    with pytest.raises(DocumentError, match="schema version None"):
        read(tmp_path, {"name": "x", "leaves": []})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "must hold a JSON object, found list"),
        ('{"a": 1,\n}', r"tree\.json, line 2, column 1: not valid JSON"),
        ('{"name": 1, "name": 2}', "the key 'name' stands twice"),
        ('{"schema_version": 2, "leaves": [{"size": 1, "size": 2}]}', "the key 'size' stands twice"),
    ],
)
def test_what_is_no_document_is_refused(tmp_path, content, message):
    with pytest.raises(DocumentError, match=message):
        read(tmp_path, content)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(DocumentError, match=r"gone\.json does not exist"):
        read_json(tmp_path / "gone.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(DocumentError, match=r"folder\.json cannot be read"):
        read_json(tmp_path / "folder.json")
    (tmp_path / "latin.json").write_bytes(b'"\xe9"')
    with pytest.raises(DocumentError, match=r"latin\.json cannot be read"):
        read_json(tmp_path / "latin.json")


def test_a_byte_order_mark_does_no_harm(tmp_path):
    (tmp_path / "a.json").write_text('\ufeff{"a": "ä"}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"a": "ä"}


def test_documents_cannot_be_changed():
    with pytest.raises(Exception, match="frozen"):
        TREE.name = "elm"


def test_only_close_keys_are_suggested():
    assert suggest_key("lables", ["labels", "name"]) == " (did you mean 'labels'?)"
    assert suggest_key("zzz", ["labels", "name"]) == ""


def test_a_printed_document_is_one_line_in_which_long_values_are_counted():
    assert repr(TREE) == "Tree(schema_version=2, name='oak', leaves=(Leaf(size=1), Leaf(size=2)), height=1.0)"
    forest = Tree(name="f" * 100, leaves=(Leaf(size=1),) * 50)
    assert repr(forest) == f"Tree(schema_version=2, name='{'f' * 100}', leaves=<50 entries>, height=1.0)"
    assert str(forest) == f"schema_version=2 name='{'f' * 100}' leaves=<50 entries> height=1.0"


class Shape(Part):
    name: str


class Circle(Shape):
    name: Literal["circle"]
    radius: Annotated[float, Field(gt=0)]


class Square(Shape):
    name: Literal["square"]
    side: float


SHAPES: dict[str, type[Part]] = {"circle": Circle}


class Drawing(Document):
    schema_version: Literal[3] = 3
    shapes: tuple[Annotated[Shape, OneOf(SHAPES, "name")], ...]
    upgrades = {  # noqa: RUF012  # pydantic takes it for the class variable that it is
        1: lambda old: {"schema_version": 2, "shape": old["figure"]},
        2: lambda old: {"schema_version": 3, "shapes": [old["shape"]]},
    }


def read_drawing(tmp_path, content) -> Drawing:
    path = tmp_path / "drawing.json"
    path.write_text(json.dumps(content))
    return read_document(path, Drawing)


def test_a_part_of_one_of_several_kinds_comes_back_with_its_own_fields(tmp_path):
    drawing = Drawing(shapes=(Circle(name="circle", radius=2.0),))
    write_document(tmp_path / "drawing.json", drawing)
    assert json.loads((tmp_path / "drawing.json").read_text())["shapes"] == [{"name": "circle", "radius": 2.0}]
    assert read_document(tmp_path / "drawing.json", Drawing) == drawing


def test_a_new_kind_is_one_more_row(tmp_path, monkeypatch):
    square = {"name": "square", "side": 1.5}
    with pytest.raises(DocumentError, match=r"shapes\.0: 'name' must be one of circle \(got 'square'\)"):
        read_drawing(tmp_path, {"schema_version": 3, "shapes": [square]})
    monkeypatch.setitem(SHAPES, "square", Square)
    drawing = read_drawing(tmp_path, {"schema_version": 3, "shapes": [square]})
    assert drawing.shapes == (Square(name="square", side=1.5),)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"name": "circle", "radius": -1}, "drawing.json: shapes.0.radius: input should be greater than 0 (got -1)"),
        ({"name": "circle"}, "drawing.json: shapes.0.radius: is missing"),
        ({"name": "circle", "radius": 1, "side": 2}, "drawing.json: shapes.0.side: unknown key"),
        ({"name": "circel"}, "'name' must be one of circle (got 'circel') (did you mean 'circle'?)"),
        ({"radius": 1}, "'name' is missing; it must be one of circle"),
        ({"name": 3}, "'name' must be one of circle (got 3)"),
        ("circle", "must be an object with the key 'name' (got 'circle')"),
    ],
)
def test_problems_inside_such_a_part_are_named_by_field(tmp_path, shape, message):
    with pytest.raises(DocumentError) as caught:
        read_drawing(tmp_path, {"schema_version": 3, "shapes": [shape]})
    assert message in str(caught.value)


def test_earlier_versions_are_upgraded_one_after_the_other(tmp_path):
    figure = {"name": "circle", "radius": 2.0}
    assert read_drawing(tmp_path, {"schema_version": 1, "figure": figure}) == read_drawing(
        tmp_path, {"schema_version": 3, "shapes": [figure]}
    )


@pytest.mark.parametrize("version", [0, 4, "1", None])
def test_versions_that_nobody_knows_are_refused(tmp_path, version):
    with pytest.raises(DocumentError, match=f"has schema version {version!r}, this autoseg reads version 3"):
        read_drawing(tmp_path, {"schema_version": version, "shapes": []})


class Forest(Part):
    sizes: Annotated[tuple[Annotated[int, Field(le=9)], ...], Field(min_length=1)]


def test_a_list_of_wrong_entries_is_not_called_too_short():
    with pytest.raises(DocumentError) as caught:
        parse_part({"sizes": [10]}, Forest, where="x.json")
    assert str(caught.value) == "x.json: sizes.0: input should be less than or equal to 9 (got 10)"
    with pytest.raises(DocumentError, match=r"x\.json: sizes: .*at least 1"):
        parse_part({"sizes": []}, Forest, where="x.json")


def test_of_very_many_problems_the_first_are_named_and_the_others_counted():
    with pytest.raises(DocumentError, match=r"x\.json: and 80 more problems") as caught:
        parse_part({"sizes": [10] * 100}, Forest, where="x.json")
    assert len(str(caught.value).splitlines()) == 21
