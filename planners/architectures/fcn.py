"""Fully convolutional networks: FCN-32s, FCN-16s and FCN-8s."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.network import FcnPlan
from autoseg.plan.network.blocks import PlainBlockPlan
from autoseg.plan.network.layers import LayerPlan
from planners.architectures.architecture import Architecture, PublishedNetwork
from planners.reasons import format_amount, record
from planners.rules.topology import Topology
from planners.rules.unet import BASE_FEATURES, MOST_FEATURES, choose_features

VGG16_BLOCKS: Final = (2, 2, 3)  # convolutions of the first stages; the last number repeats (Simonyan, Zisserman 2015)
HEAD_FACTOR: Final = 8  # of VGG16: 4096 features of the classifier after 512
_LAYERS = LayerPlan(normalization="instance", activation="relu")


@dataclass(frozen=True, slots=True, kw_only=True)
class FcnProfile:
    """Chooses a fully convolutional network for a topology.

    Attributes:
        fused_stages: Stages whose scores are added, as far as there are so many.
        layers: Normalization and activation.
        upsampling: The step of scores to a higher resolution.
    """

    fused_stages: int
    layers: LayerPlan = _LAYERS
    upsampling: Literal["linear", "transposed"] = "linear"

    def __call__(
        self, topology: Topology, *, input_channels: int, output_channels: int, width: int | None = None
    ) -> tuple[FcnPlan, tuple[Reason, ...]]:
        """Returns the network with a reason for each of its parameters."""
        dimensions = len(topology.patch_voxels)
        features = choose_features(
            topology.stage_count - 1,
            dimensions=dimensions,
            width=width or BASE_FEATURES,
            most=MOST_FEATURES[dimensions],
        )
        head = choose_head(features.value[-1], topology.kernel_sizes[-1])
        fused = choose_fused_stages(self.fused_stages, topology.stage_count)
        network = self.build(
            (*features.value, head.value),
            kernel_sizes=topology.kernel_sizes,
            strides=topology.strides,
            input_channels=input_channels,
            output_channels=output_channels,
            fused_stages=fused.value,
        )
        return network, (
            record("features", features, ", ".join(map(str, features.value))),
            record("classifier", head, f"{head.value} features"),
            record("fused stages", fused, str(fused.value)),
        )

    def build(
        self,
        features: Sequence[int],
        *,
        kernel_sizes: Sequence[tuple[int, ...]],
        strides: Sequence[tuple[int, ...]],
        input_channels: int,
        output_channels: int,
        fused_stages: int,
    ) -> FcnPlan:
        """Builds the plan for features, kernels and strides of every stage."""
        last = len(VGG16_BLOCKS) - 1
        return FcnPlan(
            dimensions=2 if len(strides[0]) == 2 else 3,
            input_channels=input_channels,
            output_channels=output_channels,
            features_per_stage=tuple(features),
            kernel_sizes=tuple(kernel_sizes),
            strides=tuple(strides),
            blocks_per_stage=(*(VGG16_BLOCKS[min(stage, last)] for stage in range(len(features) - 1)), 1),
            block=PlainBlockPlan(),
            layers=self.layers,
            downsampling="max_pool",
            fused_stages=fused_stages,
            upsampling=self.upsampling,
            dropout=0.5,
        )


def choose_head(features: int, kernel: Sequence[int]) -> Decision[int]:
    """Chooses the features of the classifier, in proportion to the paper's 4096 after 512."""
    shape = " x ".join(map(str, kernel))
    because = (
        f"{HEAD_FACTOR} times the {features} features of the stage above, as published; kernels of {shape} where the "
        f"paper has 7, which would make up most of the network"
    )
    return Decision(HEAD_FACTOR * features, because)


def choose_fused_stages(wanted: int, stage_count: int) -> Decision[int]:
    """Fuses as many stages as published, if there are so many between the first and the last."""
    most = max(0, stage_count - 2)
    between = f"{format_amount(most, 'stage')} between the first and the last"
    if wanted > most:
        return Decision(most, f"{wanted} as published, but the network has {between}")
    return Decision(wanted, f"as published; the network has {between}")


def _build_architecture(name: str, fused_stages: int, sentence: str, parameter_count: int) -> Architecture:
    profile = FcnProfile(
        fused_stages=fused_stages,
        layers=LayerPlan(normalization="none", activation="relu"),
        upsampling="transposed",
    )
    published = profile.build(
        (64, 128, 256, 512, 512, 4096),
        kernel_sizes=(*((3, 3),) * 5, (7, 7)),
        strides=((1, 1), *((2, 2),) * 5),
        input_channels=3,
        output_channels=21,
        fused_stages=fused_stages,
    )
    return Architecture(
        name=name,
        sentence=sentence,
        source="Long et al. 2015, CVPR, arXiv:1411.4038",
        year=2014,
        choose_network=FcnProfile(fused_stages=fused_stages),
        published=(PublishedNetwork(plan=published, parameter_count=parameter_count),),
    )


FCN_32S: Final = _build_architecture(
    "fcn_32s", 0, "Fully convolutional network: scores of the lowest resolution, interpolated.", 136_152_917
)
FCN_16S: Final = _build_architecture(
    "fcn_16s", 1, "Fully convolutional network that adds the scores of one higher resolution.", 134_815_994
)
FCN_8S: Final = _build_architecture(
    "fcn_8s", 2, "Fully convolutional network that adds the scores of two higher resolutions.", 134_489_759
)
