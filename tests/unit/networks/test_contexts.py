"""What holds for single context modules."""

from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn

from autoseg.networks import build_network
from autoseg.networks.cost import META, measure_module_cost
from autoseg.networks.families.u_shaped import Bottleneck
from autoseg.networks.initialization import initialize_weights
from autoseg.networks.parts.contexts import build_context
from autoseg.networks.parts.contexts.context import Context, ContextSite
from autoseg.networks.parts.contexts.dual_attention import ChannelAttention, LearntScale, PositionAttention
from autoseg.networks.parts.contexts.graph_unet import GraphPooling, GraphUNet, join_face_neighbours, unpool
from autoseg.networks.parts.layers import build_kernel
from autoseg.plan.network.contexts import CONTEXT_PLANS
from autoseg.plan.network.layers import LayerPlan

BATCH: Final = LayerPlan(normalization="batch", activation="relu")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def build(name: str, channels: int, kernel: tuple[int, ...] = (3, 3), /, **fields: Any) -> Context:
    site = ContextSite(channels=channels, kernel=kernel, layers=BATCH)
    return build_context(CONTEXT_PLANS[name].model_validate({"name": name, **fields}), site)


def measure_supports(module: nn.Module, extents: tuple[int, ...]) -> tuple[int, ...]:
    """The extents of the response to an impulse in the middle."""
    impulse = torch.zeros(1, 1, *extents)
    impulse[(0, 0, *(extent // 2 for extent in extents))] = 1
    places = module(impulse)[0, 0].nonzero()
    return tuple((places.amax(dim=0) - places.amin(dim=0) + 1).tolist())


def test_a_dilated_pyramid_has_the_published_number_of_weights() -> None:
    with META:
        module = build("aspp", 2048, channels=256, dilations=(6, 12, 18))
    assert sum(parameter.numel() for parameter in module.parameters()) == 15_535_104
    assert module.channels_out == 256


@torch.no_grad()
@pytest.mark.parametrize("normalization", ["batch", "instance", "group", "layer", "none"])
def test_the_mean_branch_of_a_dilated_pyramid_counts_in_a_batch_of_one(normalization: str) -> None:
    layers = LayerPlan.model_validate({"normalization": normalization, "activation": "relu"})
    plan = CONTEXT_PLANS["aspp"].model_validate({"channels": 4, "dilations": (1,)})
    module = build_context(plan, ContextSite(channels=4, kernel=(3, 3), layers=layers)).eval()
    features = torch.randn(1, 4, 9, 9, generator=torch.Generator().manual_seed(0))
    changed = features.clone()
    changed[..., 8, 8] += 100
    assert not torch.equal(module(changed)[..., 0, 0], module(features)[..., 0, 0])
    assert module.train()(features).isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("kernel", [(3, 3), (1, 3, 3)])
def test_the_cascades_of_dense_dilation_see_3_7_9_and_19_voxels(kernel: tuple[int, ...]) -> None:
    module = build("dac", 1, kernel)
    for parameter in module.parameters():
        nn.init.constant_(parameter, float(parameter.ndim > 1))  # weights 1, biases 0
    near, middle, far = (module.get_submodule(name) for name in ("near", "middle", "far"))
    cascades = (
        near,
        middle,
        nn.Sequential(near, middle),
        nn.Sequential(near, middle, far),
        module,
    )
    extents = tuple(25 if extent > 1 else 3 for extent in kernel)
    supports = [measure_supports(cascade, extents) for cascade in cascades]
    assert supports == [tuple(size if extent > 1 else 1 for extent in kernel) for size in (3, 7, 9, 19, 19)]


@torch.no_grad()
def test_multi_kernel_pooling_adds_one_channel_of_reduced_maxima_per_size() -> None:
    module = build("rmp", 1, kernels=(2, 4))
    nn.init.ones_(module.get_parameter("reduction.weight"))
    nn.init.zeros_(module.get_parameter("reduction.bias"))
    features = torch.arange(16.0).view(1, 1, 4, 4)
    small, large, own = module(features)[0]
    assert torch.equal(small[[0, 0, 3, 3], [0, 3, 0, 3]], torch.tensor([5.0, 7, 13, 15]))
    assert torch.equal(large, torch.full((4, 4), 15.0))
    assert torch.equal(own, features[0, 0])


@torch.no_grad()
def test_multi_kernel_pooling_takes_features_that_are_smaller_than_its_blocks() -> None:
    assert build("rmp", 2, (3, 3, 3), kernels=(6,))(torch.zeros(1, 2, 2, 3, 2)).shape == (1, 3, 2, 3, 2)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "fields"),
    [("non_local", {"heads": 2, "tokens_limit": 16}), ("dual_attention", {"reduction": 2, "tokens_limit": 16})],
)
def test_attention_to_all_voxels_knows_nothing_of_their_order(name: str, fields: dict[str, int]) -> None:
    module = build(name, 4, **fields)
    for part in module.modules():
        if isinstance(part, LearntScale):
            nn.init.constant_(part.factor, 0.5)
    generator = torch.Generator().manual_seed(0)
    features, order = torch.randn(2, 4, 16, generator=generator), torch.randperm(16, generator=generator)
    given = module(features.view(2, 4, 4, 4)).flatten(2)
    torch.testing.assert_close(module(features[..., order].view(2, 4, 4, 4)).flatten(2), given[..., order])


@torch.no_grad()
def test_attention_adds_nothing_before_training() -> None:
    module, features = build("non_local", 16, heads=2, tokens_limit=8), torch.randn(1, 16, 4, 4)
    assert not torch.equal(module(features), features)
    initialize_weights(module)
    assert torch.equal(module(features), features)


def test_the_cost_of_attention_has_the_map_of_voxels_by_tokens() -> None:
    kept = {}
    for limit in (8, 64):
        with META:
            module, features = build("non_local", 4, heads=2, tokens_limit=limit), torch.empty(1, 4, 8, 8)
        kept[limit] = measure_module_cost(AsTuple(module), features).kept_bytes
    tokens = 64 - 8
    # The softmax keeps its result: 64 voxels by tokens, for 2 heads. Keys, values and pooled features are the rest.
    assert kept[64] - kept[8] >= 2 * 64 * tokens * 4
    assert kept[64] - kept[8] <= 2 * 64 * tokens * 4 + 5 * 4 * tokens * 4


class AsTuple(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, features: Tensor) -> tuple[Tensor]:
        return (self.module(features),)


@torch.no_grad()
def test_dual_attention_is_the_identity_at_first() -> None:
    features = torch.randn(2, 4, 3, 5)
    assert torch.equal(build("dual_attention", 4, reduction=2, tokens_limit=99)(features), features)


@torch.no_grad()
def test_attention_between_channels_equals_what_is_computed_by_hand() -> None:
    module = ChannelAttention()
    nn.init.constant_(module.scale.factor, 2)
    # Channels (1, 0) and (0, 1): products 1 with themselves, 0 with each other; the softmax is (e, 1) / (e + 1).
    large, small = torch.e / (torch.e + 1), 1 / (torch.e + 1)
    expected = 2 * torch.tensor([[large, small], [small, large]])
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(module(features.view(1, 2, 1, 2)).view(2, 2), expected)


@torch.no_grad()
def test_attention_between_channels_stays_finite_in_float16() -> None:
    module = ChannelAttention()
    nn.init.constant_(module.scale.factor, 1)
    features = torch.full((1, 2, 64, 64), 30.0)  # products of 3.7 million, of which float16 knows none
    found = module.half()(features.half()).float()
    torch.testing.assert_close(found, features, rtol=0.01, atol=0)


@torch.no_grad()
def test_attention_between_positions_equals_what_is_computed_by_hand() -> None:
    plan = CONTEXT_PLANS["dual_attention"].model_validate({"reduction": 1, "tokens_limit": 9})
    module = PositionAttention(plan, 1, (1, 1))  # type: ignore[arg-type]  # the row's class
    for name, value in (("query", 1.0), ("key", 1.0), ("value", 3.0)):
        nn.init.constant_(module.get_parameter(f"{name}.weight"), value)
        nn.init.zeros_(module.get_parameter(f"{name}.bias"))
    nn.init.constant_(module.scale.factor, 0.5)
    # Positions 0 and 1: queries equal keys, so the weights are (1/2, 1/2) for the 0 and (1, e) / (1 + e) for the 1.
    expected = 0.5 * 3 * torch.tensor([0.5, torch.e / (1 + torch.e)])
    torch.testing.assert_close(module(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)).flatten(), expected)


