"""Attention gates (Oktay et al. 2018, arXiv:1804.03999)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from autoseg.networks.attention_maps import AttentionMap
from autoseg.networks.blocks import CONVOLUTIONS, LINEAR
from autoseg.networks.parts.layers import Layer, build_kernel, get_ones
from autoseg.networks.parts.skips.skip import Skip, SkipSite
from autoseg.plan.network.skips import AttentionGatePlan


class AttentionGates(Skip):
    """The channels of the decoder, then those of the encoder after the gates."""

    plan: AttentionGatePlan

    def __init__(self, plan: AttentionGatePlan, site: SkipSite) -> None:
        super().__init__(plan, site)
        build = CoarseGate if plan.signal == "below" else FineGate
        titles = (f"gate_{site.level}{f'_{index}' if plan.gates > 1 else ''}" for index in range(plan.gates))
        self.gates = nn.ModuleList(build(plan, site, title) for title in titles)
        joined = plan.gates * site.channels
        self.join = (
            Layer(joined, site.channels, get_ones(site.kernel), layers=site.layers) if plan.gates > 1 else nn.Identity()
        )

    def forward(
        self,
        encoded: Float[Tensor, "batch channels *space"],
        upsampled: Float[Tensor, "batch channels_upsampled *space"],
        below: Float[Tensor, "batch channels_below *space_below"],
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Gates, then concatenates."""
        signal = below if self.plan.signal == "below" else upsampled
        gated = self.join(torch.cat([gate(encoded, signal) for gate in self.gates], dim=1))
        return torch.cat((upsampled, gated), dim=1)


class FineGate(nn.Module):
    """Weights of the features of the encoder, at their resolution."""

    def __init__(self, plan: AttentionGatePlan, site: SkipSite, title: str) -> None:
        super().__init__()
        one, inner = get_ones(site.kernel), max(1, site.channels // plan.reduction)
        self.theta = Layer(site.channels, inner, one, layers=site.layers, is_activated=False)
        self.phi = Layer(site.channels_upsampled, inner, one, layers=site.layers, is_activated=False)
        self.activation = nn.ReLU(inplace=True)
        self.psi = build_kernel(inner, 1, one)
        self.alpha = AttentionMap(title)

    def forward(
        self, encoded: Float[Tensor, "batch channels *space"], signal: Float[Tensor, "batch channels_upsampled *space"]
    ) -> Float[Tensor, "batch channels *space"]:
        """Weights every voxel."""
        alpha: Tensor = self.alpha(self.psi(self.activation(self.theta(encoded) + self.phi(signal))))
        return encoded * alpha


class CoarseGate(nn.Module):
    """Weights of the features of the encoder, computed at the resolution below.

    Its convolutions but the last are without normalization, as published.
    """

    def __init__(self, plan: AttentionGatePlan, site: SkipSite, title: str) -> None:
        super().__init__()
        one, inner = get_ones(site.kernel), max(1, site.channels // plan.reduction)
        self.theta = CONVOLUTIONS[len(one)](site.channels, inner, site.stride, stride=site.stride, bias=False)
        self.phi = build_kernel(site.channels_below, inner, one)
        self.activation = nn.ReLU(inplace=True)
        self.psi = build_kernel(inner, 1, one)
        self.alpha = AttentionMap(title)
        self.output = Layer(site.channels, site.channels, one, layers=site.layers, is_activated=False)

    def forward(
        self, encoded: Float[Tensor, "batch channels *space"], signal: Float[Tensor, "batch channels_below *below"]
    ) -> Float[Tensor, "batch channels *space"]:
        """Weights every voxel, then convolves."""
        alpha = self.alpha(self.psi(self.activation(self.theta(encoded) + self.phi(signal))))
        resampled = functional.interpolate(alpha, size=encoded.shape[2:], mode=LINEAR[encoded.ndim - 2])
        gated: Tensor = self.output(encoded * resampled)
        return gated
