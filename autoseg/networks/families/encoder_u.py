"""U-shaped networks with an encoder of the literature: TernausNet, CE-Net."""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import TRANSPOSED_CONVOLUTIONS
from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.contexts import build_context
from autoseg.networks.parts.contexts.context import ContextSite
from autoseg.networks.parts.encoders import build_encoder
from autoseg.networks.parts.layers import Layer, build_activation, build_kernel, build_normalization, get_ones
from autoseg.plan.network.encoder_u import EncoderUPlan
from autoseg.plan.network.layers import LayerPlan

REDUCTION: Final = 4  # of the features between the convolutions of one voxel of CE-Net's decoder


class EncoderUNetwork(SegmentationNetwork):
    """An encoder, context modules, and a decoder. `decoder` goes from the lowest resolution up."""

    plan: EncoderUPlan

    def __init__(self, plan: EncoderUPlan) -> None:
        super().__init__(plan)
        self.encoder = build_encoder(plan)
        channels = self.encoder.channels[-1]
        self.contexts = nn.ModuleList()
        for context in plan.contexts:
            site = ContextSite(channels=channels, kernel=plan.kernel_sizes[-1], layers=plan.layers)
            built = build_context(context, site)
            self.contexts.append(built)
            channels = built.channels_out
        self.decoder = nn.ModuleList()
        build = DECODERS[plan.decoder]
        for level in reversed(range(plan.stage_count - 1)):
            skip = self.encoder.channels[level] if level >= self.encoder.first_skip else 0
            step = build(plan, level, channels_below=channels, skip_channels=skip)
            self.decoder.append(step)
            channels = step.channels_out
        self.finish, self.head = build_finish(plan, channels)

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Float[Tensor, "batch output ..."], ...]:
        """Computes logits."""
        skips = self.encoder(image)
        features = skips.pop()
        for context in self.contexts:
            features = context(features)
        for step in self.decoder:
            features = step(features, skips.pop())
        logits: Tensor = self.head(self.finish(features))
        return (logits,)

    @property
    def output_weights(self) -> tuple[float, ...]:
        """There is one output."""
        return (1.0,)

    @property
    def single_precision_modules(self) -> tuple[str, ...]:
        """The head."""
        return ("head",)


class ConcatenatingStep(nn.Module):
    """A convolution, a transposed convolution, then the concatenation (TernausNet).

    Attributes:
        channels_out: Channels of the result.
    """

    def __init__(self, plan: EncoderUPlan, level: int, *, channels_below: int, skip_channels: int) -> None:
        super().__init__()
        lowest = level == plan.stage_count - 2
        channels = get_decoder_features(plan, level)
        wide = 2 * (channels if lowest else get_decoder_features(plan, level + 1))
        self.has_skip = skip_channels > 0
        self.channels_out = channels + skip_channels
        self.convolution = Layer(channels_below, wide, plan.kernel_sizes[level + 1], layers=plan.layers)
        self.enlargement = build_enlargement(
            (wide, channels), plan.kernel_sizes[level], stride=plan.strides[level + 1], layers=plan.layers
        )

    def forward(
        self, below: Float[Tensor, "batch channels_below *space_below"], encoded: Float[Tensor, "batch _channels ..."]
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Enlarges, then joins the features of the encoder where it has some."""
        features: Tensor = self.enlargement(self.convolution(below))
        return torch.cat((features, encoded), dim=1) if self.has_skip else features


class AddingStep(nn.Module):
    """A transposed convolution between two of one voxel, then the sum (CE-Net); at full resolution it is alone.

    Attributes:
        channels_out: Channels of the result.
    """

    def __init__(self, plan: EncoderUPlan, level: int, *, channels_below: int, skip_channels: int) -> None:
        super().__init__()
        self.channels_out = channels = get_decoder_features(plan, level)
        self.has_skip = skip_channels > 0
        kernel, stride, layers = plan.kernel_sizes[level], plan.strides[level + 1], plan.layers
        if level == 0:
            doubled = tuple(2 * step if step > 1 else 1 for step in stride)
            self.enlargement = build_enlargement((channels_below, channels), doubled, stride=stride, layers=layers)
            return
        one, narrow = get_ones(kernel), max(1, channels_below // REDUCTION)
        self.enlargement = nn.Sequential(
            Layer(channels_below, narrow, one, layers=layers),
            build_enlargement((narrow, narrow), kernel, stride=stride, layers=layers),
            Layer(narrow, channels, one, layers=layers),
        )

    def forward(
        self, below: Float[Tensor, "batch channels_below *space_below"], encoded: Float[Tensor, "batch _channels ..."]
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Enlarges, then adds the features of the encoder where it has some."""
        features: Tensor = self.enlargement(below)
        return features + encoded if self.has_skip else features


DECODERS: Final[dict[str, type[ConcatenatingStep] | type[AddingStep]]] = {
    "convolution": ConcatenatingStep,
    "bottleneck": AddingStep,
}
"""By the values of `EncoderUPlan.decoder`."""


def get_decoder_features(plan: EncoderUPlan, level: int) -> int:
    """Returns the features of the decoder at the resolution of a stage."""
    return plan.decoder_features_per_stage[plan.stage_count - 2 - level]


def build_finish(plan: EncoderUPlan, channels_in: int) -> tuple[nn.Module, nn.Module]:
    """Builds the last convolution of the full resolution, and what computes logits from it."""
    channels, kernel = get_decoder_features(plan, 0), plan.kernel_sizes[0]
    finish = Layer(channels_in, channels, kernel, layers=plan.layers)
    classifier = kernel if plan.decoder == "bottleneck" else get_ones(kernel)
    return finish, build_kernel(channels, plan.output_channels, classifier)


def build_enlargement(
    channels: tuple[int, int], kernel: Sequence[int], *, stride: Sequence[int], layers: LayerPlan
) -> nn.Sequential:
    """Builds a transposed convolution with normalization and activation; its patches leave no gaps.

    Args:
        channels: Channels before and after it.
        kernel: Extents; where these are smaller than the stride, the stride.
        stride: Ratio of the resolutions.
        layers: Normalization and activation.
    """
    extents = tuple(map(max, kernel, stride))
    padding = tuple((extent - step + 1) // 2 for extent, step in zip(extents, stride, strict=True))
    added = tuple(step - extent + 2 * sides for extent, step, sides in zip(extents, stride, padding, strict=True))
    enlarge = TRANSPOSED_CONVOLUTIONS[len(stride)]
    convolution = enlarge(*channels, extents, stride=tuple(stride), padding=padding, output_padding=added)
    return nn.Sequential(convolution, build_normalization(layers, channels[1], len(stride)), build_activation(layers))
