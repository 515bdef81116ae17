"""U-Nets with attention at the end of every stage."""

from typing import Final

from autoseg.plan.network.attentions import (
    AttentionPlan,
    ConcurrentExcitationPlan,
    ConvolutionalAttentionPlan,
    SqueezeExcitationPlan,
)
from autoseg.plan.network.layers import LayerPlan
from planners.architectures.architecture import Architecture
from planners.architectures.u_shaped import UShapedProfile


def _build_profile(attention: AttentionPlan) -> UShapedProfile:
    return UShapedProfile(layers=LayerPlan(normalization="instance", activation="relu"), attention=attention)


SE_UNET: Final = Architecture(
    name="se_unet",
    sentence="U-Net whose stages weight their channels (squeeze and excitation).",
    source="Hu et al. 2018, CVPR, arXiv:1709.01507 (the module)",
    year=2017,
    choose_network=_build_profile(SqueezeExcitationPlan(reduction=16)),
)
CBAM_UNET: Final = Architecture(
    name="cbam_unet",
    sentence="U-Net whose stages weight their channels, then their voxels (CBAM).",
    source="Woo et al. 2018, ECCV, arXiv:1807.06521 (the module)",
    year=2018,
    choose_network=_build_profile(ConvolutionalAttentionPlan(reduction=16, kernel=7)),
)
SCSE_UNET: Final = Architecture(
    name="scse_unet",
    sentence="U-Net whose stages add features weighted by channel and by voxel (scSE).",
    source="Roy et al. 2018, MICCAI, arXiv:1803.02579",
    year=2018,
    choose_network=_build_profile(ConcurrentExcitationPlan(reduction=2)),
)
