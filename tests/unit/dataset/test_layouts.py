"""Descriptions of public datasets, and the matching of names; conversions are tested beside the workflow."""

import re

import pytest

from autoseg.dataset.layouts import LAYOUTS
from autoseg.dataset.layouts.layout import GroupTable, LabelValues, Layout, compile_pattern, show_pattern
from autoseg.dataset.layouts.matching import describe_tree, match_layout

VARIANTS = [(name, layout) for name, variants in LAYOUTS.items() for layout in variants]
PAIR = Layout(
    title="pairs",
    reference="here",
    names_from="this test",
    images=("**/{case}/t1.nii", "**/{case}/t2.nii"),
    channels=("T1", "T2"),
    labels={"a": 1},
    masks=(LabelValues(pattern="**/{case}/seg.nii", values={1: 1}),),
    held_out="^test/",
)


@pytest.mark.parametrize(
    ("pattern", "path", "fields"),
    [
        ("**/images/{case}.png", "images/a.b.png", {"case": "a.b"}),
        ("**/images/{case}.png", "x/y/images/a.png", {"case": "a"}),
        ("**/images/{case}.png", "ximages/a.png", None),
        ("**/images/{case}.png", "images/x/a.png", None),
        ("*/{case}.png", "x/a.png", {"case": "a"}),
        ("*/{case}.png", "x/y/a.png", None),
        ("{case}/{case}.png", "a/a.png", {"case": "a"}),
        ("{case}/{case}.png", "a/b.png", None),
        ("{case:[a-f]{3}}_{n:\\d+}.png", "abc_12.png", {"case": "abc", "n": "12"}),
        ("{case:[a-f]{3}}_{n:\\d+}.png", "abcd_12.png", None),
        ("a (1)+.png", "a (1)+.png", {}),
    ],
)
def test_a_pattern_matches_whole_paths(pattern: str, path: str, fields: dict[str, str] | None) -> None:
    match = compile_pattern(pattern).fullmatch(path)
    assert (match.groupdict() if match else None) == fields


def test_a_pattern_is_shown_without_regular_expressions() -> None:
    assert show_pattern("**/{case:[0-9a-f]{64}}/images/{case}.png") == "**/{case}/images/{case}.png"


def test_files_of_a_case_share_the_texts_of_placeholders() -> None:
    paths = ("p1/seg.nii", "p1/t1.nii", "p1/t2.nii", "p2/seg.nii", "p2/t1.nii", "p3/t1.nii", "p3/t2.nii", "x/notes.txt")
    match = match_layout(PAIR, paths)
    assert [(case.images, case.masks[0][1]) for case in match.cases] == [(("p1/t1.nii", "p1/t2.nii"), ("p1/seg.nii",))]
    assert match.incomplete == ("p2/t1.nii", "p3/t1.nii")
    assert match.fits
    assert match.describe() == "**/{case}/t1.nii (3), **/{case}/t2.nii (2), **/{case}/seg.nii (2)"


def test_test_images_need_no_labels_and_are_nothing_to_train_with() -> None:
    match = match_layout(PAIR, ("test/p1/t1.nii", "test/p1/t2.nii"))
    assert [(case.is_held_out, case.masks) for case in match.cases] == [(True, ())]
    assert not match.fits


def test_two_files_for_the_same_part_of_a_case_are_a_problem() -> None:
    match = match_layout(PAIR, ("a/p1/t1.nii", "a/p1/t2.nii", "a/p1/seg.nii", "b/p1/seg.nii"))
    assert match.problems == (
        "'a/p1/seg.nii' and 'b/p1/seg.nii' belong to the same case; name a folder that holds the dataset once",
    )


def test_a_tree_is_described_by_its_kinds_of_files() -> None:
    assert describe_tree(()) == "no file at all"
    assert describe_tree(("a/x.nii.gz", "a/y.nii.gz", "b.png")) == "2 x 'a/*.nii.gz', 1 x '*.png'"
    assert describe_tree(f"{index}/a.png" for index in range(9)).endswith(" and 3 more kinds")


def test_a_name_that_no_file_can_have_is_changed() -> None:
    assert PAIR.name_case({"case": "CON"}) == "_CON"
    assert PAIR.name_case({"case": "a\nb"}) == "a_b"


@pytest.mark.parametrize(("name", "layout"), VARIANTS)
def test_a_layout_fits_together(name: str, layout: Layout) -> None:
    known = set(compile_pattern(layout.images[0]).groupindex)
    groups = "" if isinstance(layout.group, GroupTable) else layout.group
    assert set(re.findall(r"\{(\w+)\}", layout.case + groups)) <= known
    for pattern in layout.patterns[1:]:
        shared = known & set(compile_pattern(pattern).groupindex)
        assert shared or name == "coco"
    values = {v for value in layout.labels.values() for v in (value if isinstance(value, tuple) else (value,))}
    written = {
        v for rule in layout.masks for v in (rule.values.values() if isinstance(rule, LabelValues) else [rule.label])
    }
    assert written - {0} == values or name == "coco"
    assert layout.names_from
    assert re.match(r"https?://", layout.reference)


def test_every_layout_has_a_title_of_its_own() -> None:
    assert len({variants[0].title for variants in LAYOUTS.values()}) == len(LAYOUTS) > 15
