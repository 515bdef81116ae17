"""What is measured of logits, images and label maps."""

import numpy as np
import pytest
import torch
from builders.full_device import FullDeviceTensor
from builders.labels import build_labels
from builders.plans import build_configuration, build_plan
from builders.threads import use_one_thread
from scipy import ndimage

from autoseg.geometry import Grid
from autoseg.preprocessing.case import CaseGeometry
from autoseg.quality import probabilities
from autoseg.quality.images import compute_likeness, measure_image
from autoseg.quality.probabilities import average_probabilities, choose_steps, measure_probabilities
from autoseg.quality.shapes import measure_shapes
from autoseg.workflows.cases.network_features import measure_network_features

_one_thread = pytest.fixture(autouse=True)(use_one_thread)

LABELS = build_labels({"a": (1,), "b": (2,)})
REGIONS = build_labels({"whole": (1, 2), "core": (2,)}, region_write_values=(1, 2))
SHAPE = (5, 6, 7)


def make_logits(channels=3, seed=0):
    logits = 3 * torch.randn((channels, *SHAPE), generator=torch.Generator().manual_seed(seed))
    return logits, np.random.default_rng(seed).normal(size=(1, *SHAPE)).astype(np.float32)


def test_soft_dice_is_the_dice_that_the_probabilities_expect() -> None:
    logits, image = make_logits()
    found = measure_probabilities(logits, image, LABELS)
    p, label = torch.softmax(logits, 0), logits.argmax(0)
    for index, entry in enumerate(found, start=1):
        inside = label == index
        assert entry.soft_dice == pytest.approx(float(2 * p[index][inside].sum() / (p[index].sum() + inside.sum())))
        assert entry.expected_fraction == pytest.approx(float(p[index].sum() / inside.sum()))
        assert entry.border_uncertainty == pytest.approx(float((p[index] * p[0]).sum() / inside.sum()), rel=1e-4)
        between = float((p[index] * p[3 - index]).sum() / inside.sum())
        assert entry.class_uncertainty == pytest.approx(between, rel=1e-3)
        assert entry.intensities[0] == pytest.approx(float(image[0][inside.numpy()].mean()), rel=1e-4)


def test_a_held_out_case_is_measured_in_ram_where_the_device_is_full(caplog) -> None:
    logits, image = make_logits()
    plan = build_plan({"3d_fullres": build_configuration((8, 8, 8))}, labels=LABELS)
    geometry = build_geometry(SHAPE)
    expected = measure_network_features([image], [logits], geometry, plan)
    assert measure_network_features([image], [logits.as_subclass(FullDeviceTensor)], geometry, plan) == expected
    assert "ran out of memory; measuring its quality on the CPU" in caplog.text


def test_regions_are_measured_each_by_itself_and_certain_ones_have_a_soft_dice_of_1() -> None:
    logits, image = make_logits(2)
    found = measure_probabilities(logits, image, REGIONS)
    p, inside = torch.sigmoid(logits), logits > 0
    expected = [float(2 * p[i][inside[i]].sum() / (p[i].sum() + inside[i].sum())) for i in range(2)]
    assert [entry.soft_dice for entry in found] == pytest.approx(expected)
    assert measure_probabilities(100 * logits, image, REGIONS)[0].soft_dice == pytest.approx(1, abs=0.01)


def test_a_class_that_is_predicted_nowhere_has_no_features() -> None:
    logits, image = make_logits()
    logits[1] = -100
    first, second = measure_probabilities(logits, image, LABELS)
    assert first is None
    assert average_probabilities([(first, second), (second, second)]) == (second, second)


def test_parts_and_the_whole_give_the_same(monkeypatch) -> None:
    logits, image = make_logits()
    whole = measure_probabilities(logits, image, LABELS)
    for chunk_bytes in (100, 600, 2000):
        monkeypatch.setattr(probabilities, "CHUNK_BYTES", {"cpu": chunk_bytes})
        for a, b in zip(whole, measure_probabilities(logits, image, LABELS), strict=True):
            np.testing.assert_allclose(a.soft_dice, b.soft_dice, rtol=1e-5)
            np.testing.assert_allclose(a.intensities, b.intensities, rtol=1e-4)


def test_the_cost_is_bounded_for_large_images_and_many_classes() -> None:
    assert choose_steps((3, 100, 512, 512)) == (1, 1, 1)
    steps = choose_steps((105, 300, 512, 512))
    assert 105 * 300 * 512 * 512 / np.prod(steps) <= probabilities.MOST_VALUES
    assert steps[0] <= steps[1]


