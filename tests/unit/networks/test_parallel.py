"""What holds for networks of parallel branches, beside the laws of all networks."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoseg.networks import build_network
from autoseg.networks.families.parallel import Exchange, ParallelNetwork, build_path
from autoseg.plan.network import ParallelPlan


def build(plan: ParallelPlan) -> ParallelNetwork:
    network = build_network(plan, torch.Generator().manual_seed(0))
    assert isinstance(network, ParallelNetwork)
    return network.eval()


def enlarge(features: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(features, size=like.shape[2:], mode="bilinear")


@torch.no_grad()
def test_an_exchange_sums_all_branches_at_the_resolution_of_each(make_plan) -> None:
    exchange = Exchange(make_plan("parallel", 2), 3, 3).eval()
    exchange.branches = nn.ModuleList([nn.Identity()] * 3)
    high, middle, low = torch.randn(1, 4, 8, 8), torch.randn(1, 6, 4, 4), torch.randn(1, 8, 2, 4)
    paths = exchange.paths
    expected = [
        high + enlarge(paths[0][1](middle), high) + enlarge(paths[0][2](low), high),
        paths[1][0](high) + middle + enlarge(paths[1][2](low), middle),
        paths[2][0](high) + paths[2][1](middle) + low,
    ]
    given = [branch.clone() for branch in (high, middle, low)]
    for found, wanted in zip(exchange([high, middle, low]), expected, strict=True):
        torch.testing.assert_close(found, wanted.relu())
    assert all(torch.equal(before, after) for before, after in zip(given, (high, middle, low), strict=True))


def test_features_go_down_by_strided_convolutions_and_up_by_one_of_a_voxel(make_plan) -> None:
    plan = make_plan("parallel", 2)
    shapes = {
        (origin, to): [tuple(weight.shape) for weight in build_path(plan, origin, to).parameters() if weight.ndim > 1]
        for origin in range(3)
        for to in range(3)
    }
    assert shapes[0, 0] == shapes[1, 1] == []
    assert shapes[0, 1] == [(6, 4, 3, 3)]
    assert shapes[0, 2] == [(4, 4, 3, 3), (8, 4, 3, 1)]  # the last kernel of the plan is flat
    assert shapes[2, 0] == [(4, 8, 1, 1)]


@torch.no_grad()
def test_v2_equals_v1_where_the_head_gives_lower_branches_no_weight(make_plan) -> None:
    v1, v2 = (build(make_plan("parallel", 2, head=head)) for head in ("v1", "v2"))
    weights = v1.state_dict()
    for name, value in v2.state_dict().items():
        if name not in weights:  # the last exchange of v1 has one output
            continue
        whole = torch.zeros_like(value)
        whole[tuple(slice(extent) for extent in weights[name].shape)] = weights[name]
        value.copy_(whole)
    image = torch.randn(1, 2, 32, 16)
    torch.testing.assert_close(v2(image)[0], v1(image)[0])


@torch.no_grad()
def test_a_single_branch_is_a_network_too(make_plan) -> None:
    plan = make_plan(
        "parallel",
        2,
        features_per_stage=(4,),
        strides=((1, 1),),
        kernel_sizes=((3, 3),),
        modules_per_stage=(),
    )
    assert build(plan)(torch.randn(1, 2, 8, 8))[0].shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"), [({"modules_per_stage": (1,)}, "modules_per_stage must describe the 3 stages")]
)
def test_every_number_of_branches_has_its_exchanges(make_plan, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan("parallel", 2, **changes)


def test_branches_of_a_network_with_a_stem_are_divided_by_all_strides(make_plan) -> None:
    assert make_plan("parallel", 3).patch_divisors == (2, 16, 8)
