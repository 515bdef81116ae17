import numpy as np
import pytest
from scipy import ndimage

from autoseg.postprocessing.application import apply_rules, postprocess_label_map
from autoseg.postprocessing.rules import (
    fill_holes,
    keep_largest,
    keep_largest_foreground,
    require_minimum_size,
)

SPACING_MM = (3.0, 1.0, 0.5)
EVERY_NEIGHBOUR = np.ones((3, 3, 3))


def make_map(*boxes, shape=(8, 8, 8)):
    """Boxes of (label, z, y, x) in background; later ones lie over earlier ones."""
    label_map = np.zeros(shape, np.int16)
    for label, *box in boxes:
        label_map[tuple(slice(*sides) for sides in box)] = label
    return label_map


def finish(label_map, rules, labels, spacing_mm=SPACING_MM):
    before = label_map.copy()
    result = apply_rules(label_map, rules, labels=labels, spacing_mm=spacing_mm)
    np.testing.assert_array_equal(label_map, before)
    return result


def test_the_largest_component_of_all_foreground_is_kept_whatever_its_labels(plain):
    large = make_map((1, (0, 2), (0, 2), (0, 2)), (2, (0, 2), (0, 2), (2, 4)))
    label_map = large + make_map((1, (5, 8), (5, 7), (5, 7)))
    np.testing.assert_array_equal(finish(label_map, [keep_largest_foreground(plain)], plain), large)


def test_neighbours_touch_by_corners(plain):
    label_map = make_map((1, (0, 2), (0, 2), (0, 2)), (1, (2, 3), (2, 3), (2, 3)))
    np.testing.assert_array_equal(finish(label_map, [keep_largest(plain, 0)], plain), label_map)


def test_components_that_tie_for_the_largest_are_all_kept(plain):
    tied = make_map((1, (0, 2), (0, 2), (0, 2)), (1, (4, 6), (4, 6), (4, 6)))
    label_map = tied + make_map((1, (7, 8), (0, 1), (0, 2)))
    np.testing.assert_array_equal(finish(label_map, [keep_largest(plain, 0)], plain), tied)


def test_a_rule_of_one_class_leaves_the_others_and_an_empty_class_is_no_problem(plain):
    label_map = make_map((2, (0, 2), (0, 2), (0, 2)), (2, (5, 6), (5, 6), (5, 6)))
    np.testing.assert_array_equal(finish(label_map, [keep_largest(plain, 0), fill_holes(plain, 0)], plain), label_map)
    nothing = np.zeros((4, 4, 4), np.int16)
    every_rule = [
        keep_largest_foreground(plain),
        keep_largest(plain, 1),
        require_minimum_size(plain, 1, 3.0),
        fill_holes(plain, 1),
    ]
    np.testing.assert_array_equal(finish(nothing, every_rule, plain), nothing)


def test_the_ignore_label_is_no_foreground_and_stays(plain):
    label_map = make_map((3, (0, 4), (0, 4), (0, 4)), (1, (6, 8), (6, 8), (6, 8)), (1, (6, 7), (0, 1), (0, 1)))
    expected = make_map((3, (0, 4), (0, 4), (0, 4)), (1, (6, 8), (6, 8), (6, 8)))
    np.testing.assert_array_equal(finish(label_map, [keep_largest_foreground(plain)], plain), expected)


def test_the_minimum_is_a_volume_in_millimetres_and_its_own_size_is_kept(plain):
    label_map = make_map((1, (0, 2), (0, 1), (0, 1)), (1, (5, 6), (5, 6), (5, 6)))  # 3 mm3 and 1.5 mm3
    kept = make_map((1, (0, 2), (0, 1), (0, 1)))
    np.testing.assert_array_equal(finish(label_map, [require_minimum_size(plain, 0, 3.0)], plain), kept)
    np.testing.assert_array_equal(finish(label_map, [require_minimum_size(plain, 0, 1.5)], plain), label_map)
    half = finish(label_map, [require_minimum_size(plain, 0, 3.0)], plain, spacing_mm=(6.0, 1.0, 0.5))
    np.testing.assert_array_equal(half, label_map)


def test_a_single_slice_has_areas_neighbours_and_holes_in_the_plane(plain):
    spacing_mm = (999.0, 1.0, 0.5)
    label_map = np.zeros((1, 7, 7), np.int16)
    label_map[0, :3, :3] = 1
    label_map[0, 1, 1] = 0  # a hole
    label_map[0, 3, 3] = 1  # touches by a corner
    label_map[0, 6, 6] = 1
    largest = finish(label_map, [keep_largest(plain, 0)], plain, spacing_mm)
    assert largest[0, 3, 3] == 1
    assert largest[0, 6, 6] == 0
    assert finish(label_map, [require_minimum_size(plain, 0, 0.5)], plain, spacing_mm)[0, 6, 6] == 1
    assert finish(label_map, [require_minimum_size(plain, 0, 0.6)], plain, spacing_mm)[0, 6, 6] == 0
    filled = finish(label_map, [fill_holes(plain, 0)], plain, spacing_mm)
    assert filled[0, 1, 1] == 1
    assert (filled != label_map).sum() == 1


