"""U-shaped networks without padding: their margins, and what they cannot be made of."""

from typing import Any

import pytest
from builders.networks import build_small_network_plan
from pydantic import ValidationError


def plan_valid(dimensions: int = 2, **changes: Any):
    return build_small_network_plan("valid convolutions", dimensions, **changes)


def plan_stages(count: int, dimensions: int, **changes: Any):
    fields = {
        "features_per_stage": (2,) * count,
        "decoder_features_per_stage": (2,) * (count - 1),
        "blocks_per_stage": (2,) * count,
        "decoder_blocks_per_stage": (2,) * (count - 1),
        "kernel_sizes": ((3,) * dimensions,) * count,
        "strides": ((1,) * dimensions, *((2,) * dimensions,) * (count - 1)),
    }
    return plan_valid(dimensions, **fields | changes)


@pytest.mark.parametrize(
    ("stages", "dimensions", "cropped", "lost"),
    [(5, 2, 4, 184), (4, 3, 4, 88), (4, 2, 4, 88), (3, 2, 0, 40), (1, 2, 0, 4)],
)
def test_margins_hold_what_is_cropped_from_multiples_of_the_divisors_and_what_convolutions_take(
    stages: int, dimensions: int, cropped: int, lost: int
) -> None:
    plan = plan_stages(stages, dimensions)
    assert plan.count_cropped(plan.patch_divisors) == (cropped,) * dimensions
    assert plan.margin_voxels == ((cropped + lost) // 2,) * dimensions


def test_nothing_is_cropped_from_extents_that_fit() -> None:
    plan = plan_stages(5, 2)
    assert plan.count_cropped((572, 573)) == (0, 1)
    assert plan.count_cropped((570, 588)) == (14, 0)


def test_an_even_number_of_voxels_is_cropped_where_a_stride_is_odd() -> None:
    plan = plan_stages(2, 2, strides=((1, 1), (3, 5)))
    assert plan.count_cropped(plan.patch_divisors) == (2, 6)
    assert plan.margin_voxels == ((2 + 4 + 12 + 4) // 2, (6 + 4 + 20 + 4) // 2)


def test_kernels_of_one_voxel_take_none() -> None:
    assert plan_valid(3, kernel_sizes=((1, 3, 3),) * 3, strides=((1, 1, 1), (1, 2, 2), (2, 2, 2))).margin_voxels[0] == 0


def test_networks_with_padding_have_no_margins() -> None:
    assert build_small_network_plan("u_shaped", 3).margin_voxels == (0, 0, 0)
    assert build_small_network_plan("plain_unet", 2).margin_voxels == (0, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": {"name": "residual"}}, "padding must be 'same' with block 'residual'"),
        ({"decoder_block": {"name": "separable"}}, "padding must be 'same' with decoder_block 'separable'"),
        ({"skip": {"name": "residual_path"}}, "padding must be 'same' with skip 'residual_path'"),
        ({"contexts": ({"name": "spp", "grids": (1,)},)}, "padding must be 'same' with context 'spp'"),
        ({"attention": {"name": "se", "reduction": 2}}, "padding must be 'same' with attention 'se'"),
        (
            {"upsampling": "nearest_convolution", "skip": {"name": "residual_path"}},
            "padding must be 'same' with skip 'residual_path', upsampling 'nearest_convolution'",
        ),
        ({"output_weights": (1.0, 0.5)}, "output_weights must hold one weight where padding is 'valid'"),
    ],
)
def test_what_needs_padding_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        plan_valid(**changes)


def test_the_padding_is_named_among_the_parts() -> None:
    assert plan_valid().describe()["parts"] == "plain, concatenation, instance, leaky_relu, valid convolutions"