def build_geometry(shape):
    return CaseGeometry(
        grid=Grid(shape_voxels=shape, spacing_mm=(2.0, 1.0, 1.0)),
        orientation=None,
        axis_permutation=(0, 1, 2),
        crop_box=tuple((0, extent) for extent in shape),
        cropped_shape_voxels=shape,
        resampled_shape_voxels=shape,
        cropped_spacing_mm=(2.0, 1.0, 1.0),
        target_spacing_mm=(2.0, 1.0, 1.0),
    )


def make_image(seed=0):
    noise = np.random.default_rng(seed).normal(size=(1, 20, 24, 28))
    smooth = ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 1.5))
    ramp = np.linspace(-1, 1, 24)[None, None, :, None]
    return (smooth / smooth.std() * 0.3 + ramp).astype(np.float32)


def measure(image):
    return measure_image(image, build_geometry(image.shape[1:]))


def test_noise_raises_and_blur_lowers_what_is_measured_of_neighbours() -> None:
    image = make_image()
    noisy = image + np.random.default_rng(1).normal(size=image.shape).astype(np.float32)
    blurred = ndimage.gaussian_filter(image, (0, 2, 2, 2))
    plain, more, less = (measure(one).channels[0] for one in (image, noisy, blurred))
    assert more.roughness > plain.roughness > less.roughness
    assert more.contrast > plain.contrast > less.contrast


def test_a_thumbnail_tells_which_way_an_image_is_turned() -> None:
    first, second, flipped = (
        measure(one).channels[0].thumbnail for one in (make_image(0), make_image(1), make_image(1)[:, :, ::-1])
    )
    assert compute_likeness(first, second) > 0.8
    assert compute_likeness(first, flipped) < -0.8
    assert compute_likeness(first, (0.0,) * 512) == 0.0


def test_the_grid_and_cut_off_parts_are_measured() -> None:
    image = make_image()
    image[:, 10:] = image.min()
    found = measure(image)
    assert found.extent_mm == (40.0, 24.0, 28.0)
    assert found.tilt_degrees == 0
    assert found.channels[0].floor_fraction == pytest.approx(0.5, abs=0.05)


def test_the_scale_before_normalization_is_that_of_the_channel_where_it_is_known() -> None:
    image = np.concatenate([make_image(), make_image()])
    geometry = build_geometry(image.shape[1:])
    scaled = geometry.model_copy(update={"intensity_scales": (300.0, 0.5)})
    assert [channel.scale for channel in measure_image(image, scaled).channels] == [300.0, 0.5]
    assert [channel.scale for channel in measure_image(image, geometry).channels] == [None, None]


def test_a_single_bright_voxel_is_the_highest_intensity_of_a_channel() -> None:
    image = np.concatenate([make_image(), make_image()])
    image[1, 3, 4, 5] = 30.0
    first, second = (channel.extremes for channel in measure(image).channels)
    assert first == (image[0].min(), image[0].max())
    assert second == (first[0], 30.0)


def test_constant_and_flat_images_are_measured() -> None:
    found = measure(np.zeros((1, 1, 5, 2), np.float32)).channels[0]
    assert (found.contrast, found.floor_fraction, set(found.thumbnail)) == (0.0, 1.0, {0.0})


def make_label_map():
    label_map = np.zeros((10, 12, 14), np.int16)
    label_map[2:6, 2:6, 2:6] = 1
    label_map[8, 8, 8] = 1
    label_map[4:8, 0:4, 8:12] = 2
    return label_map


def test_sizes_components_borders_and_places_of_classes() -> None:
    a, b = measure_shapes(make_label_map(), (2.0, 1.0, 1.0), LABELS)
    assert (a.volume_ml, a.components, a.largest_fraction) == (0.13, 2, pytest.approx(64 / 65))
    assert (a.border_fraction, b.components) == (0.0, 1)
    surface = 2 * (16 + 32 + 32)
    assert b.compactness == pytest.approx(surface**3 / (36 * np.pi * 128**2))
    assert b.border_fraction == pytest.approx(32 / surface)
    assert b.centre == pytest.approx((0.6, 2 / 12, 10 / 14))


def test_regions_join_their_labels_and_empty_classes_have_no_shape() -> None:
    whole, core = measure_shapes(make_label_map(), (1.0, 1.0, 1.0), REGIONS)
    assert (whole.volume_ml, core.volume_ml) == (pytest.approx(0.129), 0.064)
    assert measure_shapes(np.zeros((3, 3, 3), np.int16), (1.0, 1.0, 1.0), LABELS) == (None, None)


def test_a_slice_has_no_border_above_and_below() -> None:
    picture = np.zeros((1, 8, 8), np.int16)
    picture[0, 3:5, 3:5] = 1
    assert measure_shapes(picture, (1.0, 1.0, 1.0), LABELS)[0].border_fraction == 0.0
