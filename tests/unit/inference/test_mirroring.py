import pytest
import torch
from builders.labels import build_labels
from builders.plans import build_training_plan, build_transforms
from torch import nn

from autoseg.inference.sliding_window.mirroring import (
    ChannelExchange,
    find_channel_exchange,
    list_mirrored_axes,
    predict_mirrored,
    restore_views,
)


class Pointwise(nn.Module):
    """Commutes with every mirroring."""

    def forward(self, image):
        return (torch.cat([image, image**2, -image], dim=1),)


class Ramp(nn.Module):
    """Adds the position along one axis, so that the mean over mirrored views along it is a constant."""

    def __init__(self, dimension):
        super().__init__()
        self.dimension = dimension

    def forward(self, image):
        shape = [1] * image.ndim
        shape[self.dimension] = -1
        return (image + torch.arange(image.shape[self.dimension]).float().reshape(shape),)


def test_every_subset_of_the_axes_is_listed_once():
    assert list(list_mirrored_axes((0, 1, 2))) == [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    assert list(list_mirrored_axes((1,))) == [(), (1,)]
    assert list(list_mirrored_axes(())) == [()]


@pytest.mark.parametrize("axes", [(), (0,), (0, 1), (0, 1, 2)])
def test_mirroring_changes_nothing_for_a_network_that_commutes_with_it(axes):
    image = torch.randn(2, 1, 4, 5, 6)
    expected = Pointwise()(image)[0]
    torch.testing.assert_close(predict_mirrored(Pointwise(), image, axes, inference_batch_size=3), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_views_are_mirrored_back_along_the_right_axis_before_they_are_averaged(axis):
    image = torch.randn(1, 1, 4, 5, 6)
    centre = (image.shape[2 + axis] - 1) / 2
    torch.testing.assert_close(predict_mirrored(Ramp(2 + axis), image, (axis,), inference_batch_size=1), image + centre)
    others = tuple(other for other in range(3) if other != axis)
    torch.testing.assert_close(
        predict_mirrored(Ramp(2 + axis), image, others, inference_batch_size=4), Ramp(2 + axis)(image)[0]
    )


def test_the_input_is_left_as_it_is():
    class Identity(nn.Module):
        def forward(self, image):
            return (image,)

    image = torch.randn(1, 1, 4, 4)
    before = image.clone()
    predict_mirrored(Identity(), image, (0, 1), inference_batch_size=2)
    assert torch.equal(image, before)


@pytest.mark.parametrize(("inference_batch_size", "passes"), [(1, [1] * 12), (5, [5, 5, 2]), (12, [12]), (99, [12])])
def test_views_of_all_patches_share_passes_of_the_given_size(inference_batch_size, passes):
    sizes = []

    class Counting(Ramp):
        def forward(self, image):
            sizes.append(len(image))
            return super().forward(image)

    image = torch.randn(3, 1, 4, 5)
    logits = predict_mirrored(Counting(2), image, (0, 1), inference_batch_size=inference_batch_size)
    assert sizes == passes
    torch.testing.assert_close(logits, image + 1.5)


class Sided(nn.Module):
    """Finds background, "left" in the lower half of the last axis and "right" in the upper one: equivariant to
    mirroring with exchanged sides, and to nothing else."""

    def forward(self, image):
        upper = torch.arange(image.shape[-1]) * 2 >= image.shape[-1]
        return (torch.cat([-image, image.where(~upper, -image), image.where(upper, -image)], dim=1),)


SIDES = ChannelExchange(axis=2, order=(0, 2, 1))


@pytest.mark.parametrize("axes", [(2,), (0, 2), (1, 0, 2)])
def test_mirroring_with_exchanged_channels_changes_nothing_for_a_network_that_tells_sides(axes):
    image = torch.randn(2, 1, 4, 5, 6)
    expected = Sided()(image)[0]
    torch.testing.assert_close(predict_mirrored(Sided(), image, axes, inference_batch_size=3, exchange=SIDES), expected)
    without = predict_mirrored(Sided(), image, axes, inference_batch_size=3)
    assert not torch.allclose(without, expected)


def test_a_view_that_is_restored_twice_is_itself():
    output = torch.randn(2, 3, 4, 5, 6)
    for axes in list_mirrored_axes((0, 2)):
        assert torch.equal(restore_views(restore_views(output, axes, SIDES), axes, SIDES), output)


def test_channels_beyond_the_exchanged_ones_stay_in_their_places():
    output = torch.randn(2, 5, 4, 5, 6)
    restored = restore_views(output, (2,), SIDES)
    assert torch.equal(restored, output[:, [0, 2, 1, 3, 4]].flip(4))


def test_the_plan_says_which_channels_are_exchanged():
    labels = build_labels({"kidney_left": (1,), "liver": (2,), "kidney_right": (3,)})
    training = build_training_plan(transforms=build_transforms(mirror_pairs={"axis": 1, "pairs": ((1, 3),)}))
    assert training.mirror_axes == (1,)
    assert find_channel_exchange(training, labels) == ChannelExchange(axis=1, order=(0, 3, 2, 1))
    assert find_channel_exchange(build_training_plan(), labels) is None


def test_regions_of_both_sides_are_exchanged_and_those_of_both_stay():
    labels = build_labels({"lungs": (1, 2), "left": (1,), "right": (2,)}, region_write_values=(1, 1, 2))
    assert labels.exchange_outputs([(1, 2)]) == (0, 2, 1)
    one_sided = build_labels({"lungs": (1, 2), "left": (1,)}, region_write_values=(2, 1))
    assert one_sided.exchange_outputs([(1, 2)]) is None


def test_channels_after_those_of_the_classes_stay_when_sides_are_exchanged():
    class Recording(nn.Module):
        def forward(self, image):
            return (torch.cat([image[:, :1], image[:, :1] + 1, image[:, :1] + 2, image[:, :1] ** 2], dim=1),)

    image = torch.randn(1, 1, 4, 6)
    exchange = ChannelExchange(axis=1, order=(0, 2, 1))
    found = predict_mirrored(Recording(), image, (1,), inference_batch_size=2, exchange=exchange)
    expected = torch.cat([image, image + 1.5, image + 1.5, image**2], dim=1)
    torch.testing.assert_close(found, expected)
