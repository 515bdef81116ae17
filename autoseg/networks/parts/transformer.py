"""Blocks of the transformer EVA-02 (Fang et al. 2023, arXiv:2303.11331), with positions in two and three dimensions."""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from autoseg.networks.parts.tokens import attend_without_map
from autoseg.plan.network.plain_transformer import PlainTransformerPlan

TEMPERATURE: Final = 10_000.0  # longest wavelength of a position over 2 pi (Su et al. 2021, arXiv:2104.09864)
NORM_EPSILON: Final = 1e-6


def compute_rotations(
    grid: Sequence[int], features: int, device: torch.device
) -> Float[Tensor, "part token half_features"]:
    """Computes the cosines and sines by which pairs of features are rotated at every position of a grid.

    The pairs are divided among the axes; those that are left over are not rotated.

    Args:
        grid: Tokens along every axis.
        features: Features of an attention head, an even number.
        device: The device of the result.
    """
    count = features // (2 * len(grid))
    frequencies = TEMPERATURE ** (-torch.arange(count, device=device, dtype=torch.float32) / count)
    positions = [torch.arange(extent, device=device, dtype=torch.float32) for extent in grid]
    meshes = torch.meshgrid(*positions, indexing="ij")
    angles = torch.cat([mesh.reshape(-1, 1) * frequencies for mesh in meshes], dim=1)
    angles = functional.pad(angles, (0, features // 2 - angles.shape[1]))
    return torch.stack((angles.cos(), angles.sin()))


def rotate(
    features: Float[Tensor, "batch head token feature"], rotations: Float[Tensor, "part token half_features"]
) -> Float[Tensor, "batch head token feature"]:
    """Rotates the pairs of features that the first and the second half of them make."""
    cosine, sine = rotations.to(features.dtype)
    first, second = features.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


class Attention(nn.Module):
    """Attention of all tokens to each other, whose queries and keys are rotated by their positions."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(features, features)
        self.key = nn.Linear(features, features, bias=False)  # a bias would add the same to all products of a query
        self.value = nn.Linear(features, features)
        self.norm = nn.LayerNorm(features, eps=NORM_EPSILON)
        self.output = nn.Linear(features, features)

    def forward(
        self, tokens: Float[Tensor, "batch token feature"], rotations: Float[Tensor, "part token half_features"]
    ) -> Float[Tensor, "batch token feature"]:
        """Attends."""
        query, key, value = (
            layer(tokens).reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attended = attend_without_map(rotate(query, rotations), rotate(key, rotations), value)
        result: Tensor = self.output(self.norm(attended.transpose(1, 2).reshape(tokens.shape)))
        return result


class GatedPerceptron(nn.Module):
    """Two linear layers with a gate of SiLU (SwiGLU, Shazeer 2020, arXiv:2002.05202) and a normalization between."""

    def __init__(self, features: int, hidden_features: int) -> None:
        super().__init__()
        self.gate = nn.Linear(features, hidden_features)
        self.hidden = nn.Linear(features, hidden_features)
        self.norm = nn.LayerNorm(hidden_features, eps=NORM_EPSILON)
        self.output = nn.Linear(hidden_features, features)

    def forward(self, tokens: Float[Tensor, "batch token feature"]) -> Float[Tensor, "batch token feature"]:
        """Computes the perceptron of every token."""
        result: Tensor = self.output(self.norm(functional.silu(self.gate(tokens)) * self.hidden(tokens)))
        return result


class ScaledPath(nn.Module):
    """Scales every channel of a residual by a learnt factor, and drops whole samples of it in training.

    Touvron et al. 2021, arXiv:2103.17239; Huang et al. 2016, arXiv:1603.09382.
    """

    def __init__(self, features: int, scale: float, drop_probability: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((features,), scale))
        self.drop_probability = drop_probability

    def forward(self, residual: Float[Tensor, "batch token feature"]) -> Float[Tensor, "batch token feature"]:
        """Scales; what is kept is enlarged, so that the mean over drops is the residual without them."""
        scaled = residual * self.weight.to(residual.dtype)
        if not self.training or self.drop_probability == 0:
            return scaled
        kept = 1 - self.drop_probability
        return scaled * (torch.rand_like(scaled[:, :1, :1]) < kept).to(scaled.dtype) / kept


class TransformerBlock(nn.Module):
    """Attention and perceptron, each after a normalization and added to its input."""

    def __init__(self, plan: PlainTransformerPlan, index: int) -> None:
        super().__init__()
        drop = plan.drop_path * index / max(1, plan.blocks - 1)
        self.attention_norm = nn.LayerNorm(plan.features, eps=NORM_EPSILON)
        self.attention = Attention(plan.features, plan.heads)
        self.attention_path = ScaledPath(plan.features, plan.layer_scale, drop)
        self.perceptron_norm = nn.LayerNorm(plan.features, eps=NORM_EPSILON)
        self.perceptron = GatedPerceptron(plan.features, plan.hidden_features)
        self.perceptron_path = ScaledPath(plan.features, plan.layer_scale, drop)

    def forward(
        self, tokens: Float[Tensor, "batch token feature"], rotations: Float[Tensor, "part token half_features"]
    ) -> Float[Tensor, "batch token feature"]:
        """Adds attention, then the perceptron."""
        tokens = tokens + self.attention_path(self.attention(self.attention_norm(tokens), rotations))
        changed: Tensor = tokens + self.perceptron_path(self.perceptron(self.perceptron_norm(tokens)))
        return changed


class PositionEmbedding(nn.Module):
    """A learnt vector for every position of a grid, interpolated for others."""

    def __init__(self, features: int, grid: Sequence[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, features, *grid))

    def forward(self, features: Float[Tensor, "batch feature *grid"]) -> Float[Tensor, "batch feature *grid"]:
        """Adds the vectors."""
        weight, extents = self.weight.to(features.dtype), features.shape[2:]
        if weight.shape[2:] != extents:
            mode = "bilinear" if len(extents) == 2 else "trilinear"
            weight = functional.interpolate(weight, size=extents, mode=mode, align_corners=False)
        return features + weight
