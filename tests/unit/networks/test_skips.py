"""Laws of single skip connections."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autoseg.networks.parts.skips import build_skip
from autoseg.networks.parts.skips.residual_path import PathBlock
from autoseg.networks.parts.skips.skip import SkipSite
from autoseg.plan.network.layers import LayerPlan
from autoseg.plan.network.skips import AttentionGatePlan, ResidualPathPlan

SITE = SkipSite(
    level=0,
    level_count=4,
    channels=8,
    channels_below=6,
    channels_upsampled=4,
    stride=(1, 2, 2),
    kernel=(1, 3, 3),
    layers=LayerPlan(normalization="instance", activation="relu"),
)
COARSE = AttentionGatePlan(signal="below", gates=1, reduction=1)
FINE = AttentionGatePlan(signal="upsampled", gates=1, reduction=2)
OPEN = 20.0  # of a sigmoid: 1 to 2e-9


def draw_inputs(site: SkipSite = SITE) -> tuple[Tensor, Tensor, Tensor]:
    """Features of the encoder, upsampled ones, those below."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(2, site.channels, 3, 8, 8, generator=generator),
        torch.randn(2, site.channels_upsampled, 3, 8, 8, generator=generator),
        torch.randn(2, site.channels_below, 3, 4, 4, generator=generator),
    )


@pytest.mark.parametrize("plan", [COARSE, FINE], ids=["below", "upsampled"])
@torch.no_grad()
def test_an_open_attention_gate_changes_nothing(plan: AttentionGatePlan) -> None:
    skip, (encoded, upsampled, below) = build_skip(plan, SITE), draw_inputs()
    gate = skip.gates[0]
    closed = skip(encoded, upsampled, below)
    nn.init.constant_(gate.psi.bias, OPEN)
    ungated = gate.output(encoded) if plan.signal == "below" else encoded
    expected = torch.cat((upsampled, ungated), dim=1)
    torch.testing.assert_close(skip(encoded, upsampled, below), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(closed, expected, atol=1e-2)


def test_an_attention_gate_reduces_the_features_by_the_stride_of_the_plan() -> None:
    (gate,) = build_skip(COARSE, SITE).gates
    assert (gate.theta.kernel_size, gate.theta.stride) == (SITE.stride, SITE.stride)


@torch.no_grad()
def test_a_fine_gate_weights_a_voxel_by_the_features_of_that_voxel() -> None:
    skip, (encoded, upsampled, _) = build_skip(FINE, SITE), draw_inputs()
    (gate,) = skip.gates
    gate.theta.norm, gate.phi.norm = nn.Identity(), nn.Identity()  # whose statistics join all voxels
    changed = upsampled.clone()
    changed[:, :, 1, 2, 3] += 1
    difference = (gate(encoded, changed) - gate(encoded, upsampled)).abs().amax(dim=(0, 1))
    assert difference.nonzero().tolist() == [[1, 2, 3]]


def test_several_gates_are_joined_to_the_channels_of_one() -> None:
    skip, inputs = build_skip(COARSE.model_copy(update={"gates": 3}), SITE), draw_inputs()
    assert len(skip.gates) == 3
    assert skip(*inputs).shape[1] == skip.channels_out == 12


@pytest.mark.parametrize(("level", "length"), [(0, 4), (1, 3), (2, 2), (3, 1)])
def test_residual_paths_are_longer_at_higher_resolutions(level: int, length: int) -> None:
    skip = build_skip(ResidualPathPlan(), replace(SITE, level=level))
    assert sum(isinstance(module, PathBlock) for module in skip.modules()) == length


def test_a_residual_path_narrows_the_features_to_the_channels_of_the_decoder() -> None:
    skip, inputs = build_skip(ResidualPathPlan(), SITE), draw_inputs()
    assert skip(*inputs).shape[1] == skip.channels_out == 8
    torch.testing.assert_close(skip(*inputs)[:, :4], inputs[1])
