"""Convolutional block attention (CBAM, Woo et al. 2018, arXiv:1807.06521)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.parts.attentions.se import count_hidden
from autoseg.networks.parts.layers import build_kernel, get_ones
from autoseg.plan.network.attentions import ConvolutionalAttentionPlan


class ConvolutionalAttention(nn.Module):
    """Scales every channel, then every voxel, by weights that are computed from means and maxima."""

    def __init__(self, plan: ConvolutionalAttentionPlan, channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        hidden = count_hidden(channels, plan.reduction)
        self.squeeze = build_kernel(channels, hidden, get_ones(kernel))
        self.activation = nn.ReLU(inplace=True)
        self.excite = build_kernel(hidden, channels, get_ones(kernel))
        self.voxels = build_kernel(2, 1, tuple(plan.kernel if extent > 1 else 1 for extent in kernel))

    def forward(self, features: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        """Scales channels, then voxels."""
        space = tuple(range(2, features.ndim))
        means, maxima = features.mean(dim=space, keepdim=True), features.amax(dim=space, keepdim=True)
        features = features * (self._excite(means) + self._excite(maxima)).sigmoid()
        summary = torch.cat((features.mean(dim=1, keepdim=True), features.amax(dim=1, keepdim=True)), dim=1)
        weights: Tensor = self.voxels(summary)
        return features * weights.sigmoid()

    def _excite(self, summary: Tensor) -> Tensor:
        excited: Tensor = self.excite(self.activation(self.squeeze(summary)))
        return excited
