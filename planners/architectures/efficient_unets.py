"""U-Nets of blocks that cost less in training or in prediction."""

from typing import Final

from autoseg.plan.network.blocks import RepPlan, SeparablePlan
from autoseg.plan.network.layers import LayerPlan
from planners.architectures.architecture import Architecture
from planners.architectures.u_shaped import UShapedProfile

_LAYERS = LayerPlan(normalization="instance", activation="relu")
MOBILE_UNET: Final = Architecture(
    name="mobile_unet",
    sentence="A U-Net of depthwise separable convolutions: an eighth of the multiply-adds in 2D, a twentieth in 3D.",
    source="Howard et al. 2017, arXiv:1704.04861",
    year=2017,
    choose_network=UShapedProfile(block=SeparablePlan(), layers=_LAYERS),
)
REP_UNET: Final = Architecture(
    name="rep_unet",
    sentence="A U-Net whose convolutions have three branches in training, which are one convolution in prediction.",
    source="Ding et al. 2021, CVPR, arXiv:2101.03697",
    year=2021,
    choose_network=UShapedProfile(block=RepPlan(), layers=_LAYERS),
)
