from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from autoseg.preprocessing.cache import CachedCase
from autoseg.preprocessing.case import CaseGeometry
from autoseg.preprocessing.class_locations import ClassLocations
from autoseg.training.data.sampling import (
    PatchSampler,
    compute_start_bounds,
    cut_out,
    is_forced_foreground,
    list_centre_candidates,
)


def make_voxels(*voxels):
    return np.asarray(voxels, dtype=np.int32).reshape(-1, 3)


def make_locations(*classes, annotated=None):
    parts = [*classes, *([] if annotated is None else [annotated])]
    ends = np.cumsum([0, *map(len, parts)]).tolist()
    ranges = tuple(pairwise(ends))
    return ClassLocations(
        coordinates=np.concatenate([make_voxels(), *parts]),
        class_ranges=ranges[: len(classes)],
        annotated_range=None if annotated is None else ranges[-1],
    )


def make_case(shape=(6, 7, 8), locations=None):
    """Every voxel's intensity is its own number, its label the same modulo 5."""
    numbers = np.arange(np.prod(shape)).reshape(shape)
    return CachedCase(
        name="only",
        image=numbers[None].astype(np.float32) + 1,
        label_map=(numbers % 5).astype(np.int16),
        locations=locations or make_locations(),
        geometry=CaseGeometry.model_construct(),
    )


def make_sampler(case, *, cut, patch=None, batch_size=2, foreground_fraction=0.33):
    return PatchSampler(
        case_names=("only",),
        open_case=lambda name: {"only": case}[name],
        cut_voxels=cut,
        patch_voxels=patch or cut,
        batch_size=batch_size,
        foreground_fraction=foreground_fraction,
    )


@pytest.mark.parametrize(
    ("batch_size", "forced"), [(1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 2), (8, 3), (10, 3), (12, 4)]
)
def test_the_last_third_of_a_batch_is_centred_on_foreground(batch_size, forced):
    flags = [is_forced_foreground(index, batch_size, 0.33) for index in range(batch_size)]
    assert flags == [False] * (batch_size - forced) + [True] * forced


@pytest.mark.parametrize(("batch_size", "fraction"), [(1, 0.33), (1, 0.0), (2, 0.2), (1, 1.0)])
def test_a_share_of_less_than_one_of_a_batch_is_kept_over_many_batches(batch_size, fraction):
    case = make_case((12, 12, 12), make_locations(make_voxels((9, 9, 9))))
    sampler = make_sampler(case, cut=(2, 2, 2), batch_size=batch_size, foreground_fraction=fraction)
    generator, count = np.random.default_rng(0), 1500
    held = [(sampler.draw(0, generator)[0] == case.image[0, 9, 9, 9]).any() for _ in range(count)]
    by_chance = 2**3 / 11**3
    expected = fraction + (1 - fraction) * by_chance
    assert np.mean(held) == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / count))


@pytest.mark.parametrize(
    ("shape", "cut", "patch", "bounds"),
    [
        ((10, 10, 10), (4, 4, 4), (4, 4, 4), ((0, 0, 0), (6, 6, 6))),
        ((10, 10, 10), (7, 6, 5), (4, 4, 4), ((-2, -1, -1), (5, 5, 6))),
        ((3, 10, 10), (4, 4, 4), (4, 4, 4), ((-1, 0, 0), (0, 6, 6))),
        ((2, 10, 10), (7, 4, 4), (4, 4, 4), ((-3, 0, 0), (-2, 6, 6))),
    ],
)
def test_cuts_hang_over_by_what_augmentation_needs_or_the_volume_lacks(shape, cut, patch, bounds):
    assert tuple(tuple(bound.tolist()) for bound in compute_start_bounds(shape, cut, patch)) == bounds


def test_free_patches_reach_every_allowed_start_and_no_other():
    case = make_case((5, 6, 7))
    sampler = make_sampler(case, cut=(4, 4, 4))
    generator = np.random.default_rng(0)
    corners = {int(sampler.draw(0, generator)[0][0, 0, 0, 0]) - 1 for _ in range(400)}
    allowed = {int(np.ravel_multi_index((z, y, x), (5, 6, 7))) for z in range(2) for y in range(3) for x in range(4)}
    assert corners == allowed


def test_image_and_label_map_are_cut_at_the_same_place():
    case = make_case()
    sampler = make_sampler(case, cut=(9, 5, 11), patch=(4, 4, 4))
    generator = np.random.default_rng(0)
    for _ in range(20):
        image, label_map = sampler.draw(0, generator)
        assert image.shape == (1, 9, 5, 11)
        inside = image[0] > 0
        assert np.array_equal(label_map[inside], (image[0][inside] - 1) % 5)
        assert (label_map[~inside] == -1).all()
        assert inside.any()


def test_forced_patches_are_centred_on_a_place_of_a_class():
    case = make_case(locations=make_locations(make_voxels((3, 3, 4)), make_voxels()))
    image, _ = make_sampler(case, cut=(3, 3, 3)).draw(1, np.random.default_rng(0))
    assert image[0, 1, 1, 1] == case.image[0, 3, 3, 4]


