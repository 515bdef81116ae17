"""U-Nets of residual, recurrent and dense blocks."""

from dataclasses import replace
from typing import Final

from autoseg.plan.network.blocks import (
    DensePlan,
    MultiResPlan,
    RecurrentResidualPlan,
    ResidualBlockPlan,
    ResidualStagePlan,
)
from autoseg.plan.network.layers import LayerPlan
from autoseg.plan.network.skips import ResidualPathPlan
from planners.architectures.architecture import Architecture, PublishedNetwork
from planners.architectures.u_shaped import UShapedProfile

_INSTANCE = LayerPlan(normalization="instance", activation="relu")
_BATCH = LayerPlan(normalization="batch", activation="relu")

_V_NET = UShapedProfile(
    width=16,
    kernel=5,
    encoder_blocks=(1, 2, 3),
    decoder_blocks=(1, 2, 3),
    decoder_features="doubled",
    block=ResidualStagePlan(),
    layers=LayerPlan(normalization="instance", activation="prelu"),
    downsampling="strided_wide",
)
_V_NET_CODE = replace(
    _V_NET,
    encoder_blocks=(1, 1, 2, 3, 2),
    decoder_blocks=(1, 1, 2, 2),
    layers=LayerPlan(normalization="batch", activation="elu"),
)
"""The counted code has fewer convolutions than the paper; it repeats the image as its first shortcut, and normalizes
transposed convolutions and a first head."""
V_NET: Final = Architecture(
    name="v_net",
    sentence="Stages of convolutions of 5 voxels with one shortcut around each stage, strided convolutions, PReLU.",
    source="Milletari et al. 2016, 3DV, arXiv:1606.04797",
    year=2016,
    choose_network=_V_NET,
    published=(
        PublishedNetwork(
            plan=_V_NET_CODE.build_published(
                (16, 32, 64, 128, 256), dimensions=3, input_channels=1, output_channels=2, kernel=5
            ),
            parameter_count=45_603_934,
        ),
    ),
)

_RES_UNET = UShapedProfile(
    encoder_blocks=(1,), decoder_blocks=1, block=ResidualBlockPlan(), layers=_INSTANCE, downsampling="strided"
)
RES_UNET: Final = Architecture(
    name="res_unet",
    sentence="A U-Net of residual blocks in encoder and decoder, one per stage, with strided convolutions.",
    source="Zhang et al. 2018, IEEE GRSL 15, arXiv:1711.10684",
    year=2018,
    choose_network=_RES_UNET,
)

_R2U_NET = UShapedProfile(
    encoder_blocks=(1,),
    decoder_blocks=1,
    block=RecurrentResidualPlan(recurrences=2),
    layers=_INSTANCE,
    upsampling="nearest_convolution",
)
R2U_NET: Final = Architecture(
    name="r2u_net",
    sentence="A U-Net whose convolutions are applied three times each with the same weights, inside residual blocks.",
    source="Alom et al. 2018, arXiv:1802.06955",
    year=2018,
    choose_network=_R2U_NET,
    published=(
        PublishedNetwork(
            plan=replace(_R2U_NET, layers=_BATCH).build_published(
                (64, 128, 256, 512, 1024), dimensions=2, input_channels=3, output_channels=1
            ),
            parameter_count=39_091_393,
            multiply_adds=152.5e9,
            extents_voxels=(256, 256),
        ),
    ),
)

_MULTIRES_UNET = UShapedProfile(
    encoder_blocks=(1,),
    decoder_blocks=1,
    block=MultiResPlan(width=1.67),
    skip=ResidualPathPlan(),
    layers=_INSTANCE,
)
_MULTIRES_UNET_CODE = replace(_MULTIRES_UNET, layers=_BATCH)
MULTIRES_UNET: Final = Architecture(
    name="multires_unet",
    sentence="A U-Net of blocks that join three chained convolutions, with residual paths as skip connections.",
    source="Ibtehaz and Rahman 2020, Neural Networks 121, arXiv:1902.04049",
    year=2019,
    choose_network=_MULTIRES_UNET,
    published=(
        PublishedNetwork(
            variant="2d",
            plan=_MULTIRES_UNET_CODE.build_published(
                (32, 64, 128, 256, 512), dimensions=2, input_channels=3, output_channels=1
            ),
            parameter_count=7_251_376,
        ),
        PublishedNetwork(
            variant="3d",
            plan=_MULTIRES_UNET_CODE.build_published(
                (32, 64, 128, 256, 512), dimensions=3, input_channels=1, output_channels=1
            ),
            parameter_count=18_645_514,
        ),
    ),
)

DENSE_UNET: Final = Architecture(
    name="dense_unet",
    sentence="A U-Net of dense blocks: each of four convolutions per stage sees the results of all before it.",
    source="Guan et al. 2020, IEEE JBHI 24, arXiv:1808.10848",
    year=2018,
    choose_network=UShapedProfile(
        encoder_blocks=(4,), decoder_blocks=4, block=DensePlan(growth=0.125), layers=_INSTANCE
    ),
)
