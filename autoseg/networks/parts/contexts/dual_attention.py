"""Dual attention, between positions and between channels (Fu et al. 2019, arXiv:1809.02983)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.parts.contexts.context import Context, ContextSite
from autoseg.networks.parts.layers import build_kernel, get_ones
from autoseg.networks.parts.tokens import attend, pool_tokens
from autoseg.plan.network.contexts import DualAttentionPlan


class DualAttention(Context):
    """Adds what both attentions compute to the features: at first nothing, as their scales start at 0."""

    def __init__(self, plan: DualAttentionPlan, site: ContextSite) -> None:
        super().__init__(site)
        self.positions = PositionAttention(plan, site.channels, site.kernel)
        self.channels = ChannelAttention()

    def forward(self, features: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels *space"]:
        """Adds both."""
        added: Tensor = self.positions(features) + self.channels(features)
        return features + added


class PositionAttention(nn.Module):
    """The values of all positions, weighted for every position by the softmax of products of queries and keys."""

    def __init__(self, plan: DualAttentionPlan, channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        one, reduced = get_ones(kernel), max(1, channels // plan.reduction)
        self.tokens_limit = plan.tokens_limit
        self.query = build_kernel(channels, reduced, one)
        self.key = build_kernel(channels, reduced, one)
        self.value = build_kernel(channels, channels, one)
        self.scale = LearntScale()

    def forward(self, features: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels *space"]:
        """Attends, then scales."""
        tokens = pool_tokens(features, self.tokens_limit)
        query, key, value = self.query(features), self.key(tokens), self.value(tokens)
        attended = attend(query.flatten(2), key.flatten(2), value.flatten(2))
        scaled: Tensor = self.scale(attended.reshape(features.shape))
        return scaled


class ChannelAttention(nn.Module):
    """All channels, weighted for every channel by the softmax of their products with it over the patch."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = LearntScale()

    def forward(self, features: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels *space"]:
        """Attends, then scales."""
        flat = features.flatten(2)
        voxels = flat.shape[2]
        part = flat * voxels**-0.5  # sums of products over a patch are beyond float16, their means are not
        products = (part @ part.transpose(1, 2)).float() * voxels
        weights = torch.softmax(products, dim=-1).to(flat.dtype)
        scaled: Tensor = self.scale((weights @ flat).reshape(features.shape))
        return scaled


class LearntScale(nn.Module):
    """A factor that starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.zeros(()))

    def forward(self, features: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels *space"]:
        """Multiplies."""
        return self.factor * features
