"""Attention that is added to the result of upsampling."""

import pytest
import torch

from autoseg.networks.cost import measure_module_cost
from autoseg.networks.initialization import initialize_weights
from autoseg.networks.parts.resampling import NonLocalUpsampling, UpsamplingStep
from autoseg.plan.network.contexts import NonLocalPlan
from autoseg.plan.network.layers import LayerPlan

LAYERS = LayerPlan(normalization="instance", activation="relu")


def build(stride: tuple[int, ...], *, below: int = 6, channels: int = 4, limit: int = 1000) -> NonLocalUpsampling:
    kernel = tuple(3 for _ in stride)
    step = UpsamplingStep("transposed", below, channels, stride=stride, kernel=kernel, layers=LAYERS)
    plan = NonLocalPlan(heads=2, tokens_limit=limit)
    return NonLocalUpsampling(plan, step, below, dimensions=len(stride))


@torch.no_grad()
@pytest.mark.parametrize("stride", [(2, 2), (1, 2, 2)])
def test_every_voxel_gets_the_mean_of_the_values_below_by_the_softmax_of_the_products(stride: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module, features = build(stride), torch.randn(2, 6, *(3,) * len(stride))
    enlarged = module.step(features)
    query, key, value = (
        part.flatten(2).unflatten(1, (2, 2))
        for part in (module.query(enlarged), module.key(features), module.value(features))
    )
    weights = torch.softmax(torch.einsum("bhdn,bhdm->bhnm", query, key) / 2**0.5, dim=-1)
    attended = torch.einsum("bhnm,bhdm->bhdn", weights, value).reshape(2, 4, *enlarged.shape[2:])
    torch.testing.assert_close(module(features), enlarged + module.output(attended), rtol=1e-4, atol=1e-5)
    assert module(features).shape[2:] == tuple(3 * step for step in stride)


@torch.no_grad()
def test_what_is_added_depends_on_no_positions_below() -> None:
    torch.manual_seed(0)
    module, features = build((2, 2)), torch.randn(1, 6, 4, 4)
    order = torch.randperm(16)
    shuffled = features.flatten(2)[:, :, order].reshape(features.shape)
    query = module.step(features)
    module.step = torch.nn.Identity()
    module.step.forward = lambda _: query  # the queries stay
    torch.testing.assert_close(module(shuffled), module(features), rtol=1e-4, atol=1e-5)


def test_the_map_of_all_pairs_is_not_kept_and_tokens_are_limited() -> None:
    kept = {}
    for limit in (64, 4096):
        with torch.device("meta"):
            module, features = build((2, 2), limit=limit), torch.empty(1, 6, 64, 64)
        tuple_of = torch.nn.Module()
        tuple_of.add_module("module", module)
        tuple_of.forward = lambda image, module=module: (module(image),)
        cost = measure_module_cost(tuple_of, features)
        kept[limit] = cost.kept_bytes
        assert cost.kept_bytes < 128 * 128 * 4096  # a hundredth of one map of 16384 x 4096 numbers would be more
        assert cost.matrix_multiply_adds == 2 * 2 * 128 * 128 * limit * 2
    assert kept[64] < kept[4096]


@torch.no_grad()
def test_attention_adds_nothing_before_training() -> None:
    module, features = build((2, 2)), torch.randn(1, 6, 4, 4)
    initialize_weights(module)
    assert torch.equal(module(features), module.step(features))
