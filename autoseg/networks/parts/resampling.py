"""Changes of resolution between the stages of a network."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import (
    CONVOLUTIONS,
    LINEAR,
    MAXIMUM_POOLINGS,
    POOLINGS,
    TRANSPOSED_CONVOLUTIONS,
    Enlargement,
)
from autoseg.networks.parts.layers import Layer, build_activation, build_kernel, build_normalization, get_ones
from autoseg.networks.parts.tokens import attend_without_map, pool_tokens
from autoseg.plan.network.contexts import NonLocalPlan
from autoseg.plan.network.layers import Downsampling, LayerPlan, Upsampling


def build_downsampling(
    kind: Downsampling, channels: int, stride: Sequence[int], layers: LayerPlan, *, channels_out: int
) -> nn.Module:
    """Builds the step to a lower resolution; the identity for a stride of ones.

    Args:
        kind: The value of the plan.
        channels: Channels of the input.
        stride: One value per axis.
        layers: Normalization and activation.
        channels_out: Channels of the result of "strided_wide"; all others have as many as before.
    """
    if all(step == 1 for step in stride):
        return nn.Identity()
    if kind == "max_pool":
        return MAXIMUM_POOLINGS[len(stride)](tuple(stride))
    if kind == "average_pool":
        return POOLINGS[len(stride)](tuple(stride))
    has_bias = layers.normalization == "none"
    wide = channels_out if kind == "strided_wide" else channels
    convolution = CONVOLUTIONS[len(stride)](channels, wide, tuple(stride), stride=tuple(stride), bias=has_bias)
    return nn.Sequential(convolution, build_normalization(layers, wide, len(stride)), build_activation(layers))


class UpsamplingStep(nn.Module):
    """The step to a higher resolution.

    Attributes:
        channels_out: Channels of the result.
    """

    def __init__(
        self,
        kind: Upsampling,
        channels_below: int,
        channels: int,
        *,
        stride: Sequence[int],
        kernel: Sequence[int],
        layers: LayerPlan,
    ) -> None:
        super().__init__()
        dimensions = len(stride)
        self.channels_out = channels_below if kind in ("linear", "transposed_wide") else channels
        if kind.startswith("transposed"):
            enlarge = TRANSPOSED_CONVOLUTIONS[dimensions]
            self.enlarge: nn.Module = enlarge(channels_below, self.channels_out, tuple(stride), stride=tuple(stride))
        else:
            self.enlarge = Enlargement(stride, "nearest" if kind == "nearest_convolution" else LINEAR[dimensions])
        self.convolution = (
            Layer(channels_below, channels, kernel, layers=layers) if kind.endswith("_convolution") else nn.Identity()
        )

    def forward(
        self, features: Float[Tensor, "batch channels_below *space_below"]
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Enlarges, then convolves where the kind says so."""
        enlarged: Tensor = self.convolution(self.enlarge(features))
        return enlarged


class NonLocalUpsampling(nn.Module):
    """The step to a higher resolution, to which attention of every new voxel to all voxels below is added.

    The global aggregation block of Wang et al. 2020, arXiv:1812.04103. No map of all pairs is kept.

    Attributes:
        channels_out: Channels of the result.
    """

    def __init__(self, plan: NonLocalPlan, step: UpsamplingStep, channels_below: int, *, dimensions: int) -> None:
        super().__init__()
        one = get_ones(range(dimensions))
        self.plan, self.channels_out = plan, step.channels_out
        inner = plan.heads * max(1, step.channels_out // plan.heads)
        self.step = step
        self.query = build_kernel(step.channels_out, inner, one)
        self.key = build_kernel(channels_below, inner, one, bias=False)  # it would add the same to all products
        self.value = build_kernel(channels_below, inner, one)
        self.output = build_kernel(inner, step.channels_out, one)

    def forward(
        self, features: Float[Tensor, "batch channels_below *space_below"]
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Enlarges, then adds what every voxel attends to."""
        enlarged: Tensor = self.step(features)
        tokens = pool_tokens(features, self.plan.tokens_limit)
        query, key, value = (
            part.reshape(len(part), self.plan.heads, part.shape[1] // self.plan.heads, -1).transpose(2, 3).contiguous()
            for part in (self.query(enlarged), self.key(tokens), self.value(tokens))
        )
        attended = attend_without_map(query, key, value).transpose(2, 3)
        added: Tensor = self.output(attended.reshape(len(features), -1, *enlarged.shape[2:]))
        return enlarged + added

    def start_as_shortcut(self) -> None:
        """Sets the weights of the last product to 0 (Wang et al. 2018, arXiv:1711.07971).

        Drawn ones let the loss grow beyond 50 on pictures of retinal vessels.
        """
        nn.init.zeros_(self.output.get_parameter("weight"))
