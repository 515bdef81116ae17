import numpy as np
import pytest

from autoseg.evaluation.gain import Gain, compute_gain
from autoseg.postprocessing.effects import ComponentEffects, Counts
from autoseg.postprocessing.learning import (
    Cases,
    decide,
    keep_largest_components,
    learn_minimum_size,
    list_minimum_sizes,
)
from autoseg.postprocessing.rules import LargestComponent, MinimumSize

RULE = LargestComponent(name="a", values=(1,))


def make_counts(predicted, reference, both):
    return Counts(
        predicted=np.array(predicted, np.int64), reference=np.array(reference, np.int64), both=np.array(both, np.int64)
    )


def make_cases(counts, blocks=None):
    names = tuple("abc"[: counts.predicted.shape[1]])
    chosen = np.arange(len(counts.predicted)) if blocks is None else np.array(blocks)
    return Cases(counts=counts, blocks=chosen.astype(np.int64), class_names=names)


def build_rule(minimum_mm3):
    return MinimumSize(name="a", values=(1,), minimum_mm3=minimum_mm3)


def make_effects(components):
    """Components of class a: (volume, voxels that the reference has, too); a voxel has 1 mm3."""
    volumes = np.array([volume for volume, _ in components], np.int64).reshape(-1, 1)
    both = np.array([found for _, found in components], np.int64).reshape(-1, 1)
    return ComponentEffects(
        volumes_mm3=volumes[:, 0].astype(np.float64),
        voxels=volumes[:, 0],
        classes=np.array([0]),
        predicted=-volumes,
        both=-both,
    )


def make_scene(*cases):
    """Counts and effects of cases of one class; each is (voxels of the reference, components)."""
    effects = [make_effects(components) for _, components in cases]
    counts = make_counts(
        [[sum(volume for volume, _ in components)] for _, components in cases],
        [[reference] for reference, _ in cases],
        [[sum(found for _, found in components)] for _, components in cases],
    )
    return counts, effects


def test_a_rule_is_accepted_if_the_mean_rises_and_no_class_falls():
    before = make_counts([[20, 10]] * 5, [[10, 10]] * 5, [[10, 8]] * 5)
    better = make_counts([[15, 10]] * 5, [[10, 10]] * 5, [[10, 8]] * 5)
    step = decide(RULE, make_cases(before), better)
    assert step.accepted
    assert step.gain is not None
    assert step.gain.mean == pytest.approx((20 / 25 - 20 / 30) / 2)
    assert "no class loses" in step.because
    mixed = make_counts([[10, 10]] * 5, [[10, 10]] * 5, [[10, 7]] * 5)
    step = decide(RULE, make_cases(before), mixed)
    assert not step.accepted
    assert "b -0.1000" in step.because
    worse = decide(RULE, make_cases(better), before)
    assert not worse.accepted
    assert "no gain" in worse.because
    same = decide(RULE, make_cases(before), before)
    assert not same.accepted
    assert "changes nothing" in same.because


def test_nothing_is_accepted_because_of_a_few_cases():
    before, after = (make_counts([[voxels]] * 4, [[10]] * 4, [[10]] * 4) for voxels in (20, 15))
    step = decide(RULE, make_cases(before), after)
    assert not step.accepted
    assert step.gain is not None
    assert step.gain.mean > 0
    assert "too few cases to tell: fewer than 5), so it is left out" in step.because


def test_classes_that_no_reference_has_count_neither_for_nor_against():
    before = make_counts([[20, 5]] * 5, [[10, 0]] * 5, [[10, 0]] * 5)
    after = make_counts([[20, 0]] * 5, [[10, 0]] * 5, [[10, 0]] * 5)  # false positives of b vanish: 0 to undefined
    step = decide(RULE, make_cases(before), after)
    assert not step.accepted
    assert step.gain == Gain(mean=0, lower=0, upper=0)


