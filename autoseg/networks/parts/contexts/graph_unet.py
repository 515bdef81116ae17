"""A U-Net on the graph of the voxels (Gao and Ji 2019, arXiv:1905.05178)."""

from collections.abc import Sequence
from math import ceil, prod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from autoseg.networks.parts.contexts.context import Context, ContextSite
from autoseg.plan.network.contexts import GraphUNetPlan


class GraphUNet(Context):
    """Adds to the voxels what a U-Net computes on their graph, in which neighbours share a face."""

    def __init__(self, plan: GraphUNetPlan, site: ContextSite) -> None:
        super().__init__(site)
        levels = len(plan.kept_fractions)
        self.first = GraphConvolution(site.channels)
        self.poolings = nn.ModuleList(GraphPooling(site.channels, fraction) for fraction in plan.kept_fractions)
        self.down = nn.ModuleList(GraphConvolution(site.channels) for _ in range(levels))
        self.up = nn.ModuleList(GraphConvolution(site.channels) for _ in range(levels))

    def forward(self, features: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels *space"]:
        """Computes on the graph of the voxels."""
        extents = features.shape[2:]
        joined = join_face_neighbours(extents, features.device).to(features.dtype)
        nodes: Tensor = self.compute(features.flatten(2).transpose(1, 2), joined.expand(len(features), -1, -1))
        return features + nodes.transpose(1, 2).reshape(features.shape)

    def compute(
        self, nodes: Float[Tensor, "batch node channels"], joined: Float[Tensor, "batch node node"]
    ) -> Float[Tensor, "batch node channels"]:
        """Computes on any graph; `joined` is 1 between neighbours and on the diagonal, and 0 elsewhere."""
        nodes = self.first(nodes, joined)
        passed: list[tuple[Tensor, Tensor, Tensor]] = []
        for pooling, convolution in zip(self.poolings, self.down, strict=True):
            kept, below, joined_below = pooling(nodes, joined)
            passed.append((nodes, joined, kept))
            joined = joined_below
            nodes = convolution(below, joined)
        for convolution in self.up:
            skip, joined, kept = passed.pop()
            nodes = convolution(unpool(nodes, kept, skip.shape[1]), joined) + skip
        return nodes


class GraphConvolution(nn.Module):
    """A linear map of the mean of every node and its neighbours, then ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.map = nn.Linear(channels, channels)

    def forward(
        self, nodes: Float[Tensor, "batch node channels"], joined: Float[Tensor, "batch node node"]
    ) -> Float[Tensor, "batch node channels"]:
        """Averages, maps, activates."""
        return functional.relu(self.map((joined @ nodes) / joined.sum(dim=2, keepdim=True)))


class GraphPooling(nn.Module):
    """Keeps the nodes of the highest scores, scaled by the hyperbolic tangent of these."""

    def __init__(self, channels: int, fraction: float) -> None:
        super().__init__()
        self.fraction = fraction
        self.score = Projection(channels)

    def forward(
        self, nodes: Float[Tensor, "batch node channels"], joined: Float[Tensor, "batch node node"]
    ) -> tuple[Int[Tensor, "batch kept"], Float[Tensor, "batch kept channels"], Float[Tensor, "batch kept kept"]]:
        """Returns the indices of the nodes that are kept, these nodes, and which of them two steps or fewer join."""
        scores, kept = torch.topk(self.score(nodes), ceil(self.fraction * nodes.shape[1]), dim=1)
        below = torch.take_along_dim(nodes, kept[:, :, None], dim=1) * scores[:, :, None].tanh()
        rows = torch.take_along_dim(joined, kept[:, :, None], dim=1)
        # The graph is symmetric: its columns are its rows.
        return kept, below, (rows @ rows.transpose(1, 2)).clamp(max=1)


class Projection(nn.Module):
    """The component of every node along a direction."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.randn(channels))

    def forward(self, nodes: Float[Tensor, "batch node channels"]) -> Float[Tensor, "batch node"]:
        """Projects."""
        projected: Tensor = nodes @ (self.direction / self.direction.norm())
        return projected


def unpool(
    nodes: Float[Tensor, "batch kept channels"], kept: Int[Tensor, "batch kept"], count: int
) -> Float[Tensor, "batch node channels"]:
    """Puts the nodes back to where they were among `count` nodes; the others are 0."""
    empty = nodes.new_zeros(len(nodes), count, nodes.shape[2])
    return empty.scatter(1, kept[:, :, None].expand_as(nodes), nodes)


def join_face_neighbours(extents: Sequence[int], device: torch.device) -> Float[Tensor, "node node"]:
    """Computes which voxels share a face or are the same: 1 for these pairs, and 0 for the others."""
    numbers = torch.arange(prod(extents), device=device)
    distances = torch.zeros((prod(extents),) * 2, device=device)
    for axis, extent in enumerate(extents):
        places = numbers // prod(extents[axis + 1 :]) % extent
        distances = distances + (places[:, None] - places).abs()
    return (distances <= 1).float()
