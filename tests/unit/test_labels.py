import numpy as np
import pytest
from builders.labels import build_labels
from pydantic import ValidationError

from autoseg.labels import LabelScheme, group_painted_values, list_painting_errors, propose_regions

PLAIN = build_labels({"b": (7,), "a": (2,)}, ignore_value=5)
REGIONS = build_labels(
    {"whole": (1, 2, 3), "core": (3, 2), "enhancing": (3,)}, ignore_value=4, region_write_values=(1, 2, 3)
)


def test_plain_labels_are_numbered_by_value_and_ignore_comes_last():
    assert PLAIN.file_values == (0, 2, 7, 5)
    assert PLAIN.foreground_labels == (1, 2)
    assert PLAIN.ignore_label == 3
    assert PLAIN.class_names == ("a", "b")
    assert PLAIN.class_labels == ((1,), (2,))
    assert PLAIN.output_channel_count == 3
    assert not PLAIN.has_regions
    assert PLAIN.region_write_labels == ()


def test_regions_keep_the_order_of_declaration():
    assert REGIONS.file_values == (0, 1, 2, 3, 4)
    assert REGIONS.foreground_labels == (1, 2, 3)
    assert REGIONS.ignore_label == 4
    assert REGIONS.class_names == ("whole", "core", "enhancing")
    assert REGIONS.class_labels == ((1, 2, 3), (3, 2), (3,))
    assert REGIONS.output_channel_count == 3
    assert REGIONS.has_regions
    assert REGIONS.region_write_labels == (1, 2, 3)


def test_regions_over_gaps_are_written_as_internal_labels():
    scheme = build_labels({"whole": (10, 30), "core": (30,)}, region_write_values=(10, 30))
    assert scheme.class_labels == ((1, 2), (2,))
    assert scheme.region_write_labels == (1, 2)
    assert scheme.ignore_label is None
    assert scheme.foreground_labels == (1, 2)


@pytest.mark.parametrize(
    ("values", "ignore_value", "kind"),
    [
        ((1, 2, 3), None, np.uint8),
        ((5, 250), 255, np.uint8),
        ((1000, 3), 2, np.uint16),
        ((65535,), None, np.uint16),
        ((-3, 4), None, np.int16),
        ((65536, 1), None, np.int32),
        ((-70000, 2**31 - 1), None, np.int32),
    ],
)
def test_encoding_and_decoding_restores_the_file(values, ignore_value, kind):
    scheme = build_labels({str(value): (value,) for value in values}, ignore_value=ignore_value)
    random = np.random.default_rng(0)
    for dtype in (np.int32, np.int64):
        label_map = random.choice(scheme.file_values, size=(3, 4, 5)).astype(dtype)
        encoded = scheme.encode(label_map)
        assert encoded.dtype == np.int16
        assert encoded.flags.c_contiguous
        expected = [scheme.file_values.index(value) for value in label_map.ravel()]
        np.testing.assert_array_equal(encoded.ravel(), expected)
        decoded = scheme.decode(encoded)
        np.testing.assert_array_equal(decoded, label_map)
        assert decoded.dtype == kind


def test_small_integer_types_can_be_encoded():
    scheme = build_labels({"a": (-2,), "b": (3,)})
    label_map = np.array([[[0, 3, 3]]], np.uint8)
    np.testing.assert_array_equal(scheme.encode(label_map), [[[0, 2, 2]]])
    np.testing.assert_array_equal(scheme.encode(label_map.transpose(2, 1, 0)), [[[0]], [[2]], [[2]]])


@pytest.mark.parametrize(
    ("values", "found", "unknown"),
    [
        ((1, 2), (0, 1, 2), ()),
        ((1, 2), (0, 3), (3,)),
        ((1, 2), (-1, 0), (-1,)),
        ((2, 5), (0, 2, 5), ()),
        ((2, 5), (0, 2, 4), (4,)),
        ((-2, 3), (-2, 0, 3), ()),
        ((-2, 3), (-2, 1), (1,)),
        ((1, 2_000_000), (0, 1, 2_000_000), ()),
        ((1, 2_000_000), (0, 7), (7,)),
    ],
)
def test_gaps_negative_and_large_values_are_told_from_unknown_ones(values, found, unknown):
    scheme = build_labels({f"class{value}": (value,) for value in values})
    assert scheme.find_unknown_values(np.array([[found]], np.int32)) == unknown


def test_unknown_values_are_found():
    label_map = np.array([[[0, 2, 7], [5, 9, -1]]], np.int32)
    assert PLAIN.find_unknown_values(label_map) == (-1, 9)
    assert PLAIN.find_unknown_values(label_map[:, :1]) == ()


