import pytest
import torch
from torch import nn

from autoseg.inference.sliding_window.mirroring import list_mirrored_axes, predict_mirrored


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
