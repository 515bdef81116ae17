from itertools import combinations

import numpy as np
import pytest

from autoseg.dataset.drafting.label_proposal import propose_structures
from autoseg.dataset.drafting.mask_joining import assign_values, combine_masks, find_nesting, list_region_values


def make_masks(*masks):
    return [(index, np.array(mask, bool)[None, None]) for index, mask in enumerate(masks)]


def join(masks, count):
    """Values that are written for the masks of one case alone."""
    combined = combine_masks(masks, structure_count=count)
    nesting = find_nesting({"a": combined.voxels}, structure_count=count)
    table = np.array([*range(count + 1), *assign_values(combined.mixed, nesting)])
    return table[combined.numbers].ravel().tolist(), nesting


def test_masks_that_share_nothing_keep_their_own_values():
    values, nesting = join(make_masks([1, 1, 0, 0], [0, 0, 0, 1]), 2)
    assert values == [1, 1, 0, 2]
    assert not nesting.has_nested
    assert nesting.overlaps == ()


def test_every_combination_is_counted():
    combined = combine_masks(make_masks([1, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 0]), structure_count=3)
    assert dict(combined.voxels) == {(0,): 1, (0, 1): 1, (0, 1, 2): 2}


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_by_numbering_combinations(seed):
    random = np.random.default_rng(seed)
    masks = [(index, random.random((3, 5, 7)) < 0.4) for index in (0, 2, 3, 9)]
    combined = combine_masks(masks, structure_count=10)
    members = [(), *((index,) for index in range(10)), *combined.mixed]
    for index, mask in masks:
        holds = np.array([index in combination for combination in members])
        np.testing.assert_array_equal(holds[combined.numbers], mask)
    assert sum(combined.voxels.values()) == int(np.logical_or.reduce([mask for _, mask in masks]).sum())


def test_structures_that_lie_in_others_in_every_case_are_nested():
    values, nesting = join(make_masks([0, 0, 1, 0], [1, 1, 1, 0], [0, 1, 1, 0]), 3)
    assert nesting.parents == ((1, 2), (), (1,))
    assert nesting.overlaps == ()
    assert values == [2, 3, 1, 0]


def test_nested_masks_of_one_size_in_a_case_are_written_as_the_inner_one():
    cases = {
        "a": combine_masks(make_masks([1, 1, 0], [1, 1, 0]), structure_count=2),
        "b": combine_masks(make_masks([1, 1, 1], [0, 1, 0]), structure_count=2),
    }
    nesting = find_nesting({name: case.voxels for name, case in cases.items()}, structure_count=2)
    assert nesting.parents == ((), (0,))
    assert assign_values(cases["a"].mixed, nesting) == [2]


def test_one_case_that_sticks_out_makes_an_overlap_with_its_voxels():
    inside = combine_masks(make_masks([1, 1, 1, 1], [0, 1, 1, 0]), structure_count=2).voxels
    outside = combine_masks(make_masks([1, 1, 1, 0], [0, 0, 1, 1]), structure_count=2).voxels
    nesting = find_nesting({"a": inside, "b": outside}, structure_count=2)
    assert not nesting.has_nested
    (overlap,) = nesting.overlaps
    assert (overlap.keeper, overlap.loser, dict(overlap.cases)) == (1, 0, {"a": 2, "b": 1})
    assert overlap.largest_fraction == 1.0


def test_equal_masks_are_found():
    _, nesting = join(make_masks([1, 1, 0], [1, 1, 0]), 2)
    assert nesting.equal == ((0, 1),)


@pytest.mark.parametrize("seed", range(5))
def test_regions_of_the_joined_label_map_are_the_masks(seed):
    random = np.random.default_rng(seed)
    outer = random.random((4, 6, 6)) < 0.7
    inner = outer & (random.random(outer.shape) < 0.5)
    first = inner & (random.random(outer.shape) < 0.5)
    second = outer & ~inner & (random.random(outer.shape) < 0.5)
    masks = list(enumerate([second, inner, outer, first]))
    combined = combine_masks(masks, structure_count=4)
    nesting = find_nesting({"a": combined.voxels}, structure_count=4)
    label_map = np.array([*range(5), *assign_values(combined.mixed, nesting)])[combined.numbers]
    regions = list_region_values(nesting)
    for index, mask in masks:
        np.testing.assert_array_equal(np.isin(label_map, regions[index]), mask)


@pytest.mark.parametrize("seed", range(5))
def test_writing_predicted_regions_in_their_order_gives_the_label_map_back(seed):
    random = np.random.default_rng(seed)
    whole = random.random((4, 6, 6)) < 0.7
    core = whole & (random.random(whole.shape) < 0.6)
    enhancing = core & (random.random(whole.shape) < 0.5)
    names, masks = ["enhancing", "core", "whole"], [enhancing, core, whole]
    combined = combine_masks(list(enumerate(masks)), structure_count=3)
    nesting = find_nesting({"a": combined.voxels}, structure_count=3)
    label_map = np.array([*range(4), *assign_values(combined.mixed, nesting)])[combined.numbers]
    proposal = propose_structures(names, nesting)
    written = np.zeros_like(label_map)
    for name, value in zip(list(proposal.labels)[1:], proposal.region_order, strict=True):
        written[masks[names.index(name)]] = value
    np.testing.assert_array_equal(written, label_map)


def test_regions_share_voxels_only_with_what_lies_in_them():
    _, nesting = join(make_masks([1, 1, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0]), 3)
    regions = list_region_values(nesting)
    shared = [pair for pair in combinations(regions, 2) if set(regions[pair[0]]) & set(regions[pair[1]])]
    assert shared == [(0, 1)]
