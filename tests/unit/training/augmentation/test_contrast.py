import numpy as np
import pytest
import torch
from batchgenerators.augmentations.color_augmentations import augment_contrast

from autoseg.training.augmentation.contrast import adjust_contrast


def test_contrast_scales_about_the_mean_and_keeps_the_range(plan_transforms, draw_patch, augment):
    image, label_map = draw_patch()
    plan = plan_transforms(contrast={"factor_range": (1.2, 1.2)})
    for before, after in zip(image, augment(plan, image, label_map)[0], strict=True):
        expected = np.clip((before - before.mean()) * 1.2 + before.mean(), before.min(), before.max())
        assert np.allclose(after, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 10, 12), (16, 18)])
def test_contrast_on_a_device_is_that_of_batchgenerators(change_rows, shape):
    factors = np.asarray([1, 0.8, 1.1, 1.25, 1, 0.75])
    before, after = change_rows(adjust_contrast, shape, factors)
    for row in range(6):
        expected = augment_contrast(before[row][None].copy(), contrast_range=lambda row=row: factors[row])[0]
        assert np.allclose(after[row], expected, atol=1e-5)
    assert np.array_equal(after[0], before[0])


def test_constant_channels_stay_as_they_are(device):
    rows = torch.full((2, 4, 5, 6), 3.0, device=device)
    adjust_contrast(rows, torch.tensor([0.8, 1.4], device=device))
    assert torch.allclose(rows, torch.full_like(rows, 3.0), atol=1e-4)
