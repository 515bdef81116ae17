import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from autoseg.networks import blocks
from autoseg.networks.blocks import ConvolutionUnit, fuse_normalization

SCRIPT = Path(__file__).with_name("fused_normalization_check.py")


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed (it comes with PyTorch for CUDA)")
def test_the_fused_kernel_computes_normalization_activation_and_their_gradients():
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False, env=environment, timeout=250
    )
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout)
    assert len(differences) == 6
    assert differences.pop("16 bits") < 0.01
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
