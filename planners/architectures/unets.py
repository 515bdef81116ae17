"""The first U-Nets, in 2D and in 3D."""

from dataclasses import replace
from typing import Final

from autoseg.plan.network.blocks import PlainBlockPlan
from autoseg.plan.network.layers import LayerPlan
from planners.architectures.architecture import Architecture, PublishedNetwork
from planners.architectures.u_shaped import UShapedProfile
from planners.architectures.unpadded import build_unpadded_topology

_U_NET = UShapedProfile(
    layers=LayerPlan(normalization="instance", activation="relu"),
    dropout=0.5,
)
_WITHOUT_NORMALIZATION = replace(_U_NET, layers=LayerPlan(normalization="none", activation="relu"))

U_NET: Final = Architecture(
    name="u_net",
    sentence="The first U-Net: two convolutions per stage, max pooling, dropout at the bottleneck.",
    source="Ronneberger et al. 2015, MICCAI, arXiv:1505.04597",
    year=2015,
    choose_network=_U_NET,
    published=(
        PublishedNetwork(
            plan=_WITHOUT_NORMALIZATION.build_published(
                (64, 128, 256, 512, 1024), dimensions=2, input_channels=1, output_channels=2
            ),
            parameter_count=31_030_658,
        ),
        PublishedNetwork(
            variant="half width",
            plan=_WITHOUT_NORMALIZATION.build_published(
                (32, 64, 128, 256, 512), dimensions=2, input_channels=1, output_channels=2
            ),
            parameter_count=7_759_554,
        ),
        PublishedNetwork(
            variant="quarter width",
            plan=_WITHOUT_NORMALIZATION.build_published(
                (16, 32, 64, 128, 256), dimensions=2, input_channels=1, output_channels=2
            ),
            parameter_count=1_940_834,
        ),
    ),
)

_U_NET_VALID = replace(_U_NET, padding="valid")
U_NET_VALID: Final = Architecture(
    name="u_net_valid",
    sentence="The first U-Net without padding, as published: mirrored borders, tiles that fit without a seam.",
    source=U_NET.source,
    year=U_NET.year,
    choose_network=_U_NET_VALID,
    topology=build_unpadded_topology(_U_NET_VALID),
    published=(
        PublishedNetwork(
            plan=replace(_WITHOUT_NORMALIZATION, padding="valid").build_published(
                (64, 128, 256, 512, 1024), dimensions=2, input_channels=1, output_channels=2
            ),
            parameter_count=31_030_658,
            extents_voxels=(572, 572),
        ),
    ),
)

_U_NET_3D = UShapedProfile(
    block=PlainBlockPlan(first_width="half"),
    decoder_block=PlainBlockPlan(),
    layers=LayerPlan(normalization="instance", activation="relu"),
    upsampling="transposed_wide",
)
_U_NET_3D_CODE = replace(_U_NET_3D, layers=LayerPlan(normalization="batch", activation="relu"))
U_NET_3D: Final = Architecture(
    name="u_net_3d",
    sentence="The 3D U-Net: features double before the resolution is halved, and stay as wide in upsampling.",
    source="Cicek et al. 2016, MICCAI, arXiv:1606.06650",
    year=2016,
    choose_network=_U_NET_3D,
    published=(
        PublishedNetwork(
            plan=_U_NET_3D_CODE.build_published((64, 128, 256, 512), dimensions=3, input_channels=3, output_channels=3),
            parameter_count=19_069_955,
        ),
    ),
)
