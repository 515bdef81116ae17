import pytest
import torch
from builders.labels import build_labels

from autoseg.training.monitoring.pseudo_dice import (
    compute_mean_dice,
    compute_pseudo_dice,
    count_overlaps,
    update_moving_average,
)

PLAIN = build_labels({"a": (1,), "b": (2,), "c": (3,)}, ignore_value=4)
REGIONS = build_labels({"whole": (1, 2), "core": (2,)}, region_write_values=(1, 2))


def test_plain_labels_are_counted_without_ignored_voxels():
    label_map = torch.tensor([[[0, 1, 1, 2, 4, 4]]], dtype=torch.int16)
    predicted = torch.tensor([[[1, 1, 0, 2, 1, 2]]])
    logits = torch.nn.functional.one_hot(predicted, 4).movedim(-1, 1).float()
    counts = count_overlaps(logits, label_map, PLAIN)
    assert counts.true_positive.tolist() == [1, 1, 0]
    assert counts.false_positive.tolist() == [1, 0, 0]
    assert counts.false_negative.tolist() == [1, 0, 0]
    dice = compute_pseudo_dice([counts, counts])
    assert dice == (0.5, 1.0, None)
    assert compute_mean_dice(dice) == 0.75


def test_regions_are_predicted_above_one_half():
    label_map = torch.tensor([[[0, 1, 2, 2]]], dtype=torch.int16)
    logits = torch.tensor([[[[-1.0, 0.1, 0.1, -0.1]], [[0.1, 0.0, 5.0, -5.0]]]])
    counts = count_overlaps(logits, label_map, REGIONS)
    assert counts.true_positive.tolist() == [2, 1]
    assert counts.false_positive.tolist() == [0, 1]
    assert counts.false_negative.tolist() == [1, 1]


def test_nothing_seen_means_no_dice():
    assert compute_mean_dice((None, None)) is None


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [(None, 0.5, 0.5), (0.5, 1.0, 0.55), (0.5, None, 0.5), (None, None, None)],
)
def test_the_moving_average_follows_slowly(old, new, expected):
    assert update_moving_average(old, new) == pytest.approx(expected)
