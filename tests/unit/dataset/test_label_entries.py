import time
from typing import Any

import pytest
from builders.labels import build_labels

from autoseg.dataset.cases import Findings
from autoseg.dataset.label_entries import check_region_order, parse_labels, warn_of_region_order
from autoseg.labels import LabelScheme, propose_regions


def parse(labels: Any, order: Any = None) -> tuple[LabelScheme | None, str]:
    findings = Findings()
    scheme = parse_labels(labels, order, findings)
    assert (scheme is None) == bool(findings.problems)
    return scheme, "\n".join(findings.problems + findings.notes)


def test_plain_labels_are_classes_in_the_order_of_declaration():
    scheme, _ = parse({"liver": 6, "background": 0, "kidney": 2})
    assert scheme is not None
    assert [(entry.name, entry.values) for entry in scheme.classes] == [("liver", (6,)), ("kidney", (2,))]
    assert scheme.class_names == ("kidney", "liver")
    assert scheme.declared_count == 3
    assert not scheme.has_regions
    assert scheme.ignore_value is None


def test_lists_of_one_value_are_no_regions():
    scheme, _ = parse({"background": [0], "a": [1], "b": 2})
    assert scheme is not None
    assert not scheme.has_regions
    assert scheme.class_names == ("a", "b")


def test_regions_skip_background_and_ignore():
    labels = {"background": 0, "whole": [1, 2, 3], "air": [0, 0], "core": [2, 3], "enhancing": 3, "ignore": 4}
    scheme, _ = parse(labels, [1, 2, 3])
    assert scheme is not None
    assert [entry.values for entry in scheme.classes] == [(1, 2, 3), (2, 3), (3,)]
    assert scheme.region_write_values == (1, 2, 3)
    assert scheme.output_channel_count == 3
    assert scheme.ignore_label == 4
    assert scheme.declared_count == 6


def test_a_region_may_contain_background():
    scheme, _ = parse({"background": 0, "soft": [0, 1], "hard": 2}, [1, 2])
    assert scheme is not None
    assert scheme.classes[0].values == (0, 1)


def test_the_ignore_value_need_not_be_the_largest():
    scheme, _ = parse({"background": 0, "a": 5, "ignore": 3, "b": 7})
    assert scheme is not None
    assert scheme.file_values == (0, 5, 7, 3)


def test_values_of_the_decathlon_come_before_their_names():
    scheme, _ = parse({"0": "Background", "1": "a", "3": "b"})
    assert scheme is not None
    assert [(entry.name, entry.values) for entry in scheme.classes] == [("a", (1,)), ("b", (3,))]


def test_an_order_without_regions_is_a_note():
    scheme, text = parse({"background": 0, "a": 1}, [1])
    assert scheme is not None
    assert scheme.region_write_values is None
    assert "regions_class_order is ignored" in text