def test_forced_patches_stay_inside_at_the_near_border_and_hang_over_the_far_one():
    near = make_case(locations=make_locations(make_voxels((0, 0, 0))))
    image, _ = make_sampler(near, cut=(4, 4, 4)).draw(1, np.random.default_rng(0))
    assert np.array_equal(image, near.image[:, :4, :4, :4])
    far = make_case(locations=make_locations(make_voxels((5, 6, 7))))
    image, label_map = make_sampler(far, cut=(4, 4, 4)).draw(1, np.random.default_rng(0))
    assert np.array_equal(image[:, :3, :3, :3], far.image[:, 3:, 4:, 5:])
    assert (image[:, 3] == 0).all()
    assert (label_map[3] == -1).all()


def test_classes_are_equally_likely_however_many_places_they_have():
    many = np.tile(np.asarray([[1, 1, 1]], dtype=np.int32), (1000, 1))
    case = make_case(locations=make_locations(many, make_voxels((4, 4, 4))))
    sampler = make_sampler(case, cut=(1, 1, 1))
    generator = np.random.default_rng(0)
    hits = sum(sampler.draw(1, generator)[0].item() == case.image[0, 4, 4, 4] for _ in range(400))
    assert 160 < hits < 240


def test_annotated_voxels_guide_free_patches_and_forced_ones_without_any_class():
    annotated, one, none = make_voxels((2, 2, 2)), make_voxels((1, 1, 1)), make_voxels()

    def list_candidates(*classes, annotated=None, is_forced):
        locations = make_locations(*classes, annotated=annotated)
        return [places.tolist() for places in list_centre_candidates(locations, is_forced=is_forced)]

    assert list_candidates(one, is_forced=False) == []
    assert list_candidates(one, none, is_forced=True) == [one.tolist()]
    assert list_candidates(one, annotated=annotated, is_forced=False) == [annotated.tolist()]
    assert list_candidates(none, one, annotated=annotated, is_forced=True) == [one.tolist()]
    assert list_candidates(none, annotated=annotated, is_forced=True) == [annotated.tolist()]
    assert list_candidates(none, annotated=none, is_forced=True) == []


def test_a_slice_of_a_2d_configuration_is_the_slice_of_the_chosen_voxel():
    case = make_case(locations=make_locations(make_voxels((5, 3, 3))))
    image, _ = make_sampler(case, cut=(1, 5, 5), patch=(1, 4, 4)).draw(1, np.random.default_rng(0))
    assert np.array_equal(image[0], case.image[0, 5:6, 1:6, 1:6])


def test_all_cases_are_drawn():
    cases = {"a": make_case((2, 2, 2)), "b": make_case((3, 3, 3))}
    opened = []

    def open_case(name):
        opened.append(name)
        return cases[name]

    sampler = PatchSampler(
        case_names=("a", "b"),
        open_case=open_case,
        cut_voxels=(1, 1, 1),
        patch_voxels=(1, 1, 1),
        batch_size=2,
        foreground_fraction=0.33,
    )
    generator = np.random.default_rng(0)
    for _ in range(40):
        sampler.draw(0, generator)
    assert set(opened) == {"a", "b"}
    assert any(first == second for first, second in pairwise(opened))


def test_cutting_out_fills_what_lies_beyond():
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    assert np.array_equal(cut_out(array, (0, 1, 1), (2, 2, 2), fill=-1), array[:, 1:3, 1:3])
    box = cut_out(array, (-1, -1, 2), (4, 5, 4), fill=-1)
    assert box.dtype == np.int16
    assert np.array_equal(box[1:3, 1:4, :2], array[:, :, 2:])
    assert (box == -1).sum() == box.size - 12


@pytest.mark.parametrize(("border", "mode"), [("mirror", "reflect"), ("replicate", "edge")])
@pytest.mark.parametrize(
    ("start", "extent"), [((-1, -4, 2), (4, 5, 7)), ((1, 1, 1), (1, 2, 3)), ((3, -9, 9), (4, 2, 9))]
)
def test_a_border_continues_the_volume(border, mode, *, start, extent):
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    padded = np.pad(array, [(0, 0), (20, 20), (20, 20), (20, 20)], mode=mode)
    inside = tuple(slice(20 + first, 20 + first + length) for first, length in zip(start, extent, strict=True))
    assert np.array_equal(cut_out(array, start, extent, fill=-1, border=border), padded[:, *inside])


def test_a_single_voxel_is_its_own_mirror_image():
    assert np.array_equal(
        cut_out(np.full((1, 1, 1), 7), (-1, 0, 0), (4, 1, 2), fill=-1, border="mirror"), np.full((4, 1, 2), 7)
    )


def test_image_and_labels_are_continued_alike():
    case = make_case()
    sampler = replace(make_sampler(case, cut=(9, 10, 11), patch=(9, 10, 11)), border="mirror")
    image, label_map = sampler.draw(0, np.random.default_rng(0))
    assert np.array_equal((image[0] - 1) % 5, label_map)
    assert image.min() >= 1
    without, _ = make_sampler(case, cut=(9, 10, 11), patch=(9, 10, 11)).draw(0, np.random.default_rng(0))
    assert np.array_equal(image[without > 0], without[without > 0])


