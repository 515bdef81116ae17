"""U2-Net, a U-Net of U-Nets."""

from dataclasses import replace
from typing import Final

from autoseg.plan.network.blocks import ResidualUPlan
from autoseg.plan.network.layers import LayerPlan
from planners.architectures.architecture import Architecture, PublishedNetwork
from planners.architectures.u_shaped import UShapedProfile

_U2_NET = UShapedProfile(
    width=64,
    encoder_blocks=(1,),
    decoder_blocks=1,
    decoder_features="higher",
    block=ResidualUPlan(reduction=4, dilated_reduction=2),
    decoder_block=ResidualUPlan(reduction=2, dilated_reduction=2),
    layers=LayerPlan(normalization="instance", activation="relu"),
    upsampling="linear",
    supervision="fused",
)
_CODE = replace(_U2_NET, layers=LayerPlan(normalization="batch", activation="relu"))
"""The published heads are convolutions of 3 voxels, and the small U-Nets of the full resolution have 32 features in the
encoder and 16 in the decoder, instead of 16 and 32."""
_SMALL_BLOCK = ResidualUPlan(reduction=4, dilated_reduction=4)
U2_NET: Final = Architecture(
    name="u2_net",
    sentence="A U-Net whose every stage is a small U-Net with a shortcut; a fused output and those of all stages.",
    source="Qin et al. 2020, Pattern Recognition 106, arXiv:2005.09007",
    year=2020,
    choose_network=_U2_NET,
    published=(
        PublishedNetwork(
            plan=_CODE.build_published(
                (64, 128, 256, 512, 512, 512),
                dimensions=2,
                input_channels=3,
                output_channels=1,
                output_weights=(1.0,) * 7,
            ),
            parameter_count=44_009_869,
        ),
        PublishedNetwork(
            variant="small",
            plan=replace(_CODE, block=_SMALL_BLOCK, decoder_block=_SMALL_BLOCK).build_published(
                (64,) * 6, dimensions=2, input_channels=3, output_channels=1, output_weights=(1.0,) * 7
            ),
            parameter_count=1_131_181,
        ),
    ),
)
