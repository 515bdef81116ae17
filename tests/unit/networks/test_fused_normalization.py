import json
import os
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from builders.operations import record_operations
from builders.triton_double import install_triton
from torch import nn
from torch.nn import functional

from autoseg.networks import blocks
from autoseg.networks.blocks import ConvolutionUnit, InstanceNormalization, ResidualBlock, fuse_normalization

SCRIPT = Path(__file__).with_name("fused_normalization_check.py")
UNFIT_INTERPRETER = "only 0-dimensional arrays can be converted to Python scalars"
COPIES = {"aten.clone", "aten.new_zeros", "aten.copy_", "aten.new_empty_strided"}


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed (it comes with PyTorch for CUDA)")
def test_the_fused_kernel_computes_normalization_activation_and_their_gradients():
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False, env=environment, timeout=250
    )
    if UNFIT_INTERPRETER in done.stderr:
        pytest.skip("this Triton's interpreter is for NumPy before 2.4")
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout)
    assert len(differences) == 12
    assert max(differences.pop(name) for name in ("bfloat16", "float16", "trial")) < 0.01
    assert max(differences.values()) < 1e-4


def test_a_network_on_the_cpu_is_computed_as_before_whether_it_is_fused_or_not():
    torch.manual_seed(0)
    network = nn.Sequential(ConvolutionUnit(1, 4, (3, 3)), ConvolutionUnit(4, 4, (3, 3)))
    image = torch.randn(2, 1, 8, 8)
    before, names = network(image), list(network.state_dict())
    assert fuse_normalization(network) == 2
    assert torch.equal(network(image), before)
    assert list(network.state_dict()) == names


def test_without_triton_there_is_no_fused_normalization(monkeypatch):
    monkeypatch.setattr(blocks, "find_spec", lambda name: None)
    assert not blocks.has_fused_normalization()


@pytest.fixture
def as_on_gpu(monkeypatch):
    """The CPU computes in the form that a GPU takes."""
    monkeypatch.setattr(blocks, "is_on_cpu", lambda features: False)


@pytest.fixture
def triton(monkeypatch):
    """Records launches of kernels that compute nothing."""
    return install_triton(monkeypatch)


BLOCKS = {
    "unit": (ConvolutionUnit, 4),
    "residual block": (ResidualBlock, 4),
    "projected shortcut": (ResidualBlock, 6),
}


@pytest.mark.usefixtures("as_on_gpu", "triton")
@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("is_fused", [False, True])
def test_no_gradient_is_copied_on_a_gpu_because_a_view_was_overwritten(name, *, is_fused):
    kind, channels = BLOCKS[name]
    block = kind(4, channels, (3, 3))
    fuse_normalization(block, is_fused=is_fused)
    layout = torch.channels_last if is_fused else torch.contiguous_format
    features = torch.randn(2, 4, 8, 8).contiguous(memory_format=layout).requires_grad_()
    result = block.to(memory_format=layout)(features)
    gradient = torch.ones_like(result)
    operations = [operation for operation, _ in record_operations(lambda: result.backward(gradient))]
    assert "aten.convolution_backward" in operations
    assert not COPIES.intersection(operations)


@pytest.mark.usefixtures("as_on_gpu")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_gpu_s_form_is_instance_normalization_and_leaky_relu(layout):
    norm = InstanceNormalization(3)
    features = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    expected = functional.instance_norm(features, weight=norm.weight, bias=norm.bias, eps=1e-5)
    assert torch.equal(norm(features), expected)
    assert torch.equal(norm.activate(features, slope=0.01), functional.leaky_relu(expected, 0.01))


def test_kernels_are_launched_on_the_device_of_the_features(triton, monkeypatch):
    from autoseg.networks.fused_normalization import normalize_and_activate

    @contextmanager
    def make_current(tensor):
        triton.current = tensor.shape
        yield
        triton.current = None

    monkeypatch.setattr(torch.cuda, "device_of", make_current)
    features = torch.randn(2, 4, 5, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    result = normalize_and_activate(features, torch.ones(4), torch.zeros(4), epsilon=1e-5)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert not result._is_view()
    result.sum().backward()
    forward, backward = (
        ["_sum_deviations", "_add_parts", "_normalize"],
        ["_sum_gradients", "_add_parts", "_differentiate"],
    )
    assert triton.names == [*forward, *backward]
    assert set(triton.devices) == {features.shape}
