"""The two networks of nnU-Net, as the planners choose them by themselves."""

from typing import Final

from planners.architectures.architecture import Architecture
from planners.rules.unet import PLAIN_UNET, RESIDUAL_ENCODER_UNET

PLAIN_UNET_ARCHITECTURE: Final = Architecture(
    name="plain_unet",
    sentence="The U-Net of nnU-Net: strided convolutions, instance normalization, leaky ReLU.",
    source="Isensee et al. 2021, Nature Methods 18, arXiv:1809.10486",
    year=2018,
    choose_network=PLAIN_UNET,
)
RESIDUAL_ENCODER_UNET_ARCHITECTURE: Final = Architecture(
    name="residual_encoder_unet",
    sentence="The U-Net of nnU-Net with a deeper encoder of residual blocks.",
    source="Isensee et al. 2024, arXiv:2404.09556",
    year=2024,
    choose_network=RESIDUAL_ENCODER_UNET,
)
