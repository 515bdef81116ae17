import numpy as np
import pytest
import torch
from batchgenerators.augmentations.color_augmentations import augment_gamma

from autoseg.training.augmentation.gamma import adjust_gamma


@pytest.mark.parametrize(("inverted", "sign"), [(False, 1.0), (True, -1.0)])
def test_gamma_changes_the_range_and_keeps_mean_and_spread(
    plan_transforms, draw_patch, augment, *, augment_on_device, inverted, sign
):
    image, label_map = draw_patch()
    plan = plan_transforms(gamma={"inverted": inverted, "exponent_range": (1.5, 1.5)})
    by_worker, by_device = augment(plan, image, label_map)[0], augment_on_device(plan, image[None], label_map[None])[0]
    for changed in (by_worker, by_device[0]):
        for before, after in zip(sign * image, sign * changed, strict=True):
            power = ((before - before.min()) / np.ptp(before)) ** 1.5
            expected = (power - power.mean()) / power.std() * before.std() + before.mean()
            assert np.allclose(after, expected, atol=1e-4)


@pytest.mark.parametrize("is_inverted", [True, False])
@pytest.mark.parametrize("shape", [(8, 10, 12), (16, 18)])
def test_gamma_on_a_device_is_that_of_batchgenerators(change_rows, monkeypatch, *, shape, is_inverted):
    exponents = np.asarray([1, 0.7, 0.9, 1.2, 1, 1.5])
    before, after = change_rows(adjust_gamma, shape, exponents, exponents != 1, inverted=is_inverted)
    for row in (1, 2, 3, 5):
        monkeypatch.setattr(np.random, "uniform", lambda low, high, row=row: exponents[row])  # which it draws from
        channel = before[row][None].astype(np.float64)
        expected = augment_gamma(channel, (0.5, 2), invert_image=is_inverted, per_channel=True, retain_stats=True)
        assert np.allclose(after[row], expected[0], atol=2e-4)
    assert np.array_equal(after[[0, 4]], before[[0, 4]])


@pytest.mark.parametrize("is_inverted", [True, False])
def test_constant_channels_stay_finite(device, *, is_inverted):
    rows = torch.full((2, 4, 5, 6), 3.0, device=device)
    exponents = torch.tensor([0.8, 1.4], device=device)
    changed = adjust_gamma(rows, exponents, exponents != 1, inverted=is_inverted)
    assert torch.allclose(changed, torch.full_like(rows, 3.0), atol=1e-4)
