"""What holds for nested U-shaped networks, beside the laws of all networks."""

import pytest
import torch
from builders.networks import SMALL_NETWORKS
from torch import Tensor, nn

from autoseg.networks import build_network
from autoseg.networks.cost import META
from autoseg.plan.network import NestedUPlan
from planners import ARCHITECTURES


def build_plan(make_plan, **changes: object) -> NestedUPlan:
    plan = make_plan("nested_u", 2, **changes)
    assert isinstance(plan, NestedUPlan)
    return plan


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 2])
def test_a_pruned_network_computes_the_logits_of_its_column_with_fewer_weights(make_plan, depth: int) -> None:
    plan = build_plan(make_plan)
    whole, image = build_network(plan).eval(), torch.randn(1, 2, 16, 8)
    pruned = build_network(plan.prune(depth)).eval()
    weights = whole.state_dict()
    pruned.load_state_dict({name: weights[name] for name in pruned.state_dict()})
    expected: Tensor = whole(image)[plan.depth - depth]
    torch.testing.assert_close(pruned(image)[0], expected, rtol=1e-6, atol=1e-6)
    assert len(pruned.output_weights) == depth
    assert (count_parameters(pruned) < count_parameters(whole)) == (depth < plan.depth)


@pytest.mark.parametrize(
    ("changes", "depths"),
    [({}, (1,)), ({"output_weights": (1.0,)}, ()), ({"depth": 1, "output_weights": (1.0,)}, ())],
)
def test_the_columns_before_the_last_that_have_an_output_are_listed(make_plan, changes, depths) -> None:
    assert build_plan(make_plan, **changes).list_pruned_depths() == depths


def test_every_depth_that_a_plan_lists_is_a_part_of_its_network(make_plan) -> None:
    plans = [plan for plan in map(make_plan, SMALL_NETWORKS) if plan.list_pruned_depths()]
    assert plans
    for plan, depth in ((each, depth) for each in plans for depth in each.list_pruned_depths()):
        with META:
            networks = [build_network(each) for each in (plan.prune(depth), plan)]
        part, whole = ({key: tensor.shape for key, tensor in each.state_dict().items()} for each in networks)
        assert part.items() < whole.items()


def test_a_pruned_network_takes_patches_that_only_its_own_strides_divide(make_plan) -> None:
    plan = build_plan(make_plan)
    assert (plan.patch_divisors, plan.prune(1).patch_divisors) == ((4, 2), (2, 2))


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_only_columns_with_an_output_can_be_pruned_to(make_plan, depth: int) -> None:
    plan = build_plan(make_plan, output_weights=(1.0,))
    with pytest.raises(ValueError, match=rf"depth must be one of 2 to 2, .* \(got {depth}\)"):
        plan.prune(depth)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"depth": 3}, "depth must be at most 2"), ({"depth": 1}, "output_weights must hold at most 1 weights")],
)
def test_a_depth_without_stages_or_outputs_is_refused(make_plan, changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan("nested_u", 2, **changes)


def test_all_outputs_have_the_full_resolution_and_count_alike(make_plan) -> None:
    network, image = build_network(build_plan(make_plan)), torch.randn(1, 2, 16, 8)
    assert [output.shape[2:] for output in network(image)] == [image.shape[2:]] * 2
    assert network.output_weights == (0.5, 0.5)


def test_the_smallest_published_network_has_a_hundredth_of_the_weights() -> None:
    plan = ARCHITECTURES["unet_plus_plus"].published[1].plan
    assert isinstance(plan, NestedUPlan)
    with META:
        sizes = [count_parameters(build_network(plan.prune(depth))) for depth in (1, 4)]
    assert sizes == [100_961, 9_041_700]
