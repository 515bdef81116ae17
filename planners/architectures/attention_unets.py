"""U-Nets with attention that was learnt to be looked at: gates on skip connections, and a stream of shapes."""

from dataclasses import replace
from typing import Final

from autoseg.plan.network.attentions import DualExcitationPlan
from autoseg.plan.network.blocks import DensePlan, PlainBlockPlan
from autoseg.plan.network.layers import LayerPlan
from autoseg.plan.network.skips import AttentionGatePlan
from planners.architectures.architecture import Architecture, PublishedNetwork
from planners.architectures.u_shaped import UShapedProfile

_BATCH = LayerPlan(normalization="batch", activation="relu")
_ATTENTION_UNET = UShapedProfile(
    skip=AttentionGatePlan(signal="below", gates=1, reduction=1),
    layers=LayerPlan(normalization="instance", activation="relu"),
    upsampling="linear",
)
_TWO_DIMENSIONS = replace(
    _ATTENTION_UNET,
    skip=AttentionGatePlan(signal="upsampled", gates=1, reduction=2),
    layers=_BATCH,
    upsampling="nearest_convolution",
)
_THREE_DIMENSIONS = replace(
    _ATTENTION_UNET,
    skip=AttentionGatePlan(signal="below", gates=2, reduction=1),
    layers=_BATCH,
    supervision="fused",
)
"""Beside the published one, there is a gate at the full resolution as well and a head at the bottleneck; the gates of
the lowest resolution read the bottleneck itself, without another convolution."""
ATTENTION_UNET: Final = Architecture(
    name="attention_unet",
    sentence="A U-Net that weights every voxel of the encoder's features before they join the decoder.",
    source="Oktay et al. 2018, MIDL, arXiv:1804.03999",
    year=2018,
    choose_network=_ATTENTION_UNET,
    published=(
        PublishedNetwork(
            variant="2d",
            plan=_TWO_DIMENSIONS.build_published(
                (64, 128, 256, 512, 1024), dimensions=2, input_channels=3, output_channels=1
            ),
            parameter_count=34_878_573,
        ),
        PublishedNetwork(
            variant="3d",
            plan=_THREE_DIMENSIONS.build_published(
                (16, 32, 64, 128, 256),
                dimensions=3,
                input_channels=1,
                output_channels=4,
                output_weights=(1.0,) * 6,
            ),
            parameter_count=6_473_322,
        ),
    ),
)
SAU_NET: Final = Architecture(
    name="sau_net",
    sentence="A U-Net with dense blocks, attention in every stage, and a second stream that finds edges.",
    source="Sun et al. 2020, MICCAI, arXiv:2001.07645",
    year=2020,
    choose_network=UShapedProfile(
        block=DensePlan(growth=0.5),
        decoder_block=PlainBlockPlan(),
        decoder_blocks=1,
        attention=DualExcitationPlan(reduction=16),
        layers=LayerPlan(normalization="instance", activation="relu"),
        edge_weight=1.0,
    ),
)
"""Beside the published one, the encoder has stages of four convolutions in place of those of DenseNet-121, attention as
the decoder has, and no edges of the image that were found by another method."""