@pytest.mark.parametrize(
    ("labels", "order", "expected"),
    [
        (None, None, "labels must map names to values"),
        ({}, None, "labels must map names to values"),
        ([1, 2], None, "labels must map names to values"),
        ({"a": 1}, None, "'background' with the value 0 is missing"),
        ({"air": 0, "a": 1}, None, "'background' with the value 0 is missing; rename 'air'"),
        ({"background": 1, "a": 2}, None, "'background' must be 0, found 1"),
        ({"background": [0, 1], "a": 2}, [1, 2], "'background' must be 0, found [0, 1]"),
        ({"background": 0}, None, "at least one label besides 'background'"),
        ({"background": 0, "ignore": 1}, None, "at least one label besides 'background'"),
        ({"background": 0, "a": 1, "b": 1}, None, "'a' and 'b' both have the value 1"),
        ({"background": 0, "a": 1, "b": 0}, None, "'background' and 'b' both have the value 0"),
        ({"background": 0, "a": "1"}, None, "'a' must be an integer or a list of integers"),
        ({"background": 0, "a": 1.5}, None, "'a' must be an integer or a list of integers"),
        ({"background": 0, "a": True}, None, "'a' must be an integer or a list of integers"),
        ({"background": 0, "a": []}, None, "'a' must be an integer or a list of integers"),
        ({"background": 0, "a": [1, "2"]}, None, "'a' must be an integer or a list of integers"),
        ({"background": 0, "a": 2**31}, None, "'a' must be an integer or a list of integers of at most 32 bits"),
        (
            {"background": 0, "a": 1, "ignore": 1},
            None,
            "'ignore' must be one integer that no other label has, found 1, but 1 is 'a'",
        ),
        ({"background": 0, "a": 1, "ignore": 0}, None, "'ignore' must be one integer that no other label has"),
        ({"background": 0, "a": 1, "ignore": [2, 3]}, None, "'ignore' must be one integer that no other label has"),
        ({"background": 0, "a": [1, 2], "b": 2}, None, "regions_class_order must list one integer for each of a, b"),
        (
            {"background": 0, "a": [1, 2], "b": 2},
            {"a": 1},
            "regions_class_order must list one integer for each of a, b",
        ),
        (
            {"background": 0, "a": [1, 2], "b": 2},
            [1],
            "regions_class_order must have 2 values, one for each of a, b, found 1",
        ),
        ({"background": 0, "a": [1, 2], "b": 2}, [1, 9], "regions_class_order names 9, which no label has"),
        ({"0": "background", "1": "a", "2": "a"}, None, "the values 1 and 2 have the same name 'a'"),
    ],
)
def test_what_is_wrong_is_named(labels, order, expected):
    scheme, text = parse(labels, order)
    assert scheme is None
    assert expected in text


def check_order(classes: dict[str, tuple[int, ...]], order: tuple[int, ...]) -> Findings:
    findings = Findings()
    check_region_order(build_labels(classes, ignore_value=9, region_write_values=order), findings)
    return findings


def test_regions_from_inner_to_outer_are_refused_with_the_lines_that_work():
    classes = {"core": (2,), "whole": (1, 2)}
    (problem,) = check_order(classes, (2, 1)).problems
    assert "2 (core, whole) is written as 1 (whole); reorder them:" in problem
    assert '"labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 9},' in problem
    assert '"regions_class_order": [1, 2]' in problem
    (warning,) = warn_of_region_order(build_labels(classes, region_write_values=(2, 1)))
    assert warning.startswith("warning: ")
    assert "2 (core, whole) is written as 1 (whole)" in warning


def test_regions_that_no_order_tells_apart_need_a_further_one():
    (problem,) = check_order({"a": (1, 3), "b": (2, 3)}, (1, 2)).problems
    assert "add a region, as no order of these is right" in problem
    assert '"label_3": 3, "ignore": 9}' in problem


def test_a_thousand_nested_regions_are_checked_at_once_and_explained_in_a_few_lines():
    count = 1000
    classes = {f"region{index}": tuple(range(index, count + 1)) for index in range(count, 0, -1)}
    labels = build_labels(classes, region_write_values=tuple(range(count, 0, -1)))
    findings, before = Findings(), time.process_time()
    check_region_order(labels, findings)
    assert time.process_time() - before < 5
    (problem,) = findings.problems
    assert "2 (region2, region1) is written as 1 (region1); " in problem
    assert "; and 994 more; list outer regions before those inside them" in problem
    assert len(problem) < 2000
    better = propose_regions(labels)
    assert [entry.name for entry, _ in better] == [f"region{index}" for index in range(1, count + 1)]
    assert [value for _, value in better] == list(range(1, count + 1))


def test_many_values_that_predictions_merge_are_shortened():
    classes = {f"r{index}": tuple(range(10 * index + 1, 10 * index + 11)) for index in range(10, 20)}
    findings = check_order(classes, tuple(values[0] for values in classes.values()))
    assert findings.problems == []
    assert len(findings.notes) == 6
    assert "101, 102, 103, 104, 105 and 5 more belong to the same regions" in findings.notes[0]
    assert findings.notes[-1].endswith("and so for 5 more groups of values")


def test_values_that_predictions_merge_are_a_note():
    findings = check_order({"whole": (1, 2, 3), "core": (3,)}, (1, 3))
    assert findings.problems == []
    (note,) = findings.notes
    assert "1 and 2 belong to the same regions, so that predictions hold 1 for both" in note
    assert warn_of_region_order(build_labels({"a": (1, 2)}, region_write_values=(1,))) == ()
