"""Networks with a dilated ResNet: DeepLabV3+ and DANet."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.network import DilatedPlan
from autoseg.plan.network.dilated import DualAttentionHeadPlan, HeadPlan, LowLevelHeadPlan, UnitKind
from autoseg.plan.network.layers import LayerPlan
from planners.architectures.architecture import Architecture, PublishedNetwork
from planners.architectures.contexts import ASPP, DUAL_ATTENTION
from planners.reasons import format_extents, record
from planners.rules.contexts import fit_contexts
from planners.rules.stem import StemmedTopology, divide_topology, format_strides
from planners.rules.topology import Topology
from planners.rules.unet import BASE_FEATURES, MOST_FEATURES, choose_features

STEM_FEATURES: Final = 64  # of ResNet, for the width of BASE_FEATURES
STEM_LAYERS: Final = 2  # a strided convolution and a maximum pooling
STEM_KERNEL: Final = 7
EXPANSIONS: Final[dict[UnitKind, int]] = {"basic": 1, "bottleneck": 4}
RESNET_50: Final = (3, 4, 6, 3)
RESNET_101: Final = (3, 4, 23, 3)
_LAYERS = LayerPlan(normalization="instance", activation="relu")


@dataclass(frozen=True, slots=True, kw_only=True)
class DilatedProfile:
    """Chooses a dilated ResNet for a topology.

    Attributes:
        head: The head as published.
        output_stride: Largest product of strides along an axis.
        output_weights: Weights of the trained outputs.
        blocks: Residual blocks of every stage; the last number repeats.
        block: Kind of these.
        layers: Normalization and activation.
    """

    head: HeadPlan
    output_stride: int
    output_weights: tuple[float, ...] = (1.0,)
    blocks: tuple[int, ...] = RESNET_50
    block: UnitKind = "bottleneck"
    layers: LayerPlan = _LAYERS

    def __call__(
        self, topology: Topology, *, input_channels: int, output_channels: int, width: int | None = None
    ) -> tuple[DilatedPlan, tuple[Reason, ...]]:
        """Returns the network with a reason for each of its parameters."""
        stem = divide_topology(topology, STEM_LAYERS)
        base = (width or BASE_FEATURES) * STEM_FEATURES // BASE_FEATURES
        features = self.choose_features(stem.value, base)
        network = self.build(
            features.value,
            stem.value,
            base=base,
            input_channels=input_channels,
            output_channels=output_channels,
        )
        output = choose_output_extents(topology, network)
        head, reasons = fit_head(network.head, output.value, network)
        return network.model_copy(update={"head": head}), (
            record("features", features, ", ".join(map(str, features.value))),
            record("stem", stem, format_strides(stem.value.stem_strides)),
            record("output stride", output, str(self.output_stride)),
            *reasons,
        )

    def choose_features(self, topology: StemmedTopology, base: int) -> Decision[tuple[int, ...]]:
        """Chooses the features of every stage; those of a bottleneck are four times as wide as its convolution."""
        dimensions, expansion = len(topology.strides[0]), EXPANSIONS[self.block]
        return choose_features(
            len(topology.strides),
            dimensions=dimensions,
            width=expansion * base,
            most=expansion * MOST_FEATURES[dimensions],
        )

    def build(
        self,
        features: Sequence[int],
        topology: StemmedTopology,
        *,
        base: int,
        input_channels: int,
        output_channels: int,
    ) -> DilatedPlan:
        """Builds the plan for features, and for `base` features of the stem."""
        last = len(self.blocks) - 1
        return DilatedPlan(
            dimensions=2 if len(topology.strides[0]) == 2 else 3,
            input_channels=input_channels,
            output_channels=output_channels,
            features_per_stage=tuple(features),
            kernel_sizes=topology.kernel_sizes,
            strides=topology.strides,
            stem_features=base,
            stem_kernel_sizes=widen_stem_kernels(topology),
            stem_strides=topology.stem_strides,
            layers=self.layers,
            blocks_per_stage=tuple(self.blocks[min(stage, last)] for stage in range(len(features))),
            block=self.block,
            output_stride=self.output_stride,
            head=scale_head(self.head, base),
            output_weights=self.output_weights,
        )

    def build_published(self, blocks: tuple[int, ...], output_channels: int) -> DilatedPlan:
        """Builds the network of a paper, for colour images."""
        topology = StemmedTopology(
            stem_kernels=((3, 3),) * STEM_LAYERS,
            stem_strides=((2, 2),) * STEM_LAYERS,
            kernel_sizes=((3, 3),) * 4,
            strides=((1, 1), *((2, 2),) * 3),
        )
        published = replace(self, blocks=blocks, layers=LayerPlan(normalization="batch", activation="relu"))
        return published.build(
            self.choose_features(topology, STEM_FEATURES).value,
            topology,
            base=STEM_FEATURES,
            input_channels=3,
            output_channels=output_channels,
        )


def widen_stem_kernels(topology: StemmedTopology) -> tuple[tuple[int, ...], ...]:
    """Widens the kernel of the convolution along axes with kernels above one; poolings reduce strided axes alone."""
    convolution = tuple(STEM_KERNEL if extent > 1 else 1 for extent in topology.stem_kernels[0])
    poolings = (
        tuple(extent if step > 1 else 1 for extent, step in zip(kernel, stride, strict=True))
        for kernel, stride in zip(topology.stem_kernels[1:], topology.stem_strides[1:], strict=True)
    )
    return (convolution, *poolings)


def choose_output_extents(topology: Topology, network: DilatedPlan) -> Decision[tuple[int, ...]]:
    """Finds the extents of the features of the last stage."""
    divisors = network.patch_divisors
    extents = tuple(extent // divisor for extent, divisor in zip(topology.patch_voxels, divisors, strict=True))
    because = (
        f"as published; the last stage has {format_extents(extents)} voxels where strides of "
        f"{format_extents(topology.divisors)} would leave {format_extents(topology.bottleneck_voxels)}"
    )
    return Decision(extents, because)


def scale_head(head: HeadPlan, base: int) -> HeadPlan:
    """Scales the channels of a head, which are published for a stem of `STEM_FEATURES`."""
    if isinstance(head, LowLevelHeadPlan):
        context = head.context.model_copy(update={"channels": _scale(head.context.channels, base)})
        return LowLevelHeadPlan(
            context=context,
            low_level_channels=_scale(head.low_level_channels, base),
            channels=_scale(head.channels, base),
        )
    if isinstance(head, DualAttentionHeadPlan):
        return head.model_copy(update={"channels": _scale(head.channels, base)})
    return head


def fit_head(
    head: HeadPlan, bottleneck_voxels: Sequence[int], network: DilatedPlan
) -> tuple[HeadPlan, tuple[Reason, ...]]:
    """Fits the context module of a head to the last stage."""
    if not isinstance(head, LowLevelHeadPlan):
        return head, ()
    (context,), reasons = fit_contexts((head.context,), bottleneck_voxels, network.features_per_stage[-1])
    return head.model_copy(update={"context": context}), reasons


def _scale(channels: int, base: int) -> int:
    return max(1, channels * base // STEM_FEATURES)


_DEEPLAB = DilatedProfile(
    head=LowLevelHeadPlan(context=ASPP, low_level_channels=48, channels=256),
    output_stride=16,
)
DEEPLAB_V3_PLUS: Final = Architecture(
    name="deeplab_v3_plus",
    sentence="Dilated ResNet-50 with parallel dilated convolutions (ASPP) and features of high resolution.",
    source="Chen et al. 2018, ECCV, arXiv:1802.02611",
    year=2018,
    choose_network=_DEEPLAB,
    published=(
        PublishedNetwork(
            variant="ResNet-101", plan=_DEEPLAB.build_published(RESNET_101, 21), parameter_count=59_344_309
        ),
        PublishedNetwork(variant="ResNet-50", plan=_DEEPLAB.build_published(RESNET_50, 21), parameter_count=40_352_181),
    ),
)
_DANET = DilatedProfile(
    head=DualAttentionHeadPlan(context=DUAL_ATTENTION, channels=512),
    output_stride=8,
    output_weights=(1.0, 1.0, 1.0),
)
DANET: Final = Architecture(
    name="danet",
    sentence="Dilated ResNet-50 with attention between positions and between channels, both trained on their own too.",
    source="Fu et al. 2019, CVPR, arXiv:1809.02983",
    year=2018,
    choose_network=_DANET,
    published=(
        PublishedNetwork(variant="ResNet-101", plan=_DANET.build_published(RESNET_101, 19), parameter_count=66_454_779),
        PublishedNetwork(variant="ResNet-50", plan=_DANET.build_published(RESNET_50, 19), parameter_count=47_462_651),
    ),
)
