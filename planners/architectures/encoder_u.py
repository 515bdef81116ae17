"""U-shaped networks with an encoder of the literature: TernausNet, CE-Net, U-Nets with ResNet and DenseNet."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.network import EncoderUPlan
from autoseg.plan.network.base import PretrainedPlan
from autoseg.plan.network.contexts import ContextPlan, DenseDilationPlan, MultiKernelPoolingPlan
from autoseg.plan.network.encoder_u import (
    DenseNetEncoderPlan,
    EncoderPlan,
    ResNetEncoderPlan,
    VggEncoderPlan,
)
from autoseg.plan.network.layers import LayerPlan, Normalization
from planners.architectures.architecture import Architecture, PublishedNetwork
from planners.reasons import format_amount, record
from planners.rules.contexts import fit_contexts
from planners.rules.stem import StemmedTopology, divide_topology
from planners.rules.topology import Topology
from planners.rules.unet import BASE_FEATURES

MOST_DECODER_FEATURES: Final = 256  # TernausNet


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderUProfile:
    """Chooses a network with an encoder of the literature for a topology.

    Attributes:
        name: Name of the encoder in the literature.
        encoder: Kind of the encoder.
        features: Features of each of its stages.
        blocks: Blocks of each of its stages.
        decoder: Decoder, by its name in the plan.
        contexts: Modules at the bottleneck.
        normalization: Normalization as published, for the weights of others.
        pretrained: Weights with which training begins.
    """

    name: str
    encoder: EncoderPlan
    features: tuple[int, ...]
    blocks: tuple[int, ...]
    decoder: Literal["convolution", "bottleneck"] = "convolution"
    contexts: tuple[ContextPlan, ...] = ()
    normalization: Normalization = "batch"
    pretrained: PretrainedPlan | None = None

    def __call__(
        self, topology: Topology, *, input_channels: int, output_channels: int, width: int | None = None
    ) -> tuple[EncoderUPlan, tuple[Reason, ...]]:
        """Returns the network with a reason for each of its parameters."""
        stages = divide_topology(topology, 0, most_stages=len(self.features))
        layers = self.choose_layers()
        features = self.choose_features(width)
        scaled = features.value
        network = scaled.build(
            stages.value, input_channels=input_channels, output_channels=output_channels, layers=layers.value
        )
        bottleneck = [
            extent // divisor for extent, divisor in zip(topology.patch_voxels, network.patch_divisors, strict=True)
        ]
        contexts, reasons = fit_contexts(self.contexts, bottleneck, network.features_per_stage[-1])
        network = network.model_copy(update={"contexts": contexts})
        first = explain_first_weights(self.pretrained)
        depth = Decision(network.stage_count, f"{self.name} has {len(self.features)}; {stages.because}")
        return network, (
            record("encoder", depth, f"{format_amount(network.stage_count, 'stage')} of {self.name}"),
            record("features", features, ", ".join(map(str, network.features_per_stage))),
            record("layers", layers, f"{layers.value.normalization} {layers.value.activation}"),
            record("first weights of the encoder", first, first.value),
            *reasons,
        )

    def with_pretrained(self, pretrained: PretrainedPlan) -> "EncoderUProfile":
        """Returns the profile whose networks begin with the weights of a file."""
        return replace(self, pretrained=pretrained)

    def choose_layers(self) -> Decision[LayerPlan]:
        """Chooses the published normalization for published weights, else that of a sample, which needs no batch."""
        if self.pretrained is None:
            because = "as in nnU-Net: independent of the other samples of a batch"
            return Decision(LayerPlan(normalization="instance", activation="relu"), because)
        because = "as published, for which the pretrained weights were trained"
        return Decision(LayerPlan(normalization=self.normalization, activation="relu"), because)

    def choose_features(self, width: int | None) -> "Decision[EncoderUProfile]":
        """Scales the features to a width, unless there are weights, which fit those that were published."""
        if self.pretrained is not None or width is None:
            because = "as published" if self.pretrained is None else "as published: those of the pretrained weights"
            return Decision(self, because)
        because = f"{width / BASE_FEATURES:.3g} times as many as published"
        encoder = self.encoder
        if isinstance(encoder, DenseNetEncoderPlan):
            growth = _scale(encoder.growth, width)
            features = compute_dense_features(growth, self.blocks)
            return Decision(replace(self, encoder=DenseNetEncoderPlan(growth=growth), features=features), because)
        return Decision(replace(self, features=tuple(_scale(wide, width) for wide in self.features)), because)

    def choose_decoder_features(self, features: Sequence[int]) -> tuple[int, ...]:
        """Returns the features of every decoder stage, lowest resolution first."""
        highest, *others = features[:-1]
        if self.decoder == "bottleneck":
            chosen = [max(1, highest // 2), *others]
        else:
            chosen = [max(1, min(MOST_DECODER_FEATURES, wide // 2)) for wide in (highest, *others)]
        return tuple(reversed(chosen))

    def build(
        self, topology: StemmedTopology, *, input_channels: int, output_channels: int, layers: LayerPlan
    ) -> EncoderUPlan:
        """Builds the plan for as many stages as the topology has."""
        count = len(topology.strides)
        features = self.features[:count]
        return EncoderUPlan(
            dimensions=2 if len(topology.strides[0]) == 2 else 3,
            input_channels=input_channels,
            output_channels=output_channels,
            features_per_stage=features,
            kernel_sizes=topology.kernel_sizes,
            strides=topology.strides,
            encoder=self.encoder,
            blocks_per_stage=self.blocks[:count],
            pretrained=self.pretrained,
            decoder=self.decoder,
            decoder_features_per_stage=self.choose_decoder_features(features),
            contexts=self.contexts,
            layers=layers,
        )

    def build_published(self) -> EncoderUPlan:
        """Builds the network of the paper, for colour images and one output."""
        count = len(self.features)
        topology = StemmedTopology(
            stem_kernels=(),
            stem_strides=(),
            kernel_sizes=((3, 3),) * count,
            strides=((1, 1), *((2, 2),) * (count - 1)),
        )
        layers = LayerPlan(normalization=self.normalization, activation="relu")
        return self.build(topology, input_channels=3, output_channels=1, layers=layers)


def explain_first_weights(pretrained: PretrainedPlan | None) -> Decision[str]:
    """Explains with which weights the training of an encoder begins."""
    if pretrained is None:
        return Decision("random", "no file was given (--pretrained)")
    return Decision(str(pretrained.path), f"as stated; the SHA-256 of the file is {pretrained.sha256}")


def compute_dense_features(growth: int, blocks: Sequence[int]) -> tuple[int, ...]:
    """Computes the features of every stage of a DenseNet, whose first convolution has twice its growth."""
    features = [2 * growth, 2 * growth, (2 + blocks[2]) * growth]
    for count in blocks[3:]:
        features.append(features[-1] // 2 + count * growth)
    return tuple(features)


def _scale(features: int, width: int) -> int:
    return max(1, features * width // BASE_FEATURES)


VGG11: Final = EncoderUProfile(
    name="VGG11",
    encoder=VggEncoderPlan(),
    features=(64, 128, 256, 512, 512, 512),
    blocks=(1, 1, 2, 2, 2, 0),
    normalization="none",
)
RESNET_18: Final = EncoderUProfile(
    name="ResNet-18",
    encoder=ResNetEncoderPlan(block="basic"),
    features=(64, 64, 64, 128, 256, 512),
    blocks=(0, 0, 2, 2, 2, 2),
)
RESNET_34: Final = replace(RESNET_18, name="ResNet-34", blocks=(0, 0, 3, 4, 6, 3))
RESNET_50: Final = replace(
    RESNET_34,
    name="ResNet-50",
    encoder=ResNetEncoderPlan(block="bottleneck"),
    features=(64, 64, 256, 512, 1024, 2048),
)
RESNET_101: Final = replace(RESNET_50, name="ResNet-101", blocks=(0, 0, 3, 4, 23, 3))
_DENSENET_BLOCKS: Final = (0, 0, 6, 12, 36, 24)
_DENSENET_GROWTH: Final = 48
DENSENET_161: Final = EncoderUProfile(
    name="DenseNet-161",
    encoder=DenseNetEncoderPlan(growth=_DENSENET_GROWTH),
    features=compute_dense_features(_DENSENET_GROWTH, _DENSENET_BLOCKS),
    blocks=_DENSENET_BLOCKS,
)
_CE_NET: Final = replace(
    RESNET_34,
    decoder="bottleneck",
    contexts=(DenseDilationPlan(), MultiKernelPoolingPlan(kernels=(2, 3, 5, 6))),
)

TERNAUS_NET: Final = Architecture(
    name="ternaus_net",
    sentence="U-Net with the encoder of VGG11, for pretrained weights.",
    source="Iglovikov and Shvets 2018, arXiv:1801.05746",
    year=2018,
    choose_network=VGG11,
    published=(PublishedNetwork(plan=VGG11.build_published(), parameter_count=22_927_393),),
)
CE_NET: Final = Architecture(
    name="ce_net",
    sentence="ResNet-34, dense dilated convolutions and multi-kernel pooling, a narrow decoder with sums.",
    source="Gu et al. 2019, TMI, arXiv:1903.02740",
    year=2019,
    choose_network=_CE_NET,
    published=(PublishedNetwork(plan=_CE_NET.build_published(), parameter_count=29_003_093),),
)


def _combine(name: str, profile: EncoderUProfile, source: str, year: int) -> Architecture:
    return Architecture(
        name=name,
        sentence=f"U-Net with the encoder of {profile.name}, for pretrained weights.",
        source=f"{source} (the encoder)",
        year=year,
        choose_network=profile,
    )


_RESNET_SOURCE: Final = "He et al. 2016, CVPR, arXiv:1512.03385"
RESNET_18_UNET: Final = _combine("resnet18_unet", RESNET_18, _RESNET_SOURCE, 2015)
RESNET_34_UNET: Final = _combine("resnet34_unet", RESNET_34, _RESNET_SOURCE, 2015)
RESNET_50_UNET: Final = _combine("resnet50_unet", RESNET_50, _RESNET_SOURCE, 2015)
RESNET_101_UNET: Final = _combine("resnet101_unet", RESNET_101, _RESNET_SOURCE, 2015)
DENSENET_161_UNET: Final = _combine("densenet161_unet", DENSENET_161, "Huang et al. 2017, CVPR, arXiv:1608.06993", 2016)