def test_holes_become_the_class_but_other_classes_in_them_stay(plain):
    shell = make_map((1, (1, 7), (1, 7), (1, 7)), (0, (2, 6), (2, 6), (2, 6)), (2, (3, 4), (3, 4), (3, 4)))
    expected = make_map((1, (1, 7), (1, 7), (1, 7)), (2, (3, 4), (3, 4), (3, 4)))
    np.testing.assert_array_equal(finish(shell, [fill_holes(plain, 0)], plain), expected)


def test_what_reaches_the_border_is_no_hole(plain):
    tube = make_map((1, (0, 8), (1, 5), (1, 5)), (0, (0, 8), (2, 4), (2, 4)))
    np.testing.assert_array_equal(finish(tube, [fill_holes(plain, 0)], plain), tube)
    slab = make_map((1, (3, 4), (1, 5), (1, 5)), (0, (3, 4), (2, 4), (2, 4)))
    np.testing.assert_array_equal(finish(slab, [fill_holes(plain, 0)], plain), slab)


def test_a_region_is_one_mask_and_what_leaves_it_becomes_background(regions):
    kept = make_map((1, (0, 4), (0, 4), (0, 4)), (2, (1, 3), (1, 3), (1, 3)), (3, (1, 2), (1, 2), (1, 2)))
    label_map = kept + make_map((1, (6, 8), (0, 2), (0, 2)))
    label_map[3, 3, 3] = 3  # touches the core by a corner only
    with_corner = kept.copy()
    with_corner[3, 3, 3] = 3
    np.testing.assert_array_equal(finish(label_map, [keep_largest(regions, 0)], regions), with_corner)
    core = finish(label_map, [keep_largest(regions, 1)], regions)
    np.testing.assert_array_equal(core, label_map)
    enhancing = finish(label_map, [keep_largest(regions, 2)], regions)
    np.testing.assert_array_equal(enhancing, label_map)  # one voxel each: they tie
    label_map[1, 1, 2] = 3
    enhancing = finish(label_map, [keep_largest(regions, 2)], regions)
    assert enhancing[3, 3, 3] == 0


def test_a_hole_of_a_region_becomes_the_value_that_is_written_for_it(regions):
    shell = make_map((3, (1, 7), (1, 7), (1, 7)), (0, (2, 6), (2, 6), (2, 6)))
    assert finish(shell, [fill_holes(regions, 1)], regions)[4, 4, 4] == 2


@pytest.mark.parametrize("seed", range(4))
def test_rules_that_share_a_pass_do_what_one_pass_for_each_does(plain, regions, seed):
    random = np.random.default_rng(seed)
    for labels in (plain, regions):
        noise = ndimage.gaussian_filter(random.normal(size=(3, 12, 14, 16)), (0, 1.2, 1.2, 1.2))
        label_map = np.where(noise.max(axis=0) > 0.1, 1 + noise.argmax(axis=0), 0).astype(np.int16)
        label_map[label_map > len(labels.foreground_labels)] = 0
        count = len(labels.class_labels)
        rules = [rule for i in range(count) for rule in (keep_largest(labels, i), require_minimum_size(labels, i, 6.0))]
        expected = label_map.copy()
        for index, members in enumerate(labels.class_labels):
            numbers, found = ndimage.label(np.isin(expected, members), EVERY_NEIGHBOUR)
            sizes = np.bincount(numbers.ravel(), minlength=found + 1)
            sizes[0] = 0
            is_removed = (sizes < sizes.max()) | (sizes * np.prod(SPACING_MM) < 6.0)
            is_removed[0] = False
            expected[is_removed[numbers]] = 0
            one_by_one = finish(label_map, rules[: 2 * (index + 1)], labels)
            np.testing.assert_array_equal(one_by_one, expected)


def test_the_values_of_files_go_in_and_come_out(plain):
    label_map = np.zeros((4, 4, 4), np.uint8)
    label_map[:2, :2, :2], label_map[3, 3, 3] = 9, 5
    result = postprocess_label_map(label_map, [keep_largest_foreground(plain)], labels=plain, spacing_mm=SPACING_MM)
    assert result.dtype == np.uint8
    assert set(np.unique(result)) == {0, 9}
    assert postprocess_label_map(label_map, [], labels=plain, spacing_mm=SPACING_MM) is label_map
