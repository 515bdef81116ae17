import pytest
from builders.hostile_documents import BAD_NAMES, GOOD_NAMES
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.untrusted.names import describe_name, find_equal_names, find_name_problem, suggest_name


@pytest.mark.parametrize("name", BAD_NAMES.values())
def test_a_bad_name_has_a_problem_and_a_similar_name_that_has_none(name: str) -> None:
    assert find_name_problem(name) is not None
    assert find_name_problem(suggest_name(name), is_folder=True) is None


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_good_name_is_the_name_that_is_suggested_for_it(name: str) -> None:
    assert find_name_problem(name) is None


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("sub-00/ses-1", "sub-00_ses-1"),
        ("../../../climbed/p0", "climbed_p0"),
        ("..\\x", "x"),
        ("CON", "_CON"),
        (".hidden", "hidden"),
        ("a\nb", "a_b"),
        ("", "case"),
    ],
)
def test_the_suggested_name_resembles_the_bad_one(name: str, suggested: str) -> None:
    assert suggest_name(name) == suggested


@pytest.mark.parametrize("name", ["a ", "a."])
def test_a_dot_or_space_at_the_end_matters_for_folders_alone(name: str) -> None:
    assert find_name_problem(name) is None
    assert find_name_problem(name, is_folder=True) is not None


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.text(max_size=300))
def test_any_text_leads_to_a_name_that_can_be_used_and_shown(name: str) -> None:
    assert find_name_problem(suggest_name(name), is_folder=True) is None
    assert describe_name(name).isprintable() or find_name_problem(name) is None
    assert len(describe_name(name)) < 1000


def test_names_that_only_some_systems_distinguish_are_found() -> None:
    assert find_equal_names(["a", "A", "b", "\u00e9", "e\u0301", "c"]) == (("a", "A"), ("\u00e9", "e\u0301"))
    assert find_equal_names(["a", "b", "a"]) == ()