def draw_many(sampler, count=600):
    generator = np.random.default_rng(0)
    return [sampler.place(1, generator) for _ in range(count)]


def test_a_chosen_voxel_may_lie_anywhere_in_the_patch_with_equal_probability():
    case = make_case((40, 40, 40), make_locations(make_voxels((20, 21, 22))))
    sampler = replace(make_sampler(case, cut=(9, 8, 7), patch=(4, 4, 4)), foreground_placement="uniform")
    margin = np.asarray([9 // 2 - 2, 8 // 2 - 2, 7 // 2 - 2])
    positions = np.asarray([(20, 21, 22) - (np.asarray(cut.start) + margin) for cut in draw_many(sampler)])
    for axis in range(3):
        values, counts = np.unique(positions[:, axis], return_counts=True)
        assert values.tolist() == [0, 1, 2, 3]
        assert counts.min() > 100
    assert len(np.unique(positions, axis=0)) == 64


def test_a_patch_around_a_chosen_voxel_stays_within_the_bounds_of_other_patches():
    shape = (10, 3, 12)
    corners = make_voxels(*[(z, y, x) for z in (0, 9) for y in (0, 2) for x in (0, 11)])
    case = make_case(shape, make_locations(corners))
    sampler = replace(make_sampler(case, cut=(7, 6, 5), patch=(4, 4, 4)), foreground_placement="uniform")
    lower, upper = compute_start_bounds(shape, (7, 6, 5), (4, 4, 4))
    for cut in draw_many(sampler):
        assert (cut.start >= lower).all()
        assert (cut.start <= upper).all()
        first = np.asarray(cut.start) + np.asarray([1, 1, 0])
        assert any(((corner >= first) & (corner < first + 4)).all() for corner in corners)


def test_a_uniform_position_in_a_slice_stays_in_the_slice():
    case = make_case((6, 20, 20), make_locations(make_voxels((4, 10, 10))))
    sampler = replace(make_sampler(case, cut=(1, 6, 6), patch=(1, 4, 4)), foreground_placement="uniform")
    assert {cut.start[0] for cut in draw_many(sampler, 50)} == {4}


def make_two_cases():
    """Class 0 in both cases, class 1 in case b alone."""
    common, rare = make_voxels((1, 1, 1)), make_voxels((3, 3, 3))
    cases = {
        name: replace(make_case(locations=make_locations(common, places, make_voxels())), name=name)
        for name, places in (("a", make_voxels()), ("b", rare))
    }
    return replace(
        make_sampler(cases["a"], cut=(1, 1, 1), batch_size=2), case_names=("a", "b"), open_case=cases.__getitem__
    )


def test_balanced_classes_are_drawn_before_the_case():
    def count(sampler):
        places = [(cut.case.name, cut.start[0]) for cut in draw_many(sampler, 1200)]
        return [places.count(place) / 1200 for place in (("a", 1), ("b", 1), ("b", 3))]

    balanced = replace(make_two_cases(), foreground_choice="class_balanced")
    assert count(balanced) == pytest.approx([0.25, 0.25, 0.5], abs=0.05)
    assert count(make_two_cases()) == pytest.approx([0.5, 0.25, 0.25], abs=0.05)


def test_components_of_a_class_are_equally_likely_however_large_they_are():
    label_map = np.zeros((6, 20, 20), dtype=np.int16)
    label_map[:, :15, :15] = 1
    label_map[5, 18, 18] = 1
    stored = np.argwhere(label_map[:, :15] == 1).astype(np.int32)
    case = replace(make_case((6, 20, 20), make_locations(stored)), label_map=label_map)
    sampler = replace(make_sampler(case, cut=(1, 1, 1)), foreground_choice="component")
    cuts = draw_many(sampler)
    assert np.mean([cut.start == (5, 18, 18) for cut in cuts]) == pytest.approx(0.5, abs=0.08)
    assert all(label_map[cut.start] == 1 for cut in cuts)
    assert len({cut.start for cut in cuts}) > 200


@pytest.mark.parametrize("choice", ["class", "class_balanced", "component"])
def test_every_choice_copes_with_cases_without_any_foreground(choice):
    case = make_case((5, 6, 7), make_locations(make_voxels(), annotated=make_voxels((2, 3, 4))))
    sampler = replace(make_sampler(case, cut=(1, 1, 1)), foreground_choice=choice)
    assert {cut.start for cut in draw_many(sampler, 20)} == {(2, 3, 4)}
    empty = replace(make_sampler(make_case((5, 6, 7)), cut=(1, 1, 1)), foreground_choice=choice)
    assert len({cut.start for cut in draw_many(empty, 100)}) > 50


@pytest.mark.parametrize("choice", ["class_balanced", "component"])
def test_patches_that_are_not_forced_are_the_same_for_every_choice(choice):
    sampler = make_two_cases()
    starts = [
        [some.place(0, np.random.default_rng(seed)).start for seed in range(30)]
        for some in (sampler, replace(sampler, foreground_choice=choice))
    ]
    assert starts[0] == starts[1]