@torch.no_grad()
def test_unpooling_puts_nodes_back_to_where_they_were() -> None:
    pooling = GraphPooling(3, 0.5)
    nodes = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    kept, below, joined = pooling(nodes, torch.eye(6).expand(2, 6, 6))
    restored = unpool(below, kept, 6)
    scales = pooling.score(nodes).tanh()[..., None]
    for sample in range(2):
        rows = kept[sample]
        assert len(rows) == 3
        torch.testing.assert_close(restored[sample, rows], (nodes * scales)[sample, rows])
        others = [node for node in range(6) if node not in rows]
        assert not restored[sample, others].any()
    assert torch.equal(joined, torch.eye(3).expand(2, 3, 3))


@torch.no_grad()
def test_a_graph_unet_follows_the_order_of_the_nodes() -> None:
    module = build("graph_unet", 16, kept_fractions=(0.75, 0.5))  # so many channels that no two scores are equal
    assert isinstance(module, GraphUNet)
    generator = torch.Generator().manual_seed(0)
    nodes, order = torch.randn(1, 12, 16, generator=generator), torch.randperm(12, generator=generator)
    joined = join_face_neighbours((3, 4), torch.device("cpu"))
    given = module.compute(nodes, joined[None])
    found = module.compute(nodes[:, order], joined[order][:, order][None])
    torch.testing.assert_close(found, given[:, order])


