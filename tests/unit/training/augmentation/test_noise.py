import numpy as np
import pytest
import torch
from scipy import stats

from autoseg.training.augmentation.noise import add_gaussian_noise
from autoseg.training.augmentation.tensors.counter_random import join_words
from autoseg.training.augmentation.tensors.transfer import copy_together


def test_the_range_of_the_noise_is_one_of_standard_deviations(plan_transforms, draw_patch, augment):
    image, label_map = draw_patch((20, 20, 20))
    noise = augment(plan_transforms(noise={"std_range": (0.3, 0.3)}), image, label_map)[0] - image
    assert noise.std(axis=(1, 2, 3)) == pytest.approx([0.3, 0.3], rel=0.05)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.05


def test_noise_is_decided_per_sample_with_a_key_of_its_own(plan_transforms, draw):
    (drawn,) = draw(plan_transforms(noise={"probability": 0.3}))
    is_noisy = drawn.std > 0
    assert is_noisy.mean() == pytest.approx(0.3, abs=0.06)
    assert stats.kstest(drawn.std[is_noisy], stats.uniform(0, 0.1).cdf).pvalue > 0.001
    assert len(np.unique(drawn.key, axis=0)) == 800
    assert drawn.key.min() >= 0
    assert 0.98 * 2**32 < drawn.key.max() < 2**32


def on_device(drawn, device):
    return copy_together([drawn.std, join_words(drawn.key)], device)


def test_noise_has_the_drawn_spread_in_all_channels(plan_transforms, draw, device):
    (drawn,) = draw(plan_transforms(noise={"std_range": (0.3, 0.3)}), count=4)
    image = torch.zeros(4, 2, 20, 20, 20, device=device)
    noise = add_gaussian_noise(image, *on_device(drawn, device)).cpu().numpy()
    assert noise.std(axis=(2, 3, 4)) == pytest.approx(np.full((4, 2), 0.3), rel=0.04)
    assert np.abs(np.corrcoef(noise.reshape(8, -1)) - np.eye(8)).max() < 0.05


def test_noise_changes_the_chosen_samples_alone(plan_transforms, draw, device):
    image = torch.zeros(20, 2, 3, 4, 5, device=device)
    (parameters,) = draw(plan_transforms(noise={"probability": 0.5, "std_range": (0.3, 0.3)}), count=20)
    changed = add_gaussian_noise(image, *on_device(parameters, device))
    is_changed = changed.flatten(1).any(1).cpu().numpy()
    assert np.array_equal(is_changed, parameters.std > 0)
    assert 0 < is_changed.sum() < 20
