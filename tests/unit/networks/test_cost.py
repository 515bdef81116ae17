"""What is counted on the meta device, beside what a real forward pass keeps and what is counted by hand."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoseg.network_cost import Convolution
from autoseg.networks import build_network
from autoseg.networks.cost import measure_cost, measure_module_cost
from autoseg.unet_cost import COUNTED_FAMILIES

FAMILIES = ("plain_unet", "residual_encoder_unet")
PATCHES = {2: ((16, 8), (32, 24)), 3: ((4, 8, 8), (8, 16, 12))}
CASES = [
    (family, dimensions, patch) for family in FAMILIES for dimensions, patches in PATCHES.items() for patch in patches
]


@pytest.mark.parametrize(("family", "dimensions", "patch"), CASES)
def test_a_real_forward_pass_keeps_as_many_bytes(make_plan, family, dimensions, patch):
    plan = make_plan(family, dimensions)
    counted = measure_cost(plan, patch, 2)
    real = measure_module_cost(build_network(plan), torch.zeros(2, plan.input_channels, *patch))
    assert counted.kept_bytes == pytest.approx(real.kept_bytes, rel=0.05)
    assert counted.convolutions == real.convolutions
    assert counted.normalized_elements == real.normalized_elements
    assert counted.output_elements == real.output_elements


@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize(("family", "dimensions", "patch"), CASES)
def test_the_closed_form_is_what_is_measured(make_plan, family, dimensions, patch, *, deep_supervision):
    plan = make_plan(family, dimensions, deep_supervision=deep_supervision)
    assert COUNTED_FAMILIES[family](plan, patch, 3) == measure_cost(plan, patch, 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_closed_form_holds_for_unequal_stages(make_plan, family):
    changes = {
        "features_per_stage": (4, 4, 8),
        "blocks_per_stage": (2, 1, 3),
        "convolutions_per_decoder_stage": (1, 3),
        "output_channels": 5,
    }
    plan = make_plan(family, 3, **changes)
    assert COUNTED_FAMILIES[family](plan, (8, 8, 16), 1) == measure_cost(plan, (8, 8, 16), 1)
    single = make_plan(
        family,
        2,
        features_per_stage=(8,),
        kernel_sizes=((3, 3),),
        strides=((1, 1),),
        blocks_per_stage=(2,),
        convolutions_per_decoder_stage=(),
    )
    assert COUNTED_FAMILIES[family](single, (6, 5), 2) == measure_cost(single, (6, 5), 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_closed_form_counts_the_weights_of_the_networks_of_all_planes(make_plan, family):
    plan = make_plan(family, 2).with_planes(3)
    assert COUNTED_FAMILIES[family](plan, PATCHES[2][0], 3) == measure_cost(plan, PATCHES[2][0], 3)


def test_parameters_are_those_of_the_network(make_plan):
    plan = make_plan("residual_encoder_unet", 3)
    cost = measure_cost(plan, PATCHES[3][0], 1)
    built = build_network(plan)
    assert cost.parameter_count == sum(parameter.numel() for parameter in built.parameters())
    assert cost.parameter_bytes == 4 * cost.parameter_count


def test_the_plain_network_of_the_reference_keeps_3_58_gigabytes(make_plan):
    plan = make_plan(
        "plain_unet",
        3,
        input_channels=1,
        features_per_stage=(32, 64, 128, 256, 320, 320),
        kernel_sizes=((3, 3, 3),) * 6,
        strides=((1, 1, 1), *((2, 2, 2),) * 5),
        blocks_per_stage=(2,) * 6,
        convolutions_per_decoder_stage=(2,) * 5,
    )
    assert measure_cost(plan, (128, 128, 128), 1).kept_bytes == pytest.approx(3.58e9, rel=0.001)


class Toy(nn.Module):
    """A convolution whose output an activation overwrites, then a grouped, a transposed and a last convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=4)
        self.transposed = nn.ConvTranspose2d(16, 4, 3, stride=2)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = functional.relu_(self.first(image))
        return (self.head(self.transposed(self.grouped(features))),)


def test_a_toy_costs_what_is_counted_by_hand():
    with torch.device("meta"):
        cost = measure_module_cost(Toy(), torch.empty(5, 2, 6, 10))
    voxels, enlarged = 6 * 10, 13 * 21
    # image; first feature map, overwritten by its activation; grouped; transposed: the inputs of the four convolutions
    assert cost.kept_bytes == 4 * 5 * (2 * voxels + 8 * voxels + 16 * voxels + 4 * enlarged)
    parameters = (9 * 2 * 8 + 8, 9 * 2 * 16 + 16, 9 * 16 * 4 + 4, 4 * 3 + 3)
    assert cost.parameter_count == sum(parameters)
    products = [5 * voxels * 9 * 2 * 8, 5 * voxels * 9 * 2 * 16, 5 * voxels * 9 * 16 * 4]
    assert cost.convolutions == tuple(
        Convolution(channels_in=inside, channels_out=outside, output_elements=5 * elements, multiply_adds=count)
        for (inside, outside, elements), count in zip(
            [(2, 8, 8 * voxels), (2, 4, 16 * voxels), (16, 4, 4 * enlarged)], products, strict=True
        )
    )
    assert cost.multiply_adds == sum(products) + 5 * enlarged * 4 * 3
    assert (cost.normalized_elements, cost.output_elements) == (0, 5 * 3 * enlarged)


class Attention(nn.Module):
    """Every voxel looks at every other one."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        tokens = self.norm(image.flatten(2).transpose(1, 2))
        return (functional.scaled_dot_product_attention(tokens, tokens, tokens),)


def test_the_map_of_attention_and_its_products_are_seen():
    def count(edge: int):
        with torch.device("meta"):
            return measure_module_cost(Attention(), torch.empty(1, 4, edge, edge))

    pairs = 24**4
    assert count(24).kept_bytes >= 4 * pairs
    assert count(24).kept_bytes > 10 * count(12).kept_bytes
    assert count(24).multiply_adds == count(24).matrix_multiply_adds == 2 * 4 * pairs
    assert count(24).normalized_elements == 4 * 24**2


def test_counting_draws_no_random_number_and_leaves_no_mode_behind(make_plan):
    state = torch.get_rng_state()
    measure_cost(make_plan(), PATCHES[3][0], 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.empty(1).device.type == "cpu"
