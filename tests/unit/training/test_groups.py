import json

import pytest

from autoseg.dataset.groups import group_by_pattern, read_groups
from autoseg.errors import DocumentError, TrainingError


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"^(p\d+)_", {"p1_a": "p1", "p1_b": "p1", "p22_a": "p22"}),
        (r"p\d+", {"p1_a": "p1", "p1_b": "p1", "p22_a": "p22"}),
        (r"_(.)$", {"p1_a": "a", "p1_b": "b", "p22_a": "a"}),
    ],
)
def test_the_first_group_or_the_whole_match_names_the_group(pattern, expected):
    assert group_by_pattern(list(expected), pattern) == expected


@pytest.mark.parametrize("pattern", [r"^p(\d)_", r"^p22|p1_(a)"])
def test_a_case_that_the_pattern_does_not_name_a_group_for_is_named(pattern):
    with pytest.raises(TrainingError, match=r"does not match p22_a"):
        group_by_pattern(["p1_a", "p22_a"], pattern)


def test_many_unmatched_cases_are_shortened():
    with pytest.raises(TrainingError, match=r"c0, c1, c2, c3, c4 and 2 more"):
        group_by_pattern([f"c{index}" for index in range(7)], "x")


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(TrainingError, match=r"regular expression, found '\(x'"):
        group_by_pattern(["a"], "(x")


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_groups_are_read_from_a_file(tmp_path):
    path = write(tmp_path / "groups.json", {"a": "one", "b": 2, "c": "one"})
    assert read_groups(path, ["a", "b", "c"]) == {"a": "one", "b": "2", "c": "one"}


@pytest.mark.parametrize(
    ("content", "message"),
    [({"a": "x", "z": "y"}, "unknown cases: z; cases without group: b"), ({"a": "x"}, "cases without group: b")],
)
def test_groups_must_fit_the_dataset(tmp_path, content, message):
    with pytest.raises(TrainingError, match=message):
        read_groups(write(tmp_path / "groups.json", content), ["a", "b"])


@pytest.mark.parametrize("content", [["a", "b"], {"a": ["x"], "b": "y"}])
def test_groups_of_another_form_are_refused(tmp_path, content):
    with pytest.raises(DocumentError, match="must map case names to groups"):
        read_groups(write(tmp_path / "groups.json", content), ["a", "b"])
