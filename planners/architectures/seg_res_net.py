"""SegResNet."""

from dataclasses import replace
from typing import Final

from autoseg.plan.network.layers import LayerPlan
from planners.architectures.additive_u import AdditiveUProfile
from planners.architectures.architecture import Architecture, PublishedNetwork

_SEG_RES_NET: Final = AdditiveUProfile(
    encoder_units=(1, 2, 2, 4, 4),
    decoder_units=(1,),
    upsampling="transposed",
    layers=LayerPlan(normalization="instance", activation="relu"),
)
"""That of Auto3DSeg (SegResNetDS of MONAI), which trains four outputs, too."""
_FIRST: Final = replace(
    _SEG_RES_NET,
    encoder_units=(1, 2, 2, 4),
    upsampling="linear",
    layers=LayerPlan(normalization="group", activation="relu"),
)

SEG_RES_NET: Final = Architecture(
    name="seg_res_net",
    sentence="SegResNet of Auto3DSeg: residual units that begin with normalization, added features.",
    source="Myronenko 2018, BrainLes, arXiv:1810.11654; depth and upsampling as in MONAI's Auto3DSeg",
    year=2018,
    choose_network=_SEG_RES_NET,
    published=(
        # Both counted from the descriptions.
        PublishedNetwork(
            plan=_FIRST.build_published((32, 64, 128, 256), input_channels=1, output_channels=2),
            parameter_count=18_795_938,
        ),
        PublishedNetwork(
            variant="Auto3DSeg",
            plan=_SEG_RES_NET.build_published((32, 64, 128, 256, 512), input_channels=1, output_channels=2),
            parameter_count=87_163_298,
        ),
    ),
)
