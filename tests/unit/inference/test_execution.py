import copy
from collections import Counter

import pytest
import torch
from builders.operations import record_operations
from builders.plans import build_configuration
from torch import nn
from torch.nn import functional

from autoseg.inference.execution import preparation as execution
from autoseg.inference.execution.preparation import ChannelsLastNorm, SingleHead, prepare_network
from autoseg.networks import build_network
from autoseg.networks.blocks import CHANNELS_LAST, InstanceNormalization, build_head
from autoseg.plan import NETWORK_PLANS

CPU = torch.device("cpu")


@pytest.fixture
def build():
    def build(dimensions=3, family="plain_unet", **changes):
        values = build_configuration((16,) * dimensions).network.model_dump() | {"family": family} | changes
        plan = NETWORK_PLANS[family].model_validate(values)
        network = build_network(plan, torch.Generator().manual_seed(0)).eval()
        network.set_deep_supervision(enabled=False)
        return network

    return build


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("family", ["plain_unet", "residual_encoder_unet"])
@torch.inference_mode()
def test_a_reduced_network_agrees_with_the_reference_up_to_its_precision(build, dimensions, family):
    network = build(dimensions, family, features_per_stage=(8, 12))
    reduced = prepare_network(copy.deepcopy(network), device=CPU, dtype="bfloat16")
    image = torch.randn(2, 1, *(16,) * dimensions)
    expected, found = network(image)[0], reduced(image)[0]
    assert found.dtype == torch.float32
    error = (found - expected).abs()
    assert 0 < error.mean() < 0.02 * expected.std()


@torch.inference_mode()
def test_single_precision_leaves_the_network_as_it_is(build):
    network = build()
    expected = network(torch.ones(1, 1, 8, 8, 8))[0]
    prepared = prepare_network(network, device=CPU, dtype="float32")
    assert torch.equal(prepared(torch.ones(1, 1, 8, 8, 8))[0], expected)
    assert not any(parameter.requires_grad for parameter in prepared.parameters())


def test_only_convolutions_but_the_last_are_reduced(build):
    reduced = prepare_network(build(), device=CPU, dtype="bfloat16")
    types = {name.removeprefix("network."): tensor.dtype for name, tensor in reduced.state_dict().items()}
    convolutions = {name for name in types if "convolution" in name or "upsampling" in name}
    assert len(convolutions) > 4
    assert all((types[name] == torch.bfloat16) == (name in convolutions) for name in types)


def test_the_weights_of_the_last_convolution_are_not_rounded(build):
    network = build()
    before = network.heads[0].weight.clone()
    reduced = prepare_network(network, device=CPU, dtype="bfloat16")
    assert torch.equal(reduced.network.heads[0].weight, before.flatten(1))


@pytest.mark.parametrize(("kind", "layout"), [(2, torch.channels_last), (3, torch.channels_last_3d)])
@pytest.mark.parametrize(("is_large", "offset"), [(False, 1.0), (True, 0.0), (True, 1.0), (True, 100.0)])
@torch.inference_mode()
def test_the_norm_is_instance_normalization_and_keeps_channels_last(monkeypatch, kind, *, layout, is_large, offset):
    monkeypatch.setattr(execution, "LARGE_FEATURES", 1 if is_large else 2**25)
    monkeypatch.setattr(execution, "PART_VOXELS", 20)
    norm = InstanceNormalization(6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    features = (3 * torch.randn(2, 6, *(7,) * kind) + offset).contiguous(memory_format=layout)
    expected = functional.instance_norm(features, weight=norm.weight, bias=norm.bias)
    found = ChannelsLastNorm(norm, layout)(features)
    assert found.is_contiguous(memory_format=layout)
    assert (found.data_ptr() == features.data_ptr()) == is_large, "large features are overwritten"
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4)


@torch.inference_mode()
def test_a_channel_without_variance_becomes_its_shift(monkeypatch):
    monkeypatch.setattr(execution, "LARGE_FEATURES", 1)
    norm = InstanceNormalization(2)
    nn.init.constant_(norm.bias, 0.5)
    features = torch.full((1, 2, 5, 6, 7), 3.0).contiguous(memory_format=torch.channels_last_3d)
    assert (ChannelsLastNorm(norm, torch.channels_last_3d)(features) == 0.5).all()


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("is_last", [False, True])
@torch.inference_mode()
def test_the_last_convolution_is_that_of_pytorch(dimensions, is_last):
    head = build_head(5, 3, dimensions)
    layouts = {2: torch.channels_last, 3: torch.channels_last_3d}
    layout = layouts[dimensions] if is_last else torch.contiguous_format
    features = torch.randn(2, 5, *(6, 7, 8)[:dimensions]).contiguous(memory_format=layout)
    torch.testing.assert_close(SingleHead(head)(features), head(features), atol=1e-6, rtol=1e-6)


@torch.inference_mode()
def test_the_features_of_a_reduced_network_stay_channels_last(build):
    reduced = prepare_network(build(features_per_stage=(8, 12)), device=CPU, dtype="bfloat16")
    layouts = []
    for module in reduced.modules():
        if isinstance(module, ChannelsLastNorm):
            module.register_forward_pre_hook(
                lambda _, given: layouts.append(given[0].is_contiguous(memory_format=torch.channels_last_3d))
            )
    reduced(torch.randn(2, 1, 16, 16, 16))
    assert len(layouts) > 2
    assert all(layouts[1:])  # the input of one channel has no layout to keep


@pytest.mark.parametrize("dimensions", [2, 3])
@torch.inference_mode()
def test_the_last_convolution_on_a_gpu_takes_one_product_for_many_slices(dimensions, monkeypatch):
    monkeypatch.setattr(execution, "is_on_cpu", lambda features: False)
    head = SingleHead(build_head(5, 3, dimensions))
    features = torch.randn(2, 5, *(6,) * dimensions, generator=torch.Generator().manual_seed(0))
    last = features.contiguous(memory_format=CHANNELS_LAST[dimensions])
    operations = record_operations(lambda: torch.testing.assert_close(head(last), head(features)))
    assert Counter(name for name, _ in operations)["aten.addmm"] == 1 + len(features)  # that of `last`, and the others
    monkeypatch.setattr(execution, "ROWS_OF_A_PRODUCT", 7)
    torch.testing.assert_close(head(last), head(features))