def test_schemes_are_equal_whatever_was_computed_from_them():
    other = build_labels({"b": (7,), "a": (2,)}, ignore_value=5)
    _ = other.class_names, other.file_values, other.class_labels
    assert other == PLAIN
    assert LabelScheme.model_validate_json(other.model_dump_json()) == PLAIN


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"region_write_values": (1, 2)}, "one value for each of the 3 classes, found 2"),
        ({"region_write_values": (1, 2, 8)}, r"must name values of the classes, found \[8\]"),
        ({"ignore_value": 3}, "ignore_value must be a value that no class has"),
        ({"ignore_value": 0}, "ignore_value must be a value that no class has"),
        ({"classes": ()}, "at least 1 item"),
        ({"classes": ({"name": "a", "values": ()},)}, "at least 1 item"),
    ],
)
def test_schemes_without_sense_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        LabelScheme.model_validate(REGIONS.model_dump() | change)


def propose(labels: LabelScheme) -> dict[str, tuple[tuple[int, ...], int]]:
    return {entry.name: (entry.values, value) for entry, value in propose_regions(labels)}


USUAL = [
    ({"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}, (1, 2, 3)),
    ({"whole": (1, 2, 3, 4), "core": (1, 3, 4), "enhancing": (4,)}, (2, 1, 4)),
    ({"kidney": (1, 2, 3), "masses": (2, 3), "tumour": (2,)}, (1, 3, 2)),
    ({"soft": (0, 1), "hard": (2,)}, (1, 2)),
    ({"left": (1, 2), "right": (3,)}, (1, 3)),
    ({"a": (1, 3), "b": (2, 3), "both": (3,)}, (1, 2, 3)),
    ({"same": (1, 2), "again": (1, 2)}, (1, 2)),
]


@pytest.mark.parametrize(("classes", "order"), USUAL)
def test_regions_that_give_every_value_back_are_kept_as_they_are(classes, order):
    labels = build_labels(classes, region_write_values=order)
    assert list_painting_errors(labels) == ()
    assert [value for _, value in propose_regions(labels)] == list(order)
    assert [entry for entry, _ in propose_regions(labels)] == list(labels.classes)


def test_plain_labels_are_not_painted():
    assert list_painting_errors(PLAIN) == ()


@pytest.mark.parametrize(
    ("classes", "order", "error", "proposed"),
    [
        (
            {"enhancing": (3,), "core": (2, 3), "whole": (1, 2, 3)},
            (3, 2, 1),
            "3 (enhancing, core, whole) is written as 1 (whole)",
            {"whole": ((1, 2, 3), 1), "core": ((2, 3), 2), "enhancing": ((3,), 3)},
        ),
        (
            {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)},
            (3, 2, 1),
            "1, the value of 'enhancing', is not in it (3)",
            {"whole": ((1, 2, 3), 1), "core": ((2, 3), 2), "enhancing": ((3,), 3)},
        ),
        (
            {"whole": (1, 2), "core": (2,)},
            (1, 1),
            "2 (whole, core) is written as 1 (whole)",
            {"whole": ((1, 2), 1), "core": ((2,), 2)},
        ),
        (
            {"a": (1,), "b": (2,), "either": (1, 2)},
            (1, 2, 1),
            "2 (b, either) is written as 1 (a, either)",
            {"either": ((1, 2), 1), "a": ((1,), 1), "b": ((2,), 2)},
        ),
        (
            {"a": (1, 3), "b": (2, 3)},
            (1, 2),
            "3 (a, b) is written as 2 (b)",
            {"a": ((1, 3), 1), "b": ((2, 3), 2), "label_3": ((3,), 3)},
        ),
        (
            {"b": (2, 3), "a": (1, 2), "c": (3,)},
            (2, 1, 3),
            "2 (b, a) is written as 1 (a)",
            {"a": ((1, 2), 1), "b": ((2, 3), 2), "c": ((3,), 3)},
        ),
        ({"whole": (1, 2), "core": (2,)}, (0, 2), "0, the value of 'whole', is not in it", None),
    ],
)
def test_an_order_that_changes_values_is_found_with_one_that_does_not(classes, order, error, proposed):
    labels = build_labels(classes, ignore_value=9, region_write_values=order)
    assert any(error in found for found in list_painting_errors(labels))
    found = propose(labels)
    assert proposed is None or (found == proposed and list(found) == list(proposed))
    better = build_labels(
        {name: values for name, (values, _) in found.items()},
        region_write_values=tuple(value for _, value in found.values()),
    )
    assert list_painting_errors(better) == ()


def test_every_scheme_of_regions_has_a_proposal_without_errors():
    random = np.random.default_rng(0)
    for _ in range(200):
        count = int(random.integers(2, 6))
        classes = {
            f"r{index}": tuple(np.flatnonzero(random.random(5) < 0.5).tolist()) or (1,) for index in range(count)
        }
        order = tuple(int(random.choice(values)) for values in classes.values())
        labels = build_labels(classes, region_write_values=order)
        found = propose(labels)
        better = build_labels(
            {name: values for name, (values, _) in found.items()},
            region_write_values=tuple(value for _, value in found.values()),
        )
        assert list_painting_errors(better) == ()


def test_values_of_the_same_regions_are_painted_as_one():
    labels = build_labels({"whole": (1, 2, 3), "core": (3,)}, ignore_value=4, region_write_values=(2, 3))
    assert group_painted_values(labels) == {0: (0,), 2: (1, 2), 3: (3,)}
