import numpy as np
import pytest
from builders.labels import build_labels

from autoseg.measurement.cases import MOST_POINTS, count_mirrored, merge_mirror_counts

LABELS = build_labels({"kidney_left": (1,), "kidney_right": (2,), "spine": (3,), "liver": (4,)}, ignore_value=9)


def draw_body(shape=(20, 30, 40), *, offset=0):
    """Two kidneys, a spine between them, and a liver on one side; the patient may lie off the centre."""
    label_map = np.zeros(shape, np.int16)
    x = 10 + offset
    label_map[4:10, 8:12, x : x + 4] = 1
    label_map[4:10, 8:12, x + 12 : x + 16] = 2
    label_map[2:18, 4:8, x + 7 : x + 9] = 3
    label_map[12:16, 8:12, x : x + 6] = 4
    return label_map


def merge(*label_maps):
    found = merge_mirror_counts([count_mirrored(label_map, LABELS) for label_map in label_maps], LABELS)
    return {(entry.label, entry.axis): entry for entry in found}


@pytest.mark.parametrize("offset", [0, 7])
def test_kidneys_are_each_others_mirror_image_and_the_spine_is_its_own(offset):
    found = merge(draw_body(offset=offset))
    assert len(found) == 12
    left, right, spine, liver = (found[label, 2] for label in (1, 2, 3, 4))
    assert (left.own, left.partner, left.partner_overlap) == (0, 2, 1)
    assert (right.own, right.partner, right.partner_overlap) == (0, 1, 1)
    assert (spine.own, spine.partner, spine.partner_overlap) == (1, None, 0)
    assert (liver.own, liver.partner) == (0, None)
    assert found[1, 1].partner != 2


def test_overlaps_are_means_over_the_cases_that_have_the_labels():
    without_right = draw_body()
    without_right[without_right == 2] = 0
    without_right[without_right == 3] = 9  # ignored
    found = merge(draw_body(), without_right)
    assert found[2, 2].case_count == found[3, 2].case_count == 1
    assert found[1, 2].case_count == 2
    assert found[1, 2].partner_overlap == 1
    assert found[3, 2].own == 1


def test_labels_that_never_occur_are_left_out():
    assert merge(np.zeros((4, 4, 4), np.int16)) == {}


def test_a_large_case_is_sampled_at_points_that_mirroring_maps_onto_themselves():
    label_map = np.zeros((3, 2 * MOST_POINTS + 5, 3 * MOST_POINTS + 1), np.int16)
    label_map[:, :, :MOST_POINTS] = 1
    label_map[:, :, -MOST_POINTS:] = 2
    found = merge(label_map)
    assert found[1, 2].partner_overlap == 1
    assert found[1, 1].own == 1
    assert int(count_mirrored(label_map, LABELS).sizes.sum()) == 3 * MOST_POINTS**2
