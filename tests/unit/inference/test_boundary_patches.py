"""Correction of a label map in patches around the boundaries of its classes."""

import numpy as np
import pytest
import torch
from builders.labels import build_labels, build_plain_labels
from builders.plans import build_configuration
from torch import nn

from autoseg.errors import DeviceError, PredictionError
from autoseg.inference.sliding_window.boundary_patches import (
    average_patches,
    compute_logits,
    refine_boundaries,
)
from autoseg.stages.boundary import find_boundary, select_centres

CPU = torch.device("cpu")
SHAPE = (9, 14, 12)


def plan_boundary(dimensions=3, *, overlap_limit=0.25):
    stage = {"input": "boundary", "configuration": "3d_lowres", "overlap_limit": overlap_limit}
    network = {"input_channels": 2, "output_channels": 2}
    return build_configuration((4,) * dimensions, previous_stage=stage, network=network)


def draw_label_map():
    """Two touching classes, one of which touches the border of the image."""
    label_map = np.zeros(SHAPE, np.int16)
    label_map[2:7, 3:8, 2:8] = 1
    label_map[4:9, 8:11, 2:6] = 2
    return label_map


class Answers(nn.Module):
    """Says "inside" where its last channel, the mask, is 1 (or where it is 0), or everywhere by a logit."""

    def __init__(self, *, inside=None, is_opposite=False):
        super().__init__()
        self.inside = inside
        self.sign = -1.0 if is_opposite else 1.0

    def forward(self, patches):
        mask = patches[:, -1]
        logits = self.sign * (20 * mask - 10) if self.inside is None else torch.full_like(mask, self.inside)
        return (torch.stack([-logits, logits], dim=1),)


def refine(network, label_map, *, labels=None, dimensions=3, overlap_limit=0.25, mirror_axes=(0, 1), **options):
    image = np.stack([np.zeros(SHAPE), label_map]).astype(np.float32)
    return refine_boundaries(
        network,
        torch.from_numpy(image),
        labels=labels or build_plain_labels(2),
        configuration=plan_boundary(dimensions, overlap_limit=overlap_limit),
        mirror_axes=mirror_axes,
        device=CPU,
        **options,
    )


