"""Plain transformers over blocks of voxels."""

from collections.abc import Mapping
from math import prod
from typing import Annotated, Literal

from pydantic import Field, model_validator

from autoseg.plan.network.base import NetworkPlan
from autoseg.plan.values import BlockCount, ChannelCount, Count, Extents, KernelExtents, Positive

Steps = Annotated[tuple[KernelExtents, ...], Field(min_length=1, max_length=8)]


class PlainTransformerPlan(NetworkPlan):
    """A transformer at one resolution and a light decoder without skips (Wald et al. 2025, arXiv:2503.01835).

    Attributes:
        token_steps: The blocks of voxels that become tokens, in steps: their extents are the products. The decoder
            takes the same steps back, from the last to the first.
        features: Channels of a token.
        blocks: Number of transformer blocks.
        heads: Attention heads, among which the channels are divided; each gets an even number.
        hidden_features: Channels of the gated perceptron in a block.
        position_grid: Tokens along every axis of the planned patch, each of which has a learnt position; positions are
            interpolated for other grids.
        layer_scale: Factor of all outputs of a block at first; it is learnt.
        drop_path: Probability with which the output of the last block is dropped for a sample in training; that of the
            others increases linearly up to it, from 0.
        decoder_features: Channels after every step of the decoder but the last.
    """

    family: Literal["plain_transformer"] = "plain_transformer"
    token_steps: Steps
    features: ChannelCount
    blocks: BlockCount
    heads: Count
    hidden_features: ChannelCount
    position_grid: Extents
    layer_scale: Positive
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    decoder_features: tuple[ChannelCount, ...]

    @property
    def patch_divisors(self) -> tuple[int, ...]:
        """The extents of the blocks of voxels that become tokens."""
        return tuple(prod(steps) for steps in zip(*self.token_steps, strict=True))

    def describe(self) -> Mapping[str, str]:
        """Describes the tokens and the blocks."""
        return {
            "features": " ".join(map(str, (self.features, *self.decoder_features))),
            "tokens": "x".join(map(str, self.patch_divisors)),
            "blocks": str(self.blocks),
            "heads": str(self.heads),
        }

    @model_validator(mode="after")
    def _check_extents(self) -> "PlainTransformerPlan":
        if any(len(extents) != self.dimensions for extents in (*self.token_steps, self.position_grid)):
            msg = f"token_steps and position_grid must have {self.dimensions} values each"
            raise ValueError(msg)
        if len(self.decoder_features) != len(self.token_steps) - 1:
            msg = f"decoder_features must describe {len(self.token_steps) - 1} steps, one fewer than token_steps"
            raise ValueError(msg)
        if self.features % (2 * self.heads) or self.features // self.heads < 2 * self.dimensions:
            msg = (
                f"features must be an even multiple of the {self.heads} heads, at least {2 * self.dimensions} for each"
            )
            raise ValueError(msg)
        return self
