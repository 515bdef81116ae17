import numpy as np
import pytest
from builders.labels import build_labels
from pydantic import ValidationError

from autoseg.labels import LabelScheme

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
        ({"classes": ()}, "at least 1 item"),
        ({"classes": ({"name": "a", "values": ()},)}, "at least 1 item"),
    ],
)
def test_schemes_without_sense_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        LabelScheme.model_validate(REGIONS.model_dump() | change)