def cover(mask, *, axes, overlap_limit=0.25):
    """The voxels that patches around the boundary of a class cover."""
    patch = (1,) * (3 - axes) + (4,) * axes
    covered = np.zeros(np.asarray(mask.shape) + 8, bool)
    for z, y, x in select_centres(find_boundary(mask, axes=axes), patch, overlap_limit=overlap_limit):
        first = [place - extent // 2 + 4 for place, extent in zip((z, y, x), patch, strict=True)]
        covered[tuple(slice(start, start + extent) for start, extent in zip(first, patch, strict=True))] = True
    return covered[4:-4, 4:-4, 4:-4]


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("overlap_limit", [0.25, 1.0])
def test_a_network_that_copies_the_mask_changes_no_voxel(dimensions, overlap_limit):
    label_map = draw_label_map()
    logits = refine(Answers(), label_map, dimensions=dimensions, overlap_limit=overlap_limit)
    assert logits.shape == (3, *SHAPE)
    assert np.array_equal(logits.argmax(0).numpy(), label_map)


def test_output_that_is_not_finite_is_an_error():
    with pytest.raises(PredictionError, match=r"NaN for .*; image .* and weights are finite"):
        refine(Answers(inside=float("nan")), draw_label_map())


@pytest.mark.parametrize("dimensions", [2, 3])
def test_what_no_patch_covers_stays_and_what_one_covers_is_new(dimensions):
    label_map = draw_label_map()
    found = refine(Answers(is_opposite=True), label_map, dimensions=dimensions).argmax(0).numpy()
    covered = np.stack([cover(label_map == label, axes=dimensions) for label in (1, 2)])
    assert np.array_equal(found[~covered.any(axis=0)], label_map[~covered.any(axis=0)])
    assert not (found == label_map)[covered[0] & (label_map == 1)].any()
    assert (found != label_map).any()


def test_the_winner_has_the_highest_refined_probability_above_one_half():
    probabilities = np.array([[0.6, 0.4, 0.5, 0.0], [0.7, 0.3, 0.5, 1.0]], np.float32).reshape(2, 1, 1, 4)
    logits = compute_logits(probabilities, has_regions=False)
    assert logits.argmax(axis=0).ravel().tolist() == [2, 0, 0, 2]
    regions = compute_logits(probabilities, has_regions=True)
    assert (regions > 0).reshape(2, 4).tolist() == [[True, False, False, False], [True, False, False, True]]
    assert np.isfinite(logits).all()
    assert np.isfinite(regions).all()


def test_overlapping_patches_are_averaged():
    mask = np.zeros((1, 1, 6), bool)
    mask[0, 0, 5] = True
    centres = np.array([[0, 0, 0], [0, 0, 2]], np.int32)  # patches of 4 from -2 to 1 and from 0 to 3
    patches = [np.full((1, 1, 4), 0.2, np.float32), np.array([[[0.4, 0.6, 0.8, 1.0]]], np.float32)]
    found = average_patches(mask, centres, patches, patch_voxels=(1, 1, 4))
    np.testing.assert_allclose(found[0, 0], [0.3, 0.4, 0.8, 1.0, 0.0, 1.0], rtol=1e-6)


def test_regions_are_refined_one_by_one():
    labels = build_labels({"whole": (1, 2), "core": (2,)}, region_write_values=(1, 2))
    label_map = draw_label_map()
    logits = refine(Answers(), label_map, labels=labels)
    assert np.array_equal(logits[0].numpy() > 0, label_map > 0)
    assert np.array_equal(logits[1].numpy() > 0, label_map == 2)


def test_folds_are_averaged_before_anything_is_decided():
    both = refine([Answers(inside=3.0), Answers(inside=-1.0)], draw_label_map())
    torch.testing.assert_close(both, refine(Answers(inside=1.0), draw_label_map()))


def test_finished_patches_of_all_classes_are_counted():
    seen, label_map = [], draw_label_map()
    refine(Answers(), label_map, on_window=lambda done, total: seen.append((done, total)), inference_batch_size=3)
    boundaries = [find_boundary(label_map == label, axes=3) for label in (1, 2)]
    count = sum(len(select_centres(each, (4, 4, 4), overlap_limit=0.25)) for each in boundaries)
    assert seen[-1] == (count, count)


class FullDevice(Answers):
    """Has memory for some patches at once."""

    def __init__(self, most):
        super().__init__(is_opposite=True)
        self.most, self.sizes = most, []

    def forward(self, patches):
        self.sizes.append(len(patches))
        if len(patches) > self.most:
            raise torch.OutOfMemoryError
        return super().forward(patches)


def test_fewer_patches_are_predicted_at_once_where_memory_does_not_suffice(caplog):
    full, seen, label_map = FullDevice(2), [], draw_label_map()
    found = refine(
        full,
        label_map,
        mirror_axes=(),
        inference_batch_size=8,
        on_window=lambda done, total: seen.append((done, total)),
    )
    assert torch.equal(found, refine(Answers(is_opposite=True), label_map, mirror_axes=(), inference_batch_size=2))
    assert full.sizes[:3] == [8, 4, 2]
    assert max(full.sizes[2:]) == 2
    assert seen[-1][0] == seen[-1][1]
    assert [record.message.rpartition(" ")[2] for record in caplog.records] == ["4", "2"]
    with pytest.raises(DeviceError, match="one patch"):
        refine(FullDevice(0), label_map, mirror_axes=(), inference_batch_size=2)


def test_an_image_without_foreground_stays_as_it_is():
    logits = refine(Answers(is_opposite=True), np.zeros(SHAPE, np.int16))
    assert not logits.argmax(0).any()
