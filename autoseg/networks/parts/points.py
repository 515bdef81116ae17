"""Points of a map: linear samples, the most uncertain ones, and a perceptron that answers them.

A point is the centre of a voxel of a grid, by its index in the flattened grid. Maps of other extents cover the same
space; the outermost half of their voxels continues the border (`align_corners=False` and `padding_mode="border"` in
PyTorch). Samples are gathered, not computed by `grid_sample`, which has no gradient on CUDA under `--deterministic`,
and none of whose kinds for volumes OpenVINO runs.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from autoseg.networks.blocks import CONVOLUTIONS, build_head
from autoseg.plan.network.point_rend import PointRendPlan, Probabilities

Corner = tuple[Tensor, Tensor | None]
"""Indices of voxels and their weights; None: all are 1."""


def sample_linearly(
    features: Float[Tensor, "batch channel *space"], points: Int[Tensor, "batch point"], grid: Sequence[int]
) -> Float[Tensor, "batch channel point"]:
    """Interpolates features at points.

    Args:
        features: Features of any extents.
        points: Voxels of the grid.
        grid: Extents of the grid.
    """
    corners: list[Corner] = [(torch.zeros_like(points), None)]
    for voxels, extent, place in zip(grid, features.shape[2:], _locate(points, grid), strict=True):
        ends = _list_ends(place, voxels, extent)
        corners = [(index * extent + end, _multiply(weight, share)) for index, weight in corners for end, share in ends]
    flat = features.flatten(2)
    values = (_weigh(flat.gather(2, spread(index, flat.shape[1])), weight) for index, weight in corners)
    return reduce(torch.add, values)


def _locate(points: Tensor, grid: Sequence[int]) -> list[Tensor]:
    """Computes the coordinates of points along every axis."""
    coordinates = []
    for extent in reversed(grid):
        coordinates.append(points % extent)
        points = points // extent
    return coordinates[::-1]


def _list_ends(place: Tensor, voxels: int, extent: int) -> list[Corner]:
    """Lists the neighbours of points along one axis, with their weights."""
    if voxels == extent:
        return [(place, None)]
    position = ((place + 0.5) * (extent / voxels) - 0.5).clamp(0, extent - 1)
    lower = position.long()
    share = position - lower
    return [(lower, 1 - share), ((lower + 1).clamp(max=extent - 1), share)]


def _multiply(weight: Tensor | None, share: Tensor | None) -> Tensor | None:
    if weight is None or share is None:
        return share if weight is None else weight
    return weight * share


def _weigh(values: Tensor, weight: Tensor | None) -> Tensor:
    return values if weight is None else values * weight[:, None].to(values.dtype)


def spread(points: Int[Tensor, "batch point"], channels: int) -> Int[Tensor, "batch channel point"]:
    """Repeats points for every channel, without a copy."""
    return points[:, None].expand(-1, channels, -1)


def measure_uncertainty(
    logits: Float[Tensor, "batch output point"], probabilities: Probabilities
) -> Float[Tensor, "batch point"]:
    """Measures how uncertain logits are: the closer the two most probable labels, or a region to its limit, the higher.

    Args:
        logits: Logits of points.
        probabilities: "softmax": minus the difference of the two highest. "sigmoid": minus the smallest distance from
            zero, at which a region ends.
    """
    if probabilities == "sigmoid":
        return -logits.abs().amin(dim=1)
    first, second = logits[:, 0], torch.full_like(logits[:, 0], -torch.inf)
    for index in range(1, logits.shape[1]):  # several times as fast on a CPU as `topk` over the channels
        other = logits[:, index]
        first, second = torch.maximum(first, other), torch.maximum(second, torch.minimum(first, other))
    return second - first


class PointHead(nn.Module):
    """A perceptron that all points share; the logits of the coarse map are appended to the input of every layer."""

    def __init__(self, plan: PointRendPlan, channels: int) -> None:
        """Builds the layers.

        Args:
            plan: The plan of the network.
            channels: Channels of the features of a point.
        """
        super().__init__()
        self.space = (1,) * (plan.dimensions - 1)
        outputs, hidden, one = plan.output_channels, plan.hidden_features, (1,) * plan.dimensions
        inputs = (channels, *(hidden,) * (plan.hidden_layers - 1))
        kernel = CONVOLUTIONS[plan.dimensions]
        self.hidden = nn.ModuleList(kernel(count + outputs, hidden, one) for count in inputs)
        self.output = build_head(hidden + outputs, outputs, plan.dimensions)

    def forward(
        self, features: Float[Tensor, "batch channel point"], coarse: Float[Tensor, "batch output point"]
    ) -> Float[Tensor, "batch output point"]:
        """Computes the logits of points."""
        values, coarse = self._unfold(features), self._unfold(coarse.to(features.dtype))
        for layer in self.hidden:
            values = functional.relu(layer(torch.cat((values, coarse), dim=1)))
        logits: Tensor = self.output(torch.cat((values, coarse), dim=1))
        return logits.flatten(2)

    def _unfold(self, values: Tensor) -> Tensor:
        """Lays points along the last axis of a map, as convolutions of one voxel take them."""
        return values.view(*values.shape[:2], *self.space, values.shape[2])
