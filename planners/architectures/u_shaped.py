"""The profile of a U-shaped network: the values in which one paper differs from another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.network import UShapedPlan
from autoseg.plan.network.attentions import AttentionPlan
from autoseg.plan.network.blocks import BlockPlan, PlainBlockPlan
from autoseg.plan.network.contexts import ContextPlan, NonLocalPlan
from autoseg.plan.network.layers import Downsampling, LayerPlan, Upsampling
from autoseg.plan.network.shape_stream import ShapeStreamPlan
from autoseg.plan.network.skips import ConcatenationPlan, SkipPlan
from autoseg.plan.network.u_shaped import Padding, Supervision
from planners.reasons import format_amount, record
from planners.rules.contexts import fit_contexts
from planners.rules.topology import Topology, choose_deep_supervision
from planners.rules.unet import MOST_FEATURES, choose_features

DecoderWidth = Literal["same", "higher", "doubled"]

MOST_GATES: Final = 3  # of a shape stream, as published

_PLAIN = PlainBlockPlan()
_CONCATENATION = ConcatenationPlan()
_LAYERS = LayerPlan(normalization="instance", activation="leaky_relu")


@dataclass(frozen=True, slots=True, kw_only=True)
class UShapedProfile:
    """Chooses a U-shaped network for a topology.

    Attributes:
        width: Features of the first stage, doubled with every further one.
        most_features: Their limit; None: that of nnU-Net.
        encoder_blocks: Blocks of the first encoder stages; the last number repeats.
        kernel: Extent of the kernels along the axes where the topology has more than one voxel.
        decoder_blocks: Blocks of every decoder stage, or of the first of them from the full resolution down; the last
            number repeats.
        decoder_features: Features of a decoder stage: those of the encoder's stage of the same resolution, or of the
            next higher one, or "doubled", as many as the stages of encoder and decoder have together.
        padding: "valid" needs a topology by `planners.architectures.unpadded`.
        block: Blocks of the encoder.
        decoder_block: Blocks of the decoder; None: the same.
        output_weight_step: Weight of a trained output as a share of that of the next higher resolution.
        edge_weight: Weight in the loss of the edges that a shape stream finds; None: there is no such stream.
    """

    width: int = 32
    most_features: int | None = None
    encoder_blocks: tuple[int, ...] = (2,)
    kernel: int = 3
    decoder_blocks: int | tuple[int, ...] = 2
    decoder_features: DecoderWidth = "same"
    block: BlockPlan = _PLAIN
    decoder_block: BlockPlan | None = None
    skip: SkipPlan = _CONCATENATION
    contexts: tuple[ContextPlan, ...] = ()
    attention: AttentionPlan | None = None
    layers: LayerPlan = _LAYERS
    downsampling: Downsampling = "max_pool"
    upsampling: Upsampling = "transposed"
    padding: Padding = "same"
    dropout: float = 0.0
    supervision: Supervision = "own_resolution"
    output_weight_step: float = 0.5
    upsampling_attention: NonLocalPlan | None = None
    edge_weight: float | None = None

    def __call__(
        self, topology: Topology, *, input_channels: int, output_channels: int, width: int | None = None
    ) -> tuple[UShapedPlan, tuple[Reason, ...]]:
        """Returns the network with a reason for each of its parameters."""
        dimensions = len(topology.patch_voxels)
        features = choose_features(
            topology.stage_count,
            dimensions=dimensions,
            width=width or self.width,
            most=self.most_features or MOST_FEATURES[dimensions],
        )
        outputs = self.choose_output_weights(topology)
        contexts, reasons = fit_contexts(self.contexts, topology.bottleneck_voxels, features.value[-1])
        stream = self.choose_shape_stream(features.value)
        network = replace(self, contexts=contexts).build(
            features.value,
            kernel_sizes=[
                tuple(self.kernel if extent > 1 else 1 for extent in extents) for extents in topology.kernel_sizes
            ],
            strides=topology.strides,
            input_channels=input_channels,
            output_channels=output_channels,
            output_weights=outputs.value,
        )
        return network, (
            record("features", features, _format(features.value)),
            record("outputs", outputs, ", ".join(f"{weight:.3g}" for weight in outputs.value)),
            *reasons,
            *(
                []
                if stream.value is None
                else [record("shape stream", stream, _format(stream.value.features_per_gate))]
            ),
        )

    def choose_shape_stream(self, features: Sequence[int]) -> Decision[ShapeStreamPlan | None]:
        """Chooses the gates of a shape stream, whose channels are halved from one to the next, as published."""
        if self.edge_weight is None:
            return Decision(None, "not a part of this network")
        count = min(MOST_GATES, len(features) - 1)
        widths = tuple(max(1, features[0] // 2**index) for index in range(count))
        return Decision(
            ShapeStreamPlan(features_per_gate=widths, edge_weight=self.edge_weight),
            f"as published: {format_amount(count, 'gate')} for the last stages of the encoder; the loss of the edges "
            f"counts {self.edge_weight:g}",
        )

    def choose_output_weights(self, topology: Topology) -> Decision[tuple[float, ...]]:
        """Chooses the weights of the trained outputs."""
        if self.supervision == "fused":
            weights = (1.0,) * (topology.stage_count + 1)
            return Decision(weights, "as published: the fused output and those of all stages count alike")
        if self.padding == "valid":
            return Decision((1.0,), "without padding the full resolution alone is trained, as published")
        supervised = choose_deep_supervision(topology)
        count = topology.stage_count - 2 if supervised.value else 1
        weights = tuple(self.output_weight_step**index for index in range(count))
        return Decision(weights, supervised.because)

    def choose_decoder_features(self, features: Sequence[int]) -> tuple[int, ...]:
        """Returns the features of every decoder stage, lowest resolution first."""
        if self.decoder_features == "doubled":
            chosen = [2 * width for width in features[:-1]]
        elif self.decoder_features == "higher":
            chosen = [features[0], *features[:-2]]
        else:
            chosen = list(features[:-1])
        return tuple(reversed(chosen))

    def build(
        self,
        features: Sequence[int],
        *,
        kernel_sizes: Sequence[tuple[int, ...]],
        strides: Sequence[tuple[int, ...]],
        input_channels: int,
        output_channels: int,
        output_weights: tuple[float, ...] = (1.0,),
    ) -> UShapedPlan:
        """Builds the plan for features, kernels and strides of every stage."""
        stages = len(features)
        decoder_blocks = (self.decoder_blocks,) if isinstance(self.decoder_blocks, int) else self.decoder_blocks
        return UShapedPlan(
            dimensions=2 if len(strides[0]) == 2 else 3,
            input_channels=input_channels,
            output_channels=output_channels,
            features_per_stage=tuple(features),
            kernel_sizes=tuple(kernel_sizes),
            strides=tuple(strides),
            decoder_features_per_stage=self.choose_decoder_features(features),
            blocks_per_stage=_repeat_last(self.encoder_blocks, stages),
            decoder_blocks_per_stage=_repeat_last(decoder_blocks, stages - 1)[::-1],
            block=self.block,
            decoder_block=self.decoder_block or self.block,
            skip=self.skip,
            contexts=self.contexts,
            attention=self.attention,
            layers=self.layers,
            downsampling=self.downsampling,
            upsampling=self.upsampling,
            padding=self.padding,
            dropout=self.dropout,
            supervision=self.supervision,
            output_weights=output_weights,
            upsampling_attention=self.upsampling_attention,
            shape_stream=self.choose_shape_stream(features).value,
        )

    def build_published(
        self,
        features: Sequence[int],
        *,
        dimensions: int,
        input_channels: int,
        output_channels: int,
        kernel: int = 3,
        output_weights: tuple[float, ...] = (1.0,),
    ) -> UShapedPlan:
        """Builds the network of a paper, whose stages have equal kernels and halve all axes."""
        return self.build(
            features,
            kernel_sizes=((kernel,) * dimensions,) * len(features),
            strides=((1,) * dimensions, *((2,) * dimensions,) * (len(features) - 1)),
            input_channels=input_channels,
            output_channels=output_channels,
            output_weights=output_weights,
        )


def _format(features: Sequence[int]) -> str:
    return ", ".join(map(str, features))


def _repeat_last(counts: tuple[int, ...], length: int) -> tuple[int, ...]:
    return tuple(counts[min(index, len(counts) - 1)] for index in range(length))