def test_false_positives_that_vanish_in_a_case_without_the_class_raise_its_mean():
    before = make_counts([[10], [5]] * 3, [[10], [0]] * 3, [[10], [0]] * 3)
    after = make_counts([[10], [0]] * 3, [[10], [0]] * 3, [[10], [0]] * 3)
    step = decide(RULE, make_cases(before), after)
    assert step.accepted
    assert step.gain is not None
    assert step.gain.mean == pytest.approx(0.5)


def test_the_interval_draws_both_scores_of_a_case_together():
    random = np.random.default_rng(0)
    before = random.uniform(0, 1, (30, 2))
    gain = compute_gain(before, before + 0.01)
    assert (gain.mean, gain.lower, gain.upper) == pytest.approx((0.01, 0.01, 0.01))
    noisy = compute_gain(before, before + random.normal(0.01, 0.05, before.shape))
    assert noisy.lower < noisy.mean < noisy.upper
    assert noisy.upper - noisy.lower < 0.1


def test_only_classes_that_change_are_drawn_but_all_count():
    before = np.column_stack([np.linspace(0.2, 0.8, 10), np.linspace(0.5, 0.9, 10)])
    after = before.copy()
    after[:, 0] += 0.1
    gain = compute_gain(before, after)
    assert (gain.mean, gain.lower, gain.upper) == pytest.approx((0.05, 0.05, 0.05))


def test_keeping_the_largest_component_removes_the_rest():
    counts, effects = make_scene((10, [(10, 10), (4, 0), (2, 0)]), (6, [(3, 3), (3, 0)]))
    after, kept = keep_largest_components(effects, make_cases(counts))
    np.testing.assert_array_equal(after.predicted, [[10], [6]])
    assert [len(entry.voxels) for entry in kept] == [1, 2]


def test_a_minimum_that_helps_everywhere_is_learned_and_its_gain_is_that_of_held_out_blocks():
    counts, effects = make_scene(*[(100, [(100, 100), (3, 0)]), (100, [(100, 100), (2, 0)])] * 3)
    step, after = learn_minimum_size(build_rule, effects, make_cases(counts))
    assert step.accepted
    assert isinstance(step.rule, MinimumSize)
    assert step.rule.minimum_mm3 == 5.0
    np.testing.assert_array_equal(after.predicted, np.full((6, 1), 100))
    assert step.gain is not None
    assert step.gain.mean == pytest.approx(np.mean([1 - 200 / 203, 1 - 200 / 202]))


def test_a_minimum_that_fits_the_cases_that_chose_it_but_not_others_is_left_out():
    """In all cases together a minimum of 5 helps a little, but only because of one block; the others choose 20."""
    helped = (100, [(100, 100), (4, 0), (15, 0)])
    hurt = (100, [(85, 85), (15, 15)])
    counts, effects = make_scene(helped, hurt)
    step, after = learn_minimum_size(build_rule, effects, make_cases(counts))
    assert not step.accepted  # what case 1 alone would choose is nothing, what case 0 alone would choose is 20
    assert step.gain is not None
    assert step.gain.mean < 0
    np.testing.assert_array_equal(after.predicted, counts.predicted)


def test_a_minimum_needs_components_of_different_sizes_and_two_blocks():
    counts, effects = make_scene((10, [(10, 10)]), (10, [(10, 10)]))
    step, _ = learn_minimum_size(build_rule, effects, make_cases(counts))
    assert (step.rule, step.accepted) == (None, False)
    assert "no components of different sizes" in step.because
    counts, effects = make_scene((10, [(10, 10), (1, 0)]), (10, [(10, 10), (1, 0)]))
    step, _ = learn_minimum_size(build_rule, effects, make_cases(counts, blocks=[0, 0]))
    assert "two blocks" in step.because
    counts, effects = make_scene((10, []), (10, []))
    assert not learn_minimum_size(build_rule, effects, make_cases(counts))[0].accepted


def test_candidates_are_round_volumes_between_the_smallest_and_the_largest_component():
    effects = [make_effects([(3, 0), (60, 60)]), make_effects([])]
    assert list_minimum_sizes(effects) == [5.0, 10.0, 20.0, 50.0]
    assert list_minimum_sizes([make_effects([(20, 0)])]) == []
