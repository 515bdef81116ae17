"""Residual multi-kernel pooling of CE-Net (Gu et al. 2019, arXiv:1903.02740)."""

from collections.abc import Callable, Mapping
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from autoseg.networks.blocks import LINEAR
from autoseg.networks.parts.contexts.context import Context, ContextSite
from autoseg.networks.parts.layers import build_kernel, get_ones
from autoseg.plan.network.contexts import MultiKernelPoolingPlan

MAXIMA: Final[Mapping[int, Callable[..., Tensor]]] = {2: functional.max_pool2d, 3: functional.max_pool3d}


class MultiKernelPooling(Context):
    """Joins the features with one channel per size of block, computed from maxima by one shared convolution.

    Blocks are not pooled along axes with kernels of one voxel; along shorter axes they have the extent of the axis.
    """

    def __init__(self, plan: MultiKernelPoolingPlan, site: ContextSite) -> None:
        super().__init__(site)
        self.channels_out = site.channels + len(plan.kernels)
        self.kernels = [tuple(size if extent > 1 else 1 for extent in site.kernel) for size in plan.kernels]
        if self.kernels:
            self.reduction = build_kernel(site.channels, 1, get_ones(site.kernel))

    def forward(self, features: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels_out *space"]:
        """Joins the levels, interpolated to the extents of the features, with these."""
        levels = [self._pool(features, kernel) for kernel in self.kernels]
        return torch.cat((*levels, features), dim=1)

    def _pool(self, features: Tensor, kernel: tuple[int, ...]) -> Tensor:
        extents = features.shape[2:]
        block = tuple(min(pair) for pair in zip(kernel, extents, strict=True))
        reduced = self.reduction(MAXIMA[len(extents)](features, block))
        return functional.interpolate(reduced, size=extents, mode=LINEAR[len(extents)])