def test_voxels_that_share_a_face_are_neighbours() -> None:
    joined = join_face_neighbours((2, 3), torch.device("cpu"))
    assert joined.tolist() == [
        [1, 1, 0, 1, 0, 0],
        [1, 1, 1, 0, 1, 0],
        [0, 1, 1, 0, 0, 1],
        [1, 0, 0, 1, 1, 0],
        [0, 1, 0, 1, 1, 1],
        [0, 0, 1, 0, 1, 1],
    ]


@torch.no_grad()
def test_two_steps_join_the_nodes_that_a_graph_pooling_keeps() -> None:
    pooling = GraphPooling(1, 0.5)
    nn.init.ones_(pooling.score.direction)
    chain = join_face_neighbours((1, 4), torch.device("cpu"))[None]
    _, _, joined = pooling(torch.tensor([4.0, 0, 3, 1])[None, :, None], chain)
    assert torch.equal(joined, torch.ones(1, 2, 2))
    _, _, joined = pooling(torch.tensor([4.0, 0, 1, 3])[None, :, None], chain)
    assert torch.equal(joined, torch.eye(2)[None])


@torch.no_grad()
@pytest.mark.parametrize(("rates", "step"), [((2, 2, 2), 2), ((1, 2, 5), 1)])
def test_equal_rates_of_dilation_leave_gaps_and_a_hybrid_does_not(rates: tuple[int, ...], step: int) -> None:
    module = nn.Sequential(*(build_kernel(1, 1, (3, 3), dilation=rate, bias=False) for rate in rates))
    for parameter in module.parameters():
        nn.init.ones_(parameter)
    impulse = torch.zeros(1, 1, 21, 21)
    impulse[0, 0, 10, 10] = 1
    reach = sum(rates)
    met = module(impulse)[0, 0, 10, 10 - reach : 11 + reach].nonzero().flatten().tolist()
    assert met == list(range(0, 2 * reach + 1, step))


@torch.no_grad()
def test_contexts_of_a_network_follow_each_other(make_plan) -> None:
    contexts = (
        {"name": "aspp", "channels": 6, "dilations": (1,)},
        {"name": "non_local", "heads": 2, "tokens_limit": 64},
        {"name": "dac"},
        {"name": "rmp", "kernels": (2, 3)},
    )
    plan = make_plan("u_shaped", 2, contexts=contexts)
    bottleneck = Bottleneck(plan, channels_in=plan.features_per_stage[-1]).eval()
    assert bottleneck.channels_out == 6 + 2
    features = torch.randn(1, plan.features_per_stage[-1], 4, 5)
    expected = features
    for module in bottleneck.contexts:
        expected = module(expected)
    assert torch.equal(bottleneck(features), expected)
    assert build_network(plan)(torch.randn(1, 2, 8, 8))[0].shape == (1, 3, 8, 8)
