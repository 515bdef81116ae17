"""Pyramid pooling (Zhao et al. 2017, arXiv:1612.01105)."""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from autoseg.networks.parts.contexts.context import Context, ContextSite
from autoseg.networks.parts.layers import build_kernel, get_ones
from autoseg.networks.parts.tokens import ADAPTIVE_POOLINGS
from autoseg.plan.network.contexts import PyramidPoolingPlan

INTERPOLATIONS: Final = {2: "bilinear", 3: "trilinear"}


class PyramidPooling(Context):
    """Averages over the cells of several grids, each reduced to a share of the channels, joined to the input."""

    def __init__(self, plan: PyramidPoolingPlan, site: ContextSite) -> None:
        super().__init__(site)
        self.grids = plan.grids
        self.dimensions = site.dimensions
        reduced = max(1, site.channels // len(plan.grids))
        one = get_ones(site.kernel)
        self.reductions = nn.ModuleList(build_kernel(site.channels, reduced, one) for _ in plan.grids)
        self.join = build_kernel(site.channels + reduced * len(plan.grids), site.channels, one)

    def forward(self, features: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels *space"]:
        """Joins the levels of the pyramid, each interpolated to the extents of the input."""
        extents = features.shape[2:]
        levels = [features]
        for grid, reduction in zip(self.grids, self.reductions, strict=True):
            cells = reduction(
                ADAPTIVE_POOLINGS[self.dimensions](features, tuple(min(grid, extent) for extent in extents))
            )
            mode = INTERPOLATIONS[self.dimensions]
            levels.append(functional.interpolate(cells, size=extents, mode=mode, align_corners=False))
        joined: Tensor = self.join(torch.cat(levels, dim=1))
        return joined
