"""Plain transformers over blocks of voxels (Wald et al. 2025, arXiv:2503.01835)."""

from itertools import pairwise
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS
from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.shifted_perceptron import ChannelNormalization
from autoseg.networks.parts.transformer import (
    NORM_EPSILON,
    PositionEmbedding,
    ScaledPath,
    TransformerBlock,
    compute_rotations,
)
from autoseg.plan.network.plain_transformer import PlainTransformerPlan

LINEAR_DEVIATION: Final = 0.02  # of the first weights of linear layers and positions (EVA-02)


class PlainTransformer(SegmentationNetwork):
    """Tokens of blocks of voxels, transformer blocks, and transposed convolutions back to voxels."""

    plan: PlainTransformerPlan

    def __init__(self, plan: PlainTransformerPlan) -> None:
        super().__init__(plan)
        token = plan.patch_divisors
        self.embedding = CONVOLUTIONS[plan.dimensions](plan.input_channels, plan.features, token, stride=token)
        self.positions = PositionEmbedding(plan.features, plan.position_grid)
        self.blocks = nn.ModuleList(TransformerBlock(plan, index) for index in range(plan.blocks))
        self.norm = nn.LayerNorm(plan.features, eps=NORM_EPSILON)
        channels = (plan.features, *plan.decoder_features)
        steps = plan.token_steps[::-1]
        self.decoder = nn.Sequential(
            *(
                _build_decoder_step(below, above, step)
                for (below, above), step in zip(pairwise(channels), steps, strict=False)  # the last is the head
            )
        )
        enlarge = TRANSPOSED_CONVOLUTIONS[plan.dimensions]
        self.head = enlarge(channels[-1], plan.output_channels, steps[-1], stride=steps[-1])

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Float[Tensor, "batch output ..."], ...]:
        """Computes the logits."""
        embedded = self.positions(self.embedding(image))
        grid = embedded.shape[2:]
        rotations = compute_rotations(grid, self.plan.features // self.plan.heads, embedded.device)
        tokens = embedded.flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens, rotations)
        features = self.norm(tokens).transpose(1, 2).reshape(embedded.shape)
        return (self.head(self.decoder(features)),)

    def initialize_weights(self, generator: torch.Generator | None = None) -> None:
        """Sets the first weights as EVA-02 does; the deeper a block, the smaller are those of its outputs."""
        super().initialize_weights(generator)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                _draw(module.weight, generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, ScaledPath):
                nn.init.constant_(module.weight, self.plan.layer_scale)
        _draw(self.positions.weight, generator)
        with torch.no_grad():
            for depth, block in enumerate(self.blocks, start=1):
                assert isinstance(block, TransformerBlock)
                for layer in (block.attention.output, block.perceptron.output):
                    layer.weight /= (2 * depth) ** 0.5

    @property
    def output_weights(self) -> tuple[float, ...]:
        """That of the only output."""
        return (1.0,)

    @property
    def single_precision_modules(self) -> tuple[str, ...]:
        """The last step of the decoder."""
        return ("head",)


def _build_decoder_step(channels_in: int, channels_out: int, step: tuple[int, ...]) -> nn.Module:
    enlarge = TRANSPOSED_CONVOLUTIONS[len(step)]
    return nn.Sequential(
        enlarge(channels_in, channels_out, step, stride=step),
        ChannelNormalization(channels_out, NORM_EPSILON),
        nn.GELU(),
    )


def _draw(weight: Tensor, generator: torch.Generator | None) -> None:
    nn.init.trunc_normal_(weight, std=LINEAR_DEVIATION, generator=generator)
