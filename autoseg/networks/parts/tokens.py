"""Attention between the voxels of features, and fewer of them."""

from collections.abc import Callable, Mapping
from math import prod
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

ADAPTIVE_POOLINGS: Final[Mapping[int, Callable[..., Tensor]]] = {
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}


def attend(
    query: Float[Tensor, "*batch depth voxel"],
    key: Float[Tensor, "*batch depth token"],
    value: Float[Tensor, "*batch channel token"],
) -> Float[Tensor, "*batch channel voxel"]:
    """Averages the values for every query, weighted by the softmax of its products with the keys."""
    weights = torch.softmax(query.transpose(-1, -2) @ key, dim=-1)
    return value @ weights.transpose(-1, -2)


def pool_tokens(
    features: Float[Tensor, "batch channels *space"], limit: int
) -> Float[Tensor, "batch channels *space_pooled"]:
    """Averages blocks of voxels where there are more than `limit`; the longest axis is halved until there are not."""
    extents = list(features.shape[2:])
    while prod(extents) > limit:
        longest = extents.index(max(extents))
        extents[longest] = -(-extents[longest] // 2)
    if extents == list(features.shape[2:]):
        return features
    return ADAPTIVE_POOLINGS[len(extents)](features, tuple(extents))
