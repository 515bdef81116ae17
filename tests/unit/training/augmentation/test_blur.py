import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import gaussian_filter

from autoseg.training.augmentation.blur import blur
from autoseg.training.augmentation.tensors.axis_matrices import compute_blur_kernels


def test_blur_is_gaussian_and_chooses_channels(plan_transforms, draw_patch, augment):
    image, label_map = draw_patch()
    plan = plan_transforms(blur={"channel_probability": 1.0, "sigma_range_voxels": (0.75, 0.75)})
    expected = np.stack([gaussian_filter(channel, 0.75) for channel in image])
    assert np.allclose(augment(plan, image, label_map)[0], expected)
    some = plan_transforms(blur={"channel_probability": 0.5})
    changed = np.asarray([(augment(some, image, label_map)[0] != image).any(axis=(1, 2, 3)) for _ in range(200)])
    assert changed.mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.12)
    assert (changed[:, 0] & changed[:, 1]).mean() == pytest.approx(0.25, abs=0.1)


def test_blur_is_drawn_per_axis(plan_transforms, augment):
    image, label_map = np.zeros((1, 9, 9, 9), dtype=np.float32), np.zeros((9, 9, 9), dtype=np.int16)
    image[0, 4, 4, 4] = 1
    blurred = augment(plan_transforms(blur={"channel_probability": 1.0}), image, label_map)[0][0]
    neighbours = [blurred[5, 4, 4], blurred[4, 5, 4], blurred[4, 4, 5]]
    assert max(neighbours) > 1.05 * min(neighbours)


@pytest.mark.parametrize("shape", [(8, 10, 12), (16, 18)])
def test_blur_on_a_device_is_that_of_scipy_and_leaves_other_channels_alone(change_rows, shape):
    sigmas = np.random.default_rng(0).uniform(0.5, 1.0, size=(6, len(shape)))
    sigmas[[1, 4]] = 0
    before, after = change_rows(blur, shape, compute_blur_kernels(sigmas, largest_sigma_voxels=1.0), sigmas[:, 0] > 0)
    for row in (0, 2, 3, 5):
        assert np.allclose(after[row], gaussian_filter(before[row], sigmas[row]), atol=1e-5)
    assert np.array_equal(after[[1, 4]], before[[1, 4]])


def test_blur_is_decided_per_sample_and_channel_and_drawn_per_axis(plan_transforms, draw):
    (sigmas,) = draw(plan_transforms(blur={"probability": 0.4, "channel_probability": 0.5}))
    is_blurred = (sigmas > 0).all(axis=2)
    assert np.array_equal(is_blurred, (sigmas > 0).any(axis=2))
    assert is_blurred.mean(axis=0) == pytest.approx([0.2, 0.2], abs=0.06)
    assert is_blurred.all(axis=1).mean() == pytest.approx(0.1, abs=0.06)
    assert stats.kstest(sigmas[is_blurred].ravel(), stats.uniform(0.5, 0.5).cdf).pvalue > 0.001
    assert np.abs(np.corrcoef(sigmas[is_blurred].T) - np.eye(3)).max() < 0.2
