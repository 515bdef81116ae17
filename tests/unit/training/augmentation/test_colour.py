"""Saturation, hue and stains of pictures."""

import numpy as np
import pytest
from builders.plans import build_channels, build_configuration, build_plan, build_transforms
from scipy import stats
from skimage.color import hed2rgb, rgb2hed

from autoseg.training.augmentation.colour import compute_mixing
from autoseg.training.augmentation.stain import DENSITIES

COLOURS = ("saturation", "hue", "stain")


@pytest.fixture
def picture():
    """Intensities from 0 to 1 in three channels."""
    return np.random.default_rng(0).uniform(0.05, 0.95, size=(3, 6, 7)).astype(np.float32)


@pytest.fixture
def change(augment, augment_on_device, picture):
    """Changes the picture in a worker process, and on a device."""

    def apply(**transforms):
        plans, label_map = build_transforms(**transforms), np.zeros((6, 7), dtype=np.int16)
        on_device, _ = augment_on_device(plans, picture[None], label_map[None])
        return augment(plans, picture, label_map)[0], on_device[0]

    return apply


def test_greys_stay_whatever_is_done_to_colours():
    grey = np.full(3, 0.7)
    for saturation, degrees in ((0.0, 0.0), (2.0, 50.0), (0.3, -170.0)):
        assert compute_mixing(saturation, degrees) @ grey == pytest.approx(grey)
    assert np.array_equal(compute_mixing(1.0, 0.0), np.eye(3))


def test_without_saturation_all_channels_are_their_mean(change, picture):
    for found in change(saturation={"factor_range": (1e-9, 1e-9)}):
        assert np.allclose(found, picture.mean(axis=0, keepdims=True), atol=1e-6)
    for found in change(saturation={"factor_range": (2.0, 2.0)}):
        assert np.allclose(found, 2 * picture - picture.mean(axis=0), atol=1e-6)


def test_a_third_of_a_turn_makes_red_green_and_green_blue():
    red, green, blue = np.eye(3)
    assert compute_mixing(1.0, 120.0) @ red == pytest.approx(green)
    assert compute_mixing(1.0, 120.0) @ green == pytest.approx(blue)
    assert compute_mixing(1.0, -120.0) @ red == pytest.approx(blue)


def test_hue_keeps_brightness_and_strength_of_colours(change, picture):
    for found in change(hue={}):
        assert not np.allclose(found, picture)
        assert np.allclose(found.mean(axis=0), picture.mean(axis=0), atol=1e-6)
        assert np.allclose(np.linalg.norm(found, axis=0), np.linalg.norm(picture, axis=0), atol=1e-5)


def test_stains_of_nothing_leave_the_picture(change, picture):
    for found in change(stain={"factor_limit": 0.0, "shift_limit": 0.0}):
        assert np.allclose(found, picture, atol=1e-5)


@pytest.mark.parametrize("stain", [0, 1, 2])
def test_more_of_one_stain_is_more_of_its_density(change, picture, stain):
    picture[:] = np.exp(-0.8 * DENSITIES[stain])[:, None, None]
    for found in change(stain={"factor_limit": 0.2, "shift_limit": 0.0}):
        density = -np.log(found[:, 0, 0])
        amounts = density @ np.linalg.inv(DENSITIES)
        assert 0.64 <= amounts[stain] <= 0.96
        assert np.delete(amounts, stain) == pytest.approx([0, 0], abs=1e-5)
        assert found.std(axis=(1, 2)) == pytest.approx([0, 0, 0], abs=1e-6)


def test_stains_are_those_of_scikit_image(change, picture):
    amounts = np.random.default_rng(1).uniform(0.1, 0.5, size=(6, 7, 3))
    picture[:] = np.exp(-amounts @ DENSITIES).transpose(2, 0, 1)
    for found in change(stain={"factor_limit": 0.2, "shift_limit": 0.0}):
        theirs = rgb2hed(picture.transpose(1, 2, 0))
        factors = rgb2hed(found.transpose(1, 2, 0)) / theirs
        assert factors.std(axis=(0, 1)) == pytest.approx([0, 0, 0], abs=1e-3)
        assert ((factors > 0.79) & (factors < 1.21)).all()
        assert np.allclose(hed2rgb(theirs * factors[0, 0]).transpose(2, 0, 1), found, atol=1e-4)


def test_stained_pictures_stay_between_black_and_white(change, picture):
    picture[:, :3] = 0
    picture[:, 3:] = 1
    for found in change(stain={"factor_limit": 1.0, "shift_limit": 1.0}):
        assert np.isfinite(found).all()
        assert found.min() >= 0
        assert found.max() <= 1


@pytest.mark.parametrize("name", COLOURS)
def test_a_device_changes_as_often_and_as_much_as_worker_processes(augment, augment_on_device, picture, name):
    plans = build_transforms(**{name: {"probability": 0.5}})
    label_maps = np.zeros((400, 6, 7), dtype=np.int16)
    batch = np.repeat(picture[None], 400, axis=0)
    ours, _ = augment_on_device(plans, batch, label_maps)
    theirs = np.stack([augment(plans, picture, label_map)[0] for label_map in label_maps])
    is_changed, was_changed = ((image != picture).any(axis=(1, 2, 3)) for image in (ours, theirs))
    assert is_changed.mean() == pytest.approx(0.5, abs=0.1)
    assert was_changed.mean() == pytest.approx(0.5, abs=0.1)
    for channel in range(3):
        found, known = ours[is_changed, channel, 2, 3], theirs[was_changed, channel, 2, 3]
        assert stats.ks_2samp(found, known).pvalue > 1e-4


def plan(name, channels):
    network = {"input_channels": len(channels)}
    configuration = build_configuration(
        (16, 16), data_of="2d", network=network, training={"transforms": build_transforms(noise={}, **{name: {}})}
    )
    return build_plan({"2d": configuration}, channels=channels)


@pytest.mark.parametrize("name", COLOURS)
def test_colours_of_images_that_have_none_are_refused_by_name(name):
    where = rf"configurations\.2d\.training\.transforms\.1 \({name}\): .*(red, green and blue|three channels)"
    for channels in (build_channels("zscore", name="CT"), build_channels("zscore", "zscore", "zscore")):
        with pytest.raises(ValueError, match=where):
            plan(name, channels)
    assert plan(name, build_channels(*["rgb_to_0_1"] * 3)).channels


def test_colours_are_told_by_their_names_and_stains_by_intensities():
    channels = tuple(build_channels("zscore", name=name)[0] for name in ("R", "G", "B"))
    assert plan("saturation", channels).channels == channels
    assert plan("hue", channels).channels == channels
    with pytest.raises(ValueError, match=r"\(stain\): tells stains by .* \(got R \(zscore\), G \(zscore\), B"):
        plan("stain", channels)
    with pytest.raises(ValueError, match=r"\(hue\): changes colours"):
        plan("hue", channels[::-1])
