"""Architectures of the literature, one module per group: which network they choose for a topology."""

from typing import Final

from planners.architectures.architecture import Architecture
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
)
from planners.architectures.nnunet import PLAIN_UNET_ARCHITECTURE, RESIDUAL_ENCODER_UNET_ARCHITECTURE
from planners.architectures.seg_res_net import SEG_RES_NET
from planners.architectures.unets import U_NET, U_NET_3D

ARCHITECTURES: Final[dict[str, Architecture]] = {
    architecture.name: architecture
    for architecture in (
        PLAIN_UNET_ARCHITECTURE,
        RESIDUAL_ENCODER_UNET_ARCHITECTURE,
        U_NET,
        U_NET_3D,
        MEDNEXT_S,
        MEDNEXT_B,
        MEDNEXT_M,
        MEDNEXT_L,
        MEDNEXT_S_K5,
        MEDNEXT_B_K5,
        MEDNEXT_M_K5,
        MEDNEXT_L_K5,
        MEDNEXT_V2,
        SEG_RES_NET,
    )
}
"""By the names that `autoseg plan --architecture` takes."""
