import numpy as np
import pytest
import torch
from batchgenerators.augmentations.resample_augmentations import augment_linear_downsampling_scipy
from scipy import stats

from autoseg.training.augmentation.low_resolution import find_sources, simulate_low_resolution


@pytest.mark.parametrize(("in_plane_only", "coarse"), [(False, (4, 5, 6)), (True, (8, 5, 6))])
def test_low_resolution_goes_down_to_the_nearest_voxel_and_up_linearly(
    plan_transforms, draw_patch, augment, *, augment_on_device, in_plane_only, coarse
):
    image, label_map = draw_patch()
    always = {"channel_probability": 1.0, "zoom_range": (0.5, 0.5), "in_plane_only": in_plane_only}
    plan = plan_transforms(low_resolution=always)
    down = torch.nn.functional.interpolate(torch.from_numpy(image)[None], size=coarse, mode="nearest-exact")
    up = torch.nn.functional.interpolate(down, size=image.shape[1:], mode="trilinear", align_corners=False)
    assert np.allclose(augment(plan, image, label_map)[0], up[0].numpy(), atol=1e-5)
    assert np.allclose(augment_on_device(plan, image[None], label_map[None])[0], up.numpy(), atol=1e-5)


@pytest.mark.parametrize(("shape", "first_axis"), [((8, 10, 12), 0), ((8, 10, 12), 1), ((16, 18), 0)])
def test_low_resolution_on_a_device_is_that_of_batchgenerators(change_rows, shape, first_axis):
    zooms = np.asarray([1, 0.5, 0.6, 0.77, 1, 0.98])
    sources = [part for extent in shape[first_axis:] for part in find_sources(zooms, extent)]
    before, after = change_rows(lambda rows, *parts: simulate_low_resolution(rows, parts), shape, *sources)
    for row in range(6):
        expected = augment_linear_downsampling_scipy(
            before[row][None].copy(),
            zoom_range=(zooms[row], zooms[row]),
            order_downsample=0,
            order_upsample=1,
            ignore_axes=tuple(range(first_axis)),
        )[0]
        assert np.allclose(after[row], expected, atol=1e-5)
    assert np.array_equal(after[0], before[0])


def test_low_resolution_is_decided_per_sample_and_channel(plan_transforms, draw):
    (zooms,) = draw(plan_transforms(low_resolution={"probability": 0.4, "channel_probability": 0.5}))
    is_coarse = zooms != 1
    assert is_coarse.mean(axis=0) == pytest.approx([0.2, 0.2], abs=0.06)
    assert is_coarse.all(axis=1).mean() == pytest.approx(0.1, abs=0.06)
    assert stats.kstest(zooms[is_coarse], stats.uniform(0.5, 0.5).cdf).pvalue > 0.001


def test_a_2d_patch_has_no_axis_to_leave_alone(plan_transforms, draw_patch, augment):
    image, label_map = draw_patch((12, 12))
    always = {"channel_probability": 1.0, "zoom_range": (0.5, 0.5)}
    free, in_plane = (
        augment(plan_transforms(low_resolution=always | {"in_plane_only": flag}), image, label_map)[0]
        for flag in (False, True)
    )
    assert np.array_equal(free, in_plane)


@pytest.mark.parametrize("extent", [5, 16, 37])
def test_sources_along_an_axis_are_those_of_batchgenerators(extent):
    zooms = np.asarray([0.5, 0.55, 0.71, 0.8, 0.93, 0.99])
    line = np.random.default_rng(0).normal(size=extent).astype(np.float32)
    for zoom, first, second, share in zip(zooms, *find_sources(zooms, extent), strict=True):
        expected = augment_linear_downsampling_scipy(
            line[None, None].copy(), zoom_range=(zoom, zoom), order_downsample=0, order_upsample=1, ignore_axes=(0,)
        )
        assert np.allclose(line[first] + share * (line[second] - line[first]), expected[0, 0], atol=1e-5)


def test_an_axis_of_one_voxel_stays():
    assert [part.tolist() for part in find_sources(np.asarray([0.5]), 1)] == [[[0]], [[0]], [[0.0]]]
