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


def attend_without_map(
    query: Float[Tensor, "batch head query feature"],
    key: Float[Tensor, "batch head token feature"],
    value: Float[Tensor, "batch head token feature"],
) -> Float[Tensor, "batch head query feature"]:
    """Averages values by the softmax of the scaled products of queries and keys, without a map of all pairs."""
    if query.device.type == "meta":  # PyTorch would count attention that is written out, which no device computes
        attended: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[0]
        return attended
    return functional.scaled_dot_product_attention(query, key, value)


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
