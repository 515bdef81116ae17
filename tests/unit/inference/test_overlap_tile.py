"""Prediction with networks without padding, whose output is smaller than their input."""

import numpy as np
import pytest
import torch
from builders.networks import build_small_network_plan
from builders.plans import build_configuration

from autoseg.inference.sliding_window.prediction import predict_logits
from autoseg.inference.sliding_window.windows import compute_aligned_starts, compute_window_plan
from autoseg.networks import build_network
from autoseg.plan import ConfigurationPlan

CPU = torch.device("cpu")
LAYERS = {"normalization": "none", "activation": "relu"}
FINER = {"kernel_sizes": ((3, 3),) * 4, "strides": ((1, 1), (2, 2), (2, 2), (2, 2))}
FOUR_STAGES = {
    "features_per_stage": (2, 2, 2, 2),
    "decoder_features_per_stage": (2, 2, 2),
    "blocks_per_stage": (2,) * 4,
    "decoder_blocks_per_stage": (2,) * 3,
    **FINER,
}


def plan_tiles(patch, **changes) -> ConfigurationPlan:
    fields = {"input_channels": 1, "layers": LAYERS, **changes}
    network = build_small_network_plan("valid convolutions", len(patch), **fields)
    return build_configuration(patch, network=network, border="mirror")


def predict(image, patch, *, mirror_axes=(), step=0.5, **changes):
    configuration = plan_tiles(patch, **changes)
    network = build_network(configuration.network, torch.Generator().manual_seed(0)).eval()
    return predict_logits(
        network, image, configuration=configuration, mirror_axes=mirror_axes, device=CPU, step_fraction=step
    )


@pytest.mark.parametrize(
    ("shape", "whole", "tiles", "changes"),
    [
        ((1, 300, 300), (392, 392), [(184, 200), (312, 136)], FOUR_STAGES),
        ((2, 41, 25), (80, 48), [(60, 36), (80, 28)], {}),
        ((5, 21, 19), (22, 60, 50), [(20, 48, 44), (22, 60, 36)], {}),
    ],
    ids=["2D", "2D, anisotropic", "3D, anisotropic"],
)
def test_tiles_of_any_size_give_what_the_whole_image_gives_at_once(shape, whole, tiles, changes):
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))
    options = {"step": 1.0, **changes}
    expected = predict(image, whole, **options)
    for patch in tiles:
        torch.testing.assert_close(predict(image, patch, **options), expected, atol=1e-5, rtol=1e-5)


def test_overlapping_tiles_agree_in_all_mirrored_views():
    image = torch.randn(1, 1, 23, 21, generator=torch.Generator().manual_seed(1))
    options = {"mirror_axes": (0, 1), "step": 0.5}
    torch.testing.assert_close(
        predict(image, (56, 32), **options), predict(image, (64, 44), **options), atol=1e-5, rtol=1e-5
    )


def test_the_border_is_the_image_mirrored_at_its_outermost_voxels():
    image = torch.randn(1, 1, 9, 40, generator=torch.Generator().manual_seed(1))
    network = build_network(plan_tiles((48, 64)).network, torch.Generator().manual_seed(0)).eval()
    padded = np.pad(image[0, 0].numpy(), ((19, 20), (11, 13)), mode="reflect")  # half of 1 and 2 is no divisor
    with torch.inference_mode():
        (expected,) = network(torch.from_numpy(padded)[None, None])
    found = predict(image, (48, 64))
    torch.testing.assert_close(found[:, 0], expected[0, :, :9, :40], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("step", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("divisor", [1, 4, 16])
def test_aligned_windows_cover_an_axis_at_multiples_of_the_divisor(step, divisor):
    for window in (16, 37):
        for extent in range(1, 120):
            starts = compute_aligned_starts(extent, window, step, divisor)
            assert starts[0] == 0
            assert not any(start % divisor for start in starts)
            assert 0 <= max(0, starts[-1] + window - extent) < divisor + (window if len(starts) == 1 else 0)
            assert starts[-1] + window >= extent
            assert np.diff(starts).max(initial=0) <= max(divisor, step * window)


def test_windows_have_the_extents_of_the_output_and_patches_their_surroundings():
    plan = compute_window_plan((3, 30, 20), plan_tiles((60, 38)), 1.0)
    assert plan.margin_voxels == (0, 19, 11)
    assert plan.window_voxels == (1, 22, 16)
    assert plan.starts == ((0, 1, 2), (0, 8), (0, 4))
    assert plan.padding_voxels == ((0, 0), (0, 0), (0, 0))
    assert plan.image_padding_voxels == ((0, 0), (19, 19), (11, 11))
    assert plan.locate((2, 1, 0)) == (slice(None), slice(2, 3), slice(8, 30), slice(0, 16))
    assert plan.locate_patch((2, 1, 0)) == (slice(None), slice(2, 3), slice(8, 68), slice(0, 38))


def test_a_volume_is_padded_in_front_by_a_multiple_of_the_divisors():
    plan = compute_window_plan((3, 9, 17), plan_tiles((60, 38)), 1.0)
    assert plan.starts == ((0, 1, 2), (0,), (0, 2))
    assert plan.padding_voxels == ((0, 0), (4, 9), (0, 1))


def test_a_patch_that_its_margins_leave_too_little_of_is_refused():
    with pytest.raises(ValueError, match=r"patch_voxels.0 must be at least 42: margins of the network take 38 voxels"):
        plan_tiles((40, 28))
