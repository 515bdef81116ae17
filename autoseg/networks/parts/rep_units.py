"""Convolutions of three normalized branches, which are one convolution in prediction, and sequences of them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import build_convolution
from autoseg.networks.fusion import FusibleModule
from autoseg.networks.parts.layers import Layer, build_normalization, get_ones
from autoseg.plan.network.layers import LayerPlan

RELU: Final = LayerPlan(normalization="batch", activation="relu")


class RepUnit(FusibleModule):
    """Sum of a convolution, one of a single voxel and, where the shapes allow it, the identity; then a ReLU.

    Each branch has a batch normalization of its own (RepVGG, Ding et al. 2021, arXiv:2101.03697).
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: Sequence[int], *, stride: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        ones = get_ones(kernel)
        self.steps = tuple(stride or ones)
        self.kernel = Layer(channels_in, channels_out, kernel, layers=RELU, stride=self.steps, is_activated=False)
        self.point = Layer(channels_in, channels_out, ones, layers=RELU, stride=self.steps, is_activated=False)
        has_identity = channels_in == channels_out and self.steps == ones
        self.identity = build_normalization(RELU, channels_out, len(kernel)) if has_identity else None
        self.activation = nn.ReLU(inplace=True)

    def forward(self, features: Float[Tensor, "batch channels_in *space"]) -> Float[Tensor, "batch channels_out ..."]:
        """Adds the branches."""
        total: Tensor = self.kernel(features) + self.point(features)
        if self.identity is not None:
            total = total + self.identity(features)
        activated: Tensor = self.activation(total)
        return activated

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """Builds the convolution that has the statistics of the normalizations in its weights and biases."""
        trained = self.kernel.convolution.get_parameter("weight")
        channels_out, channels_in, *kernel = trained.shape
        scale, bias = _find_scale(self.kernel.norm)
        weight = _scale(trained, scale)
        central = weight.flatten(2)[..., weight[0, 0].numel() // 2]  # extents are odd
        scale, shift = _find_scale(self.point.norm)
        central += _scale(self.point.convolution.get_parameter("weight"), scale).flatten(1)
        bias = bias + shift
        if self.identity is not None:
            scale, shift = _find_scale(self.identity)
            central += scale.diag()
            bias = bias + shift
        fused = build_convolution(channels_in, channels_out, kernel, stride=self.steps).to(trained)
        fused.get_parameter("weight").copy_(weight)
        fused.get_parameter("bias").copy_(bias)
        return nn.Sequential(fused, self.activation).train(self.training)


class RepUnits(nn.Sequential):
    """A sequence of such convolutions, of which the first may change the number of channels."""

    def __init__(self, channels_in: int, channels_out: int, kernel: Sequence[int], *, count: int) -> None:
        channels = (channels_in, *(channels_out,) * count)
        super().__init__(*(RepUnit(below, above, kernel) for below, above in pairwise(channels)))


def _find_scale(norm: nn.Module) -> tuple[Float[Tensor, " channel"], Float[Tensor, " channel"]]:
    """Finds factor and shift of a batch normalization after training, in double precision."""
    assert isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d), "branches are normalized over the batch"
    assert norm.running_mean is not None, "it keeps statistics"
    assert norm.running_var is not None, "it keeps statistics"
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def _scale(weight: Tensor, scale: Tensor) -> Tensor:
    """Scales the output channels of a convolution."""
    return weight.double().contiguous() * scale.reshape(-1, *(1,) * (weight.ndim - 1))
