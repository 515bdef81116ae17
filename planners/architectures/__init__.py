"""Architectures of the literature, one module per group: which network they choose for a topology."""

from typing import Final

from planners.architectures.architecture import Architecture
from planners.architectures.attention_unets import ATTENTION_UNET, SAU_NET
from planners.architectures.attentions import CBAM_UNET, SCSE_UNET, SE_UNET
from planners.architectures.contexts import ASPP_UNET, DUAL_ATTENTION_UNET, GRAPH_UNET, NON_LOCAL_UNET
from planners.architectures.diffusion_unet import DIFFUSION_UNET
from planners.architectures.dilated import DANET, DEEPLAB_V3_PLUS
from planners.architectures.efficient_unets import MOBILE_UNET, REP_UNET
from planners.architectures.encoder_u import (
    CE_NET,
    DENSENET_161_UNET,
    RESNET_18_UNET,
    RESNET_34_UNET,
    RESNET_50_UNET,
    RESNET_101_UNET,
    TERNAUS_NET,
)
from planners.architectures.fcn import FCN_8S, FCN_16S, FCN_32S
from planners.architectures.hybrid import H_DENSE_UNET
from planners.architectures.mask_rcnn import MASK_RCNN
from planners.architectures.mednext import (
    MEDNEXT_B,
    MEDNEXT_B_K5,
    MEDNEXT_L,
    MEDNEXT_L_K5,
    MEDNEXT_M,
    MEDNEXT_M_K5,
    MEDNEXT_S,
    MEDNEXT_S_K5,
    MEDNEXT_V2,
    MEDNEXT_V2_WIDE,
)
from planners.architectures.nested_u import UNET_PLUS_PLUS
from planners.architectures.nnunet import PLAIN_UNET_ARCHITECTURE, RESIDUAL_ENCODER_UNET_ARCHITECTURE
from planners.architectures.parallel import HRNET_V1, HRNET_V2
from planners.architectures.primus import PRIMUS_B, PRIMUS_L, PRIMUS_M, PRIMUS_S
from planners.architectures.residual_unets import DENSE_UNET, MULTIRES_UNET, R2U_NET, RES_UNET, V_NET
from planners.architectures.seg_res_net import SEG_RES_NET
from planners.architectures.stable_diffusion import LATENT_DIFFUSION
from planners.architectures.u2_net import U2_NET
from planners.architectures.unets import U_NET, U_NET_3D, U_NET_VALID
from planners.architectures.unext import UNEXT

ARCHITECTURES: Final[dict[str, Architecture]] = {
    architecture.name: architecture
    for architecture in (
        PLAIN_UNET_ARCHITECTURE,
        RESIDUAL_ENCODER_UNET_ARCHITECTURE,
        U_NET,
        U_NET_3D,
        V_NET,
        RES_UNET,
        R2U_NET,
        MULTIRES_UNET,
        DENSE_UNET,
        ATTENTION_UNET,
        U2_NET,
        MOBILE_UNET,
        REP_UNET,
        UNET_PLUS_PLUS,
        SE_UNET,
        CBAM_UNET,
        SCSE_UNET,
        ASPP_UNET,
        NON_LOCAL_UNET,
        DUAL_ATTENTION_UNET,
        GRAPH_UNET,
        FCN_32S,
        FCN_16S,
        FCN_8S,
        DEEPLAB_V3_PLUS,
        DANET,
        HRNET_V1,
        HRNET_V2,
        MEDNEXT_S,
        MEDNEXT_B,
        MEDNEXT_M,
        MEDNEXT_L,
        MEDNEXT_S_K5,
        MEDNEXT_B_K5,
        MEDNEXT_M_K5,
        MEDNEXT_L_K5,
        MEDNEXT_V2,
        MEDNEXT_V2_WIDE,
        SEG_RES_NET,
        UNEXT,
        PRIMUS_S,
        PRIMUS_B,
        PRIMUS_M,
        PRIMUS_L,
        U_NET_VALID,
        TERNAUS_NET,
        CE_NET,
        RESNET_18_UNET,
        RESNET_34_UNET,
        RESNET_50_UNET,
        RESNET_101_UNET,
        DENSENET_161_UNET,
        H_DENSE_UNET,
        SAU_NET,
        LATENT_DIFFUSION,
        DIFFUSION_UNET,
        MASK_RCNN,
    )
}
"""By the names that `autoseg plan --architecture` takes."""
