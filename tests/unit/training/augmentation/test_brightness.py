import numpy as np
import pytest

from autoseg.training.augmentation.brightness import adjust_brightness


def test_brightness_multiplies_every_channel_by_its_own_factor(plan_transforms, draw_patch, augment):
    image, label_map = draw_patch()
    factors = augment(plan_transforms(brightness={}), image, label_map)[0] / image
    assert factors.std(axis=(1, 2, 3)) == pytest.approx([0, 0], abs=1e-5)
    first, second = factors.mean(axis=(1, 2, 3))
    assert 0.75 <= first <= 1.25
    assert first != pytest.approx(second)


def test_brightness_on_a_device_multiplies(change_rows):
    factors = np.asarray([1, 0.8, 1, 1.2, 1, 1])
    before, after = change_rows(adjust_brightness, (8, 10, 12), factors)
    assert np.allclose(after, before * factors[:, None, None, None])
    assert np.array_equal(after[0], before[0])
