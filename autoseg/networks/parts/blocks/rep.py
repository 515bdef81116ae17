"""Convolutions of parallel branches that are one in prediction (RepVGG, Ding et al. 2021, arXiv:2101.03697)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.fusion import FusibleModule
from autoseg.networks.parts.layers import build_activation, build_kernel, build_normalization, get_ones
from autoseg.networks.parts.stage import StageSite
from autoseg.plan.network.blocks import RepPlan
from autoseg.plan.network.layers import LayerPlan


def build_rep_stage(plan: RepPlan, site: StageSite) -> nn.Module:
    """Builds convolutions of parallel branches, with normalization and activation."""
    del plan
    return nn.Sequential(
        *(RepLayer(below, above, site.kernel, layers=site.layers) for below, above in pairwise(site.channels))
    )


class RepLayer(nn.Sequential):
    """Sum of branches, normalization, activation."""

    def __init__(self, channels_in: int, channels_out: int, kernel: Sequence[int], *, layers: LayerPlan) -> None:
        super().__init__()
        self.convolution = RepConvolution(channels_in, channels_out, kernel, bias=layers.normalization == "none")
        self.norm = build_normalization(layers, channels_out, len(kernel))
        self.activation = build_activation(layers)


class RepConvolution(FusibleModule):
    """The sum of a convolution, one of a single voxel and, where the shapes allow it, the identity."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: Sequence[int], *, stride: Sequence[int] | int = 1, bias: bool
    ) -> None:
        super().__init__()
        self.kernel = build_kernel(channels_in, channels_out, kernel, stride=stride, bias=bias)
        self.point = build_kernel(channels_in, channels_out, get_ones(kernel), stride=stride, bias=False)
        steps = {stride} if isinstance(stride, int) else set(stride)
        self.has_identity = channels_in == channels_out and steps == {1}

    def forward(self, features: Float[Tensor, "batch channels_in *space"]) -> Float[Tensor, "batch channels_out ..."]:
        """Adds the branches."""
        total: Tensor = self.kernel(features) + self.point(features)
        return total + features if self.has_identity else total

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """Adds the other branches to the central weight of the kernel, in double precision."""
        kernel, point = self.kernel.get_parameter("weight"), self.point.get_parameter("weight")
        weight = kernel.double().contiguous()
        central = weight.flatten(2)[..., weight[0, 0].numel() // 2]  # extents are odd
        central += point.double().flatten(1)
        if self.has_identity:
            central += torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
        kernel.copy_(weight)
        return self.kernel
