"""U-Nets with a module of wide context at the bottleneck."""

from typing import Final

from autoseg.plan.network.blocks import ResidualBlockPlan
from autoseg.plan.network.contexts import DilatedPyramidPlan, DualAttentionPlan, GraphUNetPlan, NonLocalPlan
from autoseg.plan.network.layers import LayerPlan
from autoseg.plan.network.skips import AdditionPlan
from planners.architectures.architecture import Architecture
from planners.architectures.u_shaped import UShapedProfile

_LAYERS = LayerPlan(normalization="instance", activation="relu")
TOKENS_LIMIT: Final = (
    2048  # voxels to which a voxel attends, a guess: the map of all pairs then has at most 16 MB a head
)
UPSAMPLED_TOKENS_LIMIT: Final = 256  # at full resolution as costly as a convolution of 27 voxels of 32 features
ASPP: Final = DilatedPyramidPlan(channels=256, dilations=(6, 12, 18))  # DeepLabV3, stride 16
DUAL_ATTENTION: Final = DualAttentionPlan(reduction=8, tokens_limit=TOKENS_LIMIT)  # DANet

ASPP_UNET: Final = Architecture(
    name="aspp_unet",
    sentence="U-Net with parallel dilated convolutions (ASPP) at the bottleneck.",
    source="Chen et al. 2017, arXiv:1706.05587 (the module)",
    year=2017,
    choose_network=UShapedProfile(layers=_LAYERS, contexts=(ASPP,)),
)
NON_LOCAL_UNET: Final = Architecture(
    name="non_local_unet",
    sentence="Residual U-Net with sums as skip connections, and attention at the bottleneck and in every upsampling.",
    source="Wang et al. 2020, AAAI, arXiv:1812.04103",
    year=2018,
    choose_network=UShapedProfile(
        layers=_LAYERS,
        block=ResidualBlockPlan(),
        encoder_blocks=(1,),
        decoder_blocks=1,
        skip=AdditionPlan(),
        contexts=(NonLocalPlan(heads=2, tokens_limit=TOKENS_LIMIT),),
        upsampling_attention=NonLocalPlan(heads=2, tokens_limit=UPSAMPLED_TOKENS_LIMIT),
    ),
)
DUAL_ATTENTION_UNET: Final = Architecture(
    name="dual_attention_unet",
    sentence="U-Net with attention between positions and between channels of the bottleneck.",
    source="Fu et al. 2019, CVPR, arXiv:1809.02983 (the module)",
    year=2019,
    choose_network=UShapedProfile(layers=_LAYERS, contexts=(DUAL_ATTENTION,)),
)
GRAPH_UNET: Final = Architecture(
    name="graph_unet",
    sentence="U-Net with a graph U-Net (gPool, gUnpool) over the voxels of the bottleneck.",
    source="Gao and Ji 2019, ICML, arXiv:1905.05178 (the module)",
    year=2019,
    choose_network=UShapedProfile(layers=_LAYERS, contexts=(GraphUNetPlan(kept_fractions=(0.9, 0.7, 0.6, 0.5)),)),
)
