"""What holds for the networks of every family."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autoseg.inference.execution.openvino_network import convert_network, find_openvino_version
from autoseg.inference.execution.preparation import prepare_network
from autoseg.networks import FAMILIES, SegmentationNetwork, build_network, read_weights, write_weights
from autoseg.plan import NETWORK_PLANS, NetworkPlan

CPU = torch.device("cpu")
each_family = pytest.mark.parametrize("family", FAMILIES)
each_dimension = pytest.mark.parametrize("dimensions", [2, 3])


def build_random_network(plan: NetworkPlan) -> SegmentationNetwork:
    """First weights with small changes, so that biases and normalizations matter as well."""
    generator = torch.Generator().manual_seed(0)
    network = build_network(plan, generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def draw_image(plan: NetworkPlan, batch: int = 2) -> Tensor:
    extents = (3 * plan.patch_divisors[0], *(4 * divisor for divisor in plan.patch_divisors[1:]))
    return torch.randn((batch, plan.input_channels, *extents), generator=torch.Generator().manual_seed(1))


def equals_up_to_rounding(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((found - expected).abs().mean() < tolerance * expected.std())


def test_there_are_families_and_every_plan_has_one() -> None:
    assert FAMILIES
    assert set(FAMILIES) == set(NETWORK_PLANS)
    assert all(NETWORK_PLANS[family].model_fields["family"].annotation.__args__ == (family,) for family in FAMILIES)


@each_family
@each_dimension
def test_the_first_output_has_the_shape_of_the_image_and_the_others_reduce_it(
    make_plan, family: str, dimensions: int
) -> None:
    plan = make_plan(family, dimensions)
    network, image = build_network(plan), draw_image(plan)
    outputs = network(image)
    assert outputs[0].shape == (2, plan.output_channels, *image.shape[2:])
    for output in outputs:
        assert output.shape[:2] == outputs[0].shape[:2]
        assert all(whole % part == 0 for whole, part in zip(outputs[0].shape[2:], output.shape[2:], strict=True))


@each_family
def test_every_output_has_a_weight_and_a_target_with_and_without_deep_supervision(make_plan, family: str) -> None:
    plan = make_plan(family)
    network, image = build_network(plan), draw_image(plan)
    for enabled in (True, False, True):
        network.set_deep_supervision(enabled=enabled)
        count = len(network(image))
        assert (len(network.output_weights), len(network.output_targets)) == (count, count)
        assert sum(network.output_weights) == pytest.approx(1)
        assert list(network.output_weights) == sorted(network.output_weights, reverse=True)
        assert enabled or count == 1


@each_family
def test_without_deep_supervision_the_prediction_is_the_same(make_plan, family: str) -> None:
    plan = make_plan(family)
    network, image = build_random_network(plan).eval(), draw_image(plan)
    outputs = network(image)
    with network.single_output():
        (only,) = network(image)
    assert len(network(image)) == len(outputs)
    torch.testing.assert_close(only, outputs[0])


@each_family
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_exactly_the_weights_that_require_a_gradient_receive_one(
    make_plan, family: str, *, deep_supervision: bool
) -> None:
    has_choice = "deep_supervision" in NETWORK_PLANS[family].model_fields
    plan = make_plan(family, **({"deep_supervision": deep_supervision} if has_choice else {}))
    network = build_random_network(plan)
    sum(output.square().sum() for output in network(draw_image(plan))).backward()
    received = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert received == {name for name, parameter in network.named_parameters() if parameter.requires_grad}


@each_family
@each_dimension
def test_in_evaluation_a_batch_gives_the_same_as_its_samples_one_by_one(
    make_plan, family: str, dimensions: int
) -> None:
    plan = make_plan(family, dimensions)
    network, image = build_random_network(plan).eval(), draw_image(plan, batch=3)
    before = copy.deepcopy(network.state_dict())
    together = network(image)[0]
    apart = torch.cat([network(sample[None])[0] for sample in image])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@each_family
def test_the_input_is_left_as_it_is(make_plan, family: str) -> None:
    plan = make_plan(family)
    image = draw_image(plan)
    build_random_network(plan)(image)
    assert torch.equal(image, draw_image(plan))


@each_family
def test_equal_states_of_the_source_give_equal_weights(make_plan, family: str) -> None:
    weights = []
    for global_seed, seed in ((1, 7), (2, 7), (2, 8)):
        torch.manual_seed(global_seed)
        weights.append(build_network(make_plan(family), torch.Generator().manual_seed(seed)).state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert any(not torch.equal(value, weights[2][name]) for name, value in weights[1].items())


@each_family
def test_a_step_in_bfloat16_autocast_gives_finite_gradients(make_plan, family: str) -> None:
    plan = make_plan(family)
    network = build_network(plan)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = network(draw_image(plan))
    sum(output.float().square().mean() for output in outputs).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)


@each_family
def test_weights_come_back_from_a_checkpoint(make_plan, family: str, tmp_path: Path) -> None:
    plan = make_plan(family)
    network, other = build_random_network(plan).eval(), build_network(plan).eval()
    write_weights(tmp_path / "checkpoint.safetensors", network.state_dict())
    other.load_state_dict(read_weights(tmp_path / "checkpoint.safetensors"))
    assert torch.equal(other(draw_image(plan))[0], network(draw_image(plan))[0])


@each_family
@each_dimension
@torch.inference_mode()
def test_prediction_in_bfloat16_agrees_up_to_its_precision_and_decides_in_single(
    make_plan, family: str, dimensions: int
) -> None:
    plan = make_plan(family, dimensions)
    network, image = build_random_network(plan).eval(), draw_image(plan)
    expected = network(image)[0]
    (found,) = prepare_network(network, device=CPU, dtype="bfloat16")(image)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    assert equals_up_to_rounding(found, expected, 0.03)
    is_rounded = torch.equal(found, found.bfloat16().float())
    assert is_rounded == (network.single_precision_modules is None)


@each_family
@torch.no_grad()
def test_a_prepared_network_is_one_graph_for_compilers(make_plan, family: str) -> None:
    plan = make_plan(family)
    network, image = prepare_network(build_random_network(plan), device=CPU, dtype="bfloat16"), draw_image(plan)
    graph = torch.export.export(network, (image,), strict=False).module()
    torch.testing.assert_close(graph(image)[0], network(image)[0])


@each_family
@pytest.mark.skipif(find_openvino_version() is None, reason="OpenVINO is not installed")
@torch.inference_mode()
def test_openvino_computes_the_network(make_plan, family: str) -> None:
    plan = make_plan(family)
    network, image = build_random_network(plan).eval(), draw_image(plan)
    network.set_deep_supervision(enabled=False)
    patch = tuple(image.shape[2:])
    converted: nn.Module = convert_network(network, channels=plan.input_channels, patch_voxels=patch, dtype="float32")
    torch.testing.assert_close(converted(image)[0], network(image)[0], rtol=1e-3, atol=1e-3)
