"""Modules that are trained in another form than they predict in."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import build_convolution


class FusibleModule(nn.Module, ABC):
    """A module for which a cheaper one computes the same with the weights that it has after training."""

    @abstractmethod
    def fuse(self) -> nn.Module:
        """Returns the cheaper module, which may share weights with this one; this one must not be used afterwards."""


def fuse_modules(network: nn.Module) -> None:
    """Replaces every fusible module of a trained network."""
    for parent in list(network.modules()):
        for name, module in parent.named_children():
            if isinstance(module, FusibleModule):
                setattr(parent, name, module.fuse())


class RepConvolution(FusibleModule):
    """The sum of a convolution, one of a single voxel and, where the shapes allow it, the identity.

    Ding et al. 2021, arXiv:2101.03697; it is a single convolution in prediction.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: Sequence[int], *, bias: bool) -> None:
        super().__init__()
        ones = (1,) * len(kernel)
        self.kernel = build_convolution(channels_in, channels_out, kernel, stride=ones, bias=bias)
        self.point = build_convolution(channels_in, channels_out, ones, stride=ones, bias=False)
        self.has_identity = channels_in == channels_out

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
