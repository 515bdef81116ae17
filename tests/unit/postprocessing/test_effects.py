import numpy as np
import pytest
from scipy import ndimage

from autoseg.evaluation.case_metrics import LabelMapPair, evaluate_case
from autoseg.postprocessing.application import apply_rules
from autoseg.postprocessing.effects import Counts, count_class_voxels, measure_components, measure_holes
from autoseg.postprocessing.rules import fill_holes, keep_largest, keep_largest_foreground, require_minimum_size

SPACING_MM = (2.0, 1.0, 0.75)


def draw_pair(labels, seed, shape=(10, 14, 12)):
    """Blobs with holes; a prediction and a reference that differ, ignored voxels included."""
    random = np.random.default_rng(seed)
    maps = []
    for _ in range(2):
        noise = ndimage.gaussian_filter(random.normal(size=(3, *shape)), (0, 1.0, 1.0, 1.0))
        label_map = np.where(noise.max(axis=0) > 0.12, 1 + noise.argmax(axis=0), 0).astype(np.int16)
        label_map[label_map > len(labels.foreground_labels)] = 1
        maps.append(label_map)
    if labels.ignore_label is not None:
        maps[1][:3, :3] = labels.ignore_label
    return LabelMapPair(prediction=maps[0], reference=maps[1])


def assert_equal(found: Counts, expected: Counts) -> None:
    np.testing.assert_array_equal(found.predicted, expected.predicted)
    np.testing.assert_array_equal(found.reference, expected.reference)
    np.testing.assert_array_equal(found.both, expected.both)


def count_after(pair, rule, labels):
    finished = apply_rules(pair.prediction, [rule], labels=labels, spacing_mm=SPACING_MM)
    return count_class_voxels(LabelMapPair(prediction=finished, reference=pair.reference), labels)


@pytest.fixture(params=["plain", "regions"])
def labels(request):
    return request.getfixturevalue(request.param)


def test_counts_give_the_dice_of_evaluation(labels):
    pair = draw_pair(labels, 0)
    metrics = evaluate_case(pair.prediction, pair.reference, spacing_mm=SPACING_MM, labels=labels)
    np.testing.assert_allclose(count_class_voxels(pair, labels).compute_dice(), [entry.dice for entry in metrics])


@pytest.mark.parametrize("seed", range(3))
def test_a_measured_change_is_what_the_rule_does(labels, seed):
    pair = draw_pair(labels, seed)
    counts, classes = count_class_voxels(pair, labels), len(labels.class_labels)
    (foreground,) = measure_components(pair, [labels.foreground_labels], labels=labels, spacing_mm=SPACING_MM)
    after = counts.change(foreground.remove(~foreground.is_largest, classes))
    assert_equal(after, count_after(pair, keep_largest_foreground(labels), labels))
    for index, members in enumerate(labels.class_labels):
        (effects,) = measure_components(pair, [members], labels=labels, spacing_mm=SPACING_MM)
        after = counts.change(effects.remove(~effects.is_largest, classes))
        assert_equal(after, count_after(pair, keep_largest(labels, index), labels))
        minimum_mm3 = float(np.median(effects.volumes_mm3)) + 0.1
        after = counts.change(effects.remove(effects.volumes_mm3 < minimum_mm3, classes))
        assert_equal(after, count_after(pair, require_minimum_size(labels, index, minimum_mm3), labels))
        after = counts.change(measure_holes(pair, index, labels=labels))
        assert_equal(after, count_after(pair, fill_holes(labels, index), labels))


def test_disjoint_masks_are_measured_in_one_pass_as_one_by_one(plain):
    pair = draw_pair(plain, 5)
    together = measure_components(pair, plain.class_labels, labels=plain, spacing_mm=SPACING_MM)
    for members, found in zip(plain.class_labels, together, strict=True):
        (alone,) = measure_components(pair, [members], labels=plain, spacing_mm=SPACING_MM)
        for field in ("volumes_mm3", "voxels", "classes"):
            np.testing.assert_array_equal(getattr(found, field), getattr(alone, field))
        np.testing.assert_array_equal(found.predicted, alone.predicted)
        np.testing.assert_array_equal(found.both, alone.both)


def test_an_empty_prediction_has_no_components(labels):
    pair = LabelMapPair(prediction=np.zeros((3, 4, 5), np.int16), reference=np.ones((3, 4, 5), np.int16))
    (effects,) = measure_components(pair, [labels.foreground_labels], labels=labels, spacing_mm=SPACING_MM)
    assert len(effects.voxels) == 0
    assert not effects.remove(~effects.is_largest, len(labels.class_labels)).predicted.any()
    assert not measure_holes(pair, 0, labels=labels).predicted.any()
