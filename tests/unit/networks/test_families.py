"""What holds for the networks of every family."""

import copy
from pathlib import Path
from typing import Final

import pytest
import torch
from builders.networks import COMBINATIONS, SMALL_NETWORKS, build_small_network_plan
from torch import Tensor, nn

from autoseg.inference.execution.openvino_network import convert_network, find_openvino_version
from autoseg.inference.execution.preparation import prepare_network
from autoseg.networks import FAMILIES, SegmentationNetwork, build_network, read_weights, write_weights
from autoseg.networks.blocks import InstanceNormalization
from autoseg.networks.cost import measure_cost, measure_module_cost
from autoseg.networks.parts.detection import DecoupledHead
from autoseg.networks.parts.regions.heads import ProposalHead
from autoseg.plan import NETWORK_PLANS, NetworkPlan

CPU = torch.device("cpu")
each_network = pytest.mark.parametrize("name", SMALL_NETWORKS)
each_family = pytest.mark.parametrize("name", FAMILIES)
each_dimension = pytest.mark.parametrize("dimensions", [2, 3])


def build_random_network(plan: NetworkPlan) -> SegmentationNetwork:
    """First weights with small changes, so that biases and normalizations matter as well; detectors find boxes."""
    generator = torch.Generator().manual_seed(0)
    network = build_network(plan, generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        for module in network.modules():
            if isinstance(module, DecoupledHead | ProposalHead):
                module.scores.get_parameter("bias").zero_()
    return network


def draw_image(plan: NetworkPlan, batch: int = 2) -> Tensor:
    extents = [
        (count + -(-2 * margin // divisor)) * divisor
        for count, margin, divisor in zip((3, 4, 4), plan.margin_voxels, plan.patch_divisors, strict=False)
    ]
    return torch.randn((batch, plan.input_channels, *extents), generator=torch.Generator().manual_seed(1))


WITHOUT_OPENVINO: Final = {"context graph_unet", "mask_rcnn"}
"""Networks that choose voxels or regions by their values; prediction runs them in another way."""
GLOBAL_NETWORKS: Final = {
    "context spp": "averages over the whole patch",
    "attention se": "averages over the whole patch",
    "dilated": "averages over the whole patch",
    "dilated with dual attention": "attends to the whole patch",
    "context aspp": "averages over the whole patch",
    "upsampling attention": "attends to the whole patch",
    "context non_local": "attends to the whole patch",
    "context dual_attention": "attends to the whole patch",
    "context graph_unet": "keeps the nodes of the highest scores of the whole patch",
    "attention cbam": "averages over the whole patch",
    "attention scse": "averages over the whole patch",
    "attention dual_excitation": "averages over the whole patch",
    "plain_transformer": "attends to the whole patch",
    "additive_u mednext with response normalization": "normalizes by the norm over the whole patch",
    "latent_diffusion": "attends to the whole patch",
    "diffusion_unet": "attends to the whole patch",
    "diffusion_unet of noise with guidance": "attends to the whole patch",
    "label_autoencoder of Stable Diffusion": "attends to the whole patch",
    "hybrid_2d_3d": "has kernels of its own in each branch",
    "point_rend": "chooses the most uncertain voxels of the whole patch",
    "point_rend of the lowest level for regions": "chooses the most uncertain voxels of the whole patch",
    "detector": "draws the boxes of the highest scores of the whole patch",
    "detector of regions": "draws the boxes of the highest scores of the whole patch",
    "mask_rcnn": "draws the objects of the highest scores of the whole patch",
}
"""Networks that see the whole patch on purpose, whatever their kernels."""

ROUNDING: Final = {
    "block inception": 0.1,
    "block csp_rep": 0.1,
    "block multires": 0.3,
    "block rsu": 0.3,
    "detector": 0.1,
    "detector of regions": 0.1,
}
"""Networks of so many normalized layers, one after the other, that random weights amplify the rounding."""


def freeze_statistics(network: nn.Module) -> None:
    """Takes from the normalizations the statistics over space, which join all slices."""
    for name, module in list(network.named_modules()):
        if isinstance(module, InstanceNormalization | nn.GroupNorm):
            network.set_submodule(name, nn.Identity())


def equals_up_to_rounding(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((found - expected).abs().mean() < tolerance * expected.std())


def test_there_are_families_and_every_plan_has_one() -> None:
    assert FAMILIES
    assert set(FAMILIES) == set(NETWORK_PLANS)
    assert all(NETWORK_PLANS[family].model_fields["family"].annotation.__args__ == (family,) for family in FAMILIES)


@each_network
@each_dimension
def test_the_first_output_has_the_shape_of_the_image_without_margins_and_the_others_reduce_it(
    make_plan, name: str, dimensions: int
) -> None:
    plan = make_plan(name, dimensions)
    network, image = build_network(plan), draw_image(plan)
    outputs = network(image)
    inside = [extent - 2 * margin for extent, margin in zip(image.shape[2:], plan.margin_voxels, strict=True)]
    assert outputs[0].shape == (2, plan.output_channels, *inside)
    channels = {"labels": plan.output_channels, "edges": 1}
    for output, target in zip(outputs, network.output_targets, strict=True):
        assert output.shape[:2] == (2, channels[target])
        assert all(whole % part == 0 for whole, part in zip(outputs[0].shape[2:], output.shape[2:], strict=True))


@each_network
def test_every_output_has_a_weight_and_a_target_with_and_without_deep_supervision(make_plan, name: str) -> None:
    plan = make_plan(name)
    network, image = build_network(plan), draw_image(plan)
    for enabled in (True, False, True):
        network.set_deep_supervision(enabled=enabled)
        count = len(network(image))
        assert (len(network.output_weights), len(network.output_targets)) == (count, count)
        outputs = zip(network.output_weights, network.output_targets, strict=True)
        weights = [weight for weight, target in outputs if target == "labels"]
        assert sum(weights) == pytest.approx(1)
        assert weights == sorted(weights, reverse=True)
        assert network.output_targets[0] == "labels"
        assert count == (plan.trained_output_count if enabled else 1)


@each_network
def test_without_deep_supervision_the_prediction_is_the_same(make_plan, name: str) -> None:
    plan = make_plan(name)
    network, image = build_random_network(plan).eval(), draw_image(plan)
    outputs = network(image)
    with network.single_output():
        (only,) = network(image)
    assert len(network(image)) == len(outputs)
    torch.testing.assert_close(only, outputs[0])


@each_network
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_exactly_the_weights_that_require_a_gradient_receive_one(
    make_plan, name: str, *, deep_supervision: bool
) -> None:
    plan = make_plan(name)
    if "deep_supervision" in type(plan).model_fields:
        plan = make_plan(name, deep_supervision=deep_supervision)
    network = build_random_network(plan)
    sum(output.square().sum() for output in network(draw_image(plan))).backward()
    received = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert received == {name for name, parameter in network.named_parameters() if parameter.requires_grad}


@each_network
@each_dimension
def test_in_evaluation_a_batch_gives_the_same_as_its_samples_one_by_one(make_plan, name: str, dimensions: int) -> None:
    plan = make_plan(name, dimensions)
    network, image = build_random_network(plan).eval(), draw_image(plan, batch=3)
    before = copy.deepcopy(network.state_dict())
    together = network(image)[0]
    apart = torch.cat([network(sample[None])[0] for sample in image])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-2 * ROUNDING.get(name, 0.01))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@each_network
def test_the_input_is_left_as_it_is(make_plan, name: str) -> None:
    plan = make_plan(name)
    image = draw_image(plan)
    build_random_network(plan)(image)
    assert torch.equal(image, draw_image(plan))


@each_network
def test_equal_states_of_the_source_give_equal_weights(make_plan, name: str) -> None:
    weights = []
    for global_seed, seed in ((1, 7), (2, 7), (2, 8)):
        torch.manual_seed(global_seed)
        weights.append(build_network(make_plan(name), torch.Generator().manual_seed(seed)).state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert any(not torch.equal(value, weights[2][name]) for name, value in weights[1].items())


@each_network
def test_a_step_in_bfloat16_autocast_gives_finite_gradients(make_plan, name: str) -> None:
    plan = make_plan(name)
    network = build_network(plan)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = network(draw_image(plan))
    sum(output.float().square().mean() for output in outputs).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)


@each_family
def test_weights_come_back_from_a_checkpoint(make_plan, name: str, tmp_path: Path) -> None:
    plan = make_plan(name)
    network, other = build_random_network(plan).eval(), build_network(plan).eval()
    write_weights(tmp_path / "checkpoint.safetensors", network.state_dict())
    other.load_state_dict(read_weights(tmp_path / "checkpoint.safetensors"))
    assert torch.equal(other(draw_image(plan))[0], network(draw_image(plan))[0])


@each_network
@each_dimension
@torch.inference_mode()
def test_prediction_in_bfloat16_agrees_up_to_its_precision_and_decides_in_single(
    make_plan, name: str, dimensions: int
) -> None:
    plan = make_plan(name, dimensions)
    network, image = build_random_network(plan).eval(), draw_image(plan)
    expected = network(image)[0]
    (found,) = prepare_network(network, device=CPU, dtype="bfloat16")(image)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    assert equals_up_to_rounding(found, expected, ROUNDING.get(name, 0.03))
    is_rounded = torch.equal(found, found.bfloat16().float())
    assert is_rounded == (network.single_precision_modules is None)


@each_family
@torch.no_grad()
def test_a_prepared_network_is_one_graph_for_compilers(make_plan, name: str) -> None:
    plan = make_plan(name)
    network, image = prepare_network(build_random_network(plan), device=CPU, dtype="bfloat16"), draw_image(plan)
    graph = torch.export.export(network, (image,), strict=False).module()
    torch.testing.assert_close(graph(image)[0], network(image)[0])


@each_network
@pytest.mark.skipif(find_openvino_version() is None, reason="OpenVINO is not installed")
@torch.inference_mode()
def test_openvino_computes_the_network(make_plan, name: str) -> None:
    plan = make_plan(name)
    network, image = build_random_network(plan).eval(), draw_image(plan)
    network.set_deep_supervision(enabled=False)
    patch = tuple(image.shape[2:])
    if name in WITHOUT_OPENVINO:
        with pytest.raises(RuntimeError):
            convert_network(network, channels=plan.input_channels, patch_voxels=patch, dtype="float32")
        return
    converted: nn.Module = convert_network(network, channels=plan.input_channels, patch_voxels=patch, dtype="float32")
    torch.testing.assert_close(converted(image)[0], network(image)[0], rtol=1e-3, atol=1e-3)


@each_network
@each_dimension
def test_the_counted_cost_is_that_of_a_computed_pass(make_plan, name: str, dimensions: int) -> None:
    plan = make_plan(name, dimensions)
    network, image = build_network(plan), draw_image(plan)
    computed = measure_module_cost(network, image)
    counted = measure_cost(plan, tuple(image.shape[2:]), len(image))
    assert counted.kept_bytes == pytest.approx(computed.kept_bytes, rel=0.05)
    assert counted.parameter_count == sum(parameter.numel() for parameter in network.parameters())
    assert counted.multiply_adds == computed.multiply_adds > 0


@each_network
def test_kernels_of_one_voxel_do_not_mix_slices(make_plan, name: str) -> None:
    """With kernels and strides of one along an axis in all stages, a slice of the logits depends on its own alone."""
    if name in GLOBAL_NETWORKS:
        pytest.skip(f"{name}: {GLOBAL_NETWORKS[name]}")
    flat = {"kernel_sizes": ((1, 3, 3),) * 3, "strides": ((1, 1, 1), (1, 2, 2), (1, 2, 2))}
    plan = make_plan(name, 3, **flat)
    network, image = build_random_network(plan).eval(), draw_image(plan)
    freeze_statistics(network)
    changed = image.clone()
    changed[:, :, 1] += 1
    difference = (network(changed)[0] - network(image)[0]).abs().amax(dim=(0, 1, 3, 4))
    assert difference[1] > 0
    assert difference[0] == difference[2] == 0


@pytest.mark.parametrize(("name", "dimensions"), [(name, 2 + index % 2) for index, name in enumerate(COMBINATIONS)])
def test_parts_that_no_paper_combines_make_a_network_with_gradients_and_the_counted_cost(
    make_plan, name: str, dimensions: int
) -> None:
    plan = make_plan(name, dimensions)
    network, image = build_random_network(plan), draw_image(plan)
    computed, counted = measure_module_cost(network, image), measure_cost(plan, tuple(image.shape[2:]), len(image))
    assert counted.kept_bytes == pytest.approx(computed.kept_bytes, rel=0.05)
    assert counted.multiply_adds == computed.multiply_adds > 0
    outputs = network(image)
    assert outputs[0].shape == (2, plan.output_channels, *image.shape[2:])
    sum(output.square().mean() for output in outputs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)
    with torch.inference_mode():
        network.eval()
        assert equals_up_to_rounding(network(image[:1])[0], network(image)[0][:1], 0.01)


def count_overwritten_views(outputs: tuple[Tensor, ...]) -> int:
    """Counts the places of a graph where a view was overwritten, which copies gradients in the backward pass."""
    seen, waiting, count = set(), [output.grad_fn for output in outputs], 0
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            count += node.name() == "CopySlices"
            waiting += [before for before, _ in node.next_functions]
    return count


@each_network
def test_no_view_is_overwritten_on_a_gpu_and_no_gradient_copied(name: str) -> None:
    dimensions = 3 if name == "hybrid_2d_3d" else 2
    plan = build_small_network_plan(name, dimensions)
    image = draw_image(plan).to("meta")  # where networks normalize in the form that a GPU takes
    with image.device:
        outputs = build_network(plan).train()(image)
    assert any(output.requires_grad for output in outputs)
    assert count_overwritten_views(outputs) == 0
