"""The reader of JSON: it reads what the library reads, up to its limits, and raises nothing but named errors."""

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from builders.damage import show_late
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoseg.dataset.folds import Splits
from autoseg.document import parse_part
from autoseg.errors import DocumentError
from autoseg.plan import Plan
from autoseg.untrusted.json_reading import MOST_LEVELS, parse_json, read_json
from autoseg.workflows.select.selection_document import Selection

few = settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    LEAVES | TEXTS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)
KEYS = st.sampled_from([*Plan.model_fields, *Splits.model_fields, *Selection.model_fields, "training", "validation"])


def is_read_or_named(content: bytes) -> bool:
    try:
        parse_json(content, where="x.json")
    except DocumentError as error:
        return "x.json" in str(error)
    return True


@few
@given(VALUES)
def test_what_json_writes_comes_back(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        assert parse_json(text, where="x.json") == value
        assert parse_json(text.encode(), where="x.json") == value


@few
@given(
    st.binary(max_size=200)
    | TEXTS.map(str.encode)
    | st.text('[]{}:,"0123456789.eE+-\\u truefalsn', max_size=80).map(str.encode)
)
def test_any_bytes_are_read_or_refused_by_name(content: bytes) -> None:
    assert is_read_or_named(content)


@few
@given(VALUES, st.integers(0, 199), st.integers(0, 255))
def test_a_flipped_byte_is_read_or_refused_by_name(value: Any, place: int, flip: int) -> None:
    content = bytearray(json.dumps(value).encode())
    content[place % len(content)] ^= flip
    assert is_read_or_named(bytes(content))


@few
@given(st.dictionaries(KEYS, VALUES, max_size=6), st.sampled_from([Plan, Splits, Selection]))
def test_any_value_in_any_field_is_refused_by_field(content: dict[str, Any], kind: type[Any]) -> None:
    with pytest.raises(DocumentError, match=r"x\.json"):
        parse_part(content, kind, where="x.json")


@pytest.mark.parametrize("value", [2**64 - 1, -(2**63), 1.7976931348623157e308, 0, -0.0, 10**18])
def test_the_largest_numbers_of_64_bits_are_read(value: float) -> None:
    assert parse_json(json.dumps([value]), where="x") == [value]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (str(2**64), "the integer 18446744073709551616 does not fit into 64 bits"),
        (str(-(2**63) - 1), "the integer -9223372036854775809 does not fit into 64 bits"),
        ("7" * 100, r"the integer 777777777777777777777777\.\.\. \(100 digits\) does not fit"),
        ("7" * 10_000, "an integer does not fit into 64 bits"),
        ("1e309", "a number is larger than 64 bits can hold"),
        ("NaN", "NaN is no number of JSON"),
        ("-Infinity", "-Infinity is no number of JSON"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ("[" * 100_000, f"more than {MOST_LEVELS} levels"),
        ("[" * 66 + "]" * 66, f"more than {MOST_LEVELS} levels"),
        (r'"\udc00"', "half of a character"),
    ],
)  # fmt: skip
def test_what_is_beyond_the_limits_is_named(text: str, problem: str) -> None:
    with pytest.raises(DocumentError, match=problem):
        parse_json(text, where="x.json")


def test_what_is_at_the_limits_is_read() -> None:
    assert parse_json("[" * 64 + "]" * 64, where="x")
    assert parse_json(r'["\ud83d\ude00"]', where="x") == ["😀"]
    read = parse_json("[NaN, Infinity, 1e999]", where="x", accepts_nan=True)
    assert math.isnan(read[0])
    assert read[1:] == [math.inf, math.inf]


def test_a_large_document_is_refused_before_it_is_read_and_read_where_it_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(["x" * 2**20]))
    with pytest.raises(DocumentError, match=r"x\.json has 1 MiB; expected a JSON document of at most 0 MiB"):
        read_json(path, most_bytes=1000)
    assert read_json(path, most_bytes=2**21) == ["x" * 2**20]


def test_a_file_that_a_network_drive_shows_late_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "splits.json"
    path.write_text("[1]")
    show_late(monkeypatch, {path: None})
    assert read_json(path) == [1]


def test_a_small_document_takes_no_memory_for_the_largest_that_would_be_read(tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text("[1, 2]")
    tracemalloc.start()
    try:
        assert read_json(tmp_path / "small.json", most_bytes=2**29) == [1, 2]
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
