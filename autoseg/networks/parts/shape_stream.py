"""A second stream that finds the edges of what is segmented (Sun et al. 2020, arXiv:2001.07645)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.attention_maps import AttentionMap
from autoseg.networks.blocks import build_head, enlarge_to
from autoseg.networks.parts.blocks import build_stage
from autoseg.networks.parts.layers import Layer, build_kernel, get_ones
from autoseg.networks.parts.stage import StageSite
from autoseg.plan.network.blocks import ResidualBlockPlan
from autoseg.plan.network.layers import LayerPlan
from autoseg.plan.network.shape_stream import ShapeStreamPlan


class ShapeStream(nn.Module):
    """Features of the full resolution that pass one gate after the other; each gate reads one stage of an encoder.

    The first features are those of the encoder's first stage; the gates read its last stages, the deepest one last.
    """

    def __init__(
        self,
        plan: ShapeStreamPlan,
        encoded: Sequence[int],
        *,
        kernel: tuple[int, ...],
        layers: LayerPlan,
        channels: int,
    ) -> None:
        """Builds the stream.

        Args:
            plan: The plan of the stream.
            encoded: Channels of the features of every stage of the encoder.
            kernel: Extents of the kernels at the full resolution.
            layers: Normalization and activation.
            channels: Channels of the decoder's last features, which the edges are joined with.
        """
        super().__init__()
        one, widths = get_ones(kernel), plan.features_per_gate
        self.entrance = build_kernel(encoded[0], widths[0], one)
        read = encoded[len(encoded) - len(widths) :]
        self.gates = nn.ModuleList(
            ShapeGate(pair, texture, kernel=kernel, layers=layers)
            for pair, texture in zip(pairwise((*widths, widths[-1])), read, strict=True)
        )
        self.edges = build_head(widths[-1], 1, len(kernel))
        self.probability = AttentionMap("edges")
        self.fusion = Layer(channels + 1, channels, kernel, layers=layers)

    def forward(self, encoded: Sequence[Tensor]) -> Float[Tensor, "batch 1 *space"]:
        """Computes logits of edges from the features of all stages of the encoder."""
        features = self.entrance(encoded[0])
        for gate, texture in zip(self.gates, encoded[len(encoded) - len(self.gates) :], strict=True):
            features = gate(features, texture)
        logits: Tensor = self.edges(features)
        return logits

    def fuse(
        self, features: Float[Tensor, "batch channel *space"], edges: Float[Tensor, "batch 1 *space"]
    ) -> Float[Tensor, "batch channel *space"]:
        """Joins the last features of the decoder with the probability of edges."""
        fused: Tensor = self.fusion(torch.cat((features, self.probability(edges)), dim=1))
        return fused


class ShapeGate(nn.Module):
    """A residual block, then a weight per voxel from both streams: alpha = sigmoid(C(cat(S, C(T)))), S (1 + alpha).

    C is a convolution of one voxel with normalization, S the features of this stream, T those of the encoder; their
    sum is then brought to the channels of the next gate.
    """

    def __init__(self, channels: tuple[int, int], texture: int, *, kernel: tuple[int, ...], layers: LayerPlan) -> None:
        super().__init__()
        one, (inner, outer) = get_ones(kernel), channels
        site = StageSite(
            channels_in=inner,
            channels_out=inner,
            block_count=1,
            kernel=kernel,
            strides_below=(),
            layers=layers,
            is_encoder=False,
        )
        self.block = build_stage(ResidualBlockPlan(), site)
        self.texture = Layer(texture, 1, one, layers=layers, is_activated=False)
        self.alpha = Layer(inner + 1, 1, one, layers=layers, is_activated=False)
        self.output = build_kernel(inner, outer, one)

    def forward(
        self, features: Float[Tensor, "batch inner *space"], texture: Float[Tensor, "batch texture *space_below"]
    ) -> Float[Tensor, "batch outer *space"]:
        """Weights every voxel, by up to two."""
        refined = self.block(features)
        enlarged = enlarge_to(self.texture(texture), refined.shape[2:])
        alpha = self.alpha(torch.cat((refined, enlarged), dim=1)).sigmoid()
        gated: Tensor = self.output(refined * (1 + alpha))
        return gated
