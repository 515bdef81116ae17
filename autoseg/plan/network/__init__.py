"""Networks: the family of a network and the parameters from which the family builds it."""

from typing import Final

from autoseg.plan.network.base import NetworkPlan, StagedNetworkPlan
from autoseg.plan.network.dilated import DilatedPlan
from autoseg.plan.network.encoder_u import EncoderUPlan
from autoseg.plan.network.fcn import FcnPlan
from autoseg.plan.network.hybrid import HybridPlan
from autoseg.plan.network.nested_u import NestedUPlan
from autoseg.plan.network.parallel import ParallelPlan
from autoseg.plan.network.u_shaped import UShapedPlan
from autoseg.plan.network.unets import PlainUNetPlan, ResidualEncoderUNetPlan, UNetFamily, UNetPlan

__all__ = [
    "NETWORK_PLANS",
    "DilatedPlan",
    "EncoderUPlan",
    "FcnPlan",
    "HybridPlan",
    "NestedUPlan",
    "NetworkPlan",
    "ParallelPlan",
    "PlainUNetPlan",
    "ResidualEncoderUNetPlan",
    "StagedNetworkPlan",
    "UNetFamily",
    "UNetPlan",
    "UShapedPlan",
]

NETWORK_PLANS: Final[dict[str, type[NetworkPlan]]] = {
    "plain_unet": PlainUNetPlan,
    "residual_encoder_unet": ResidualEncoderUNetPlan,
    "u_shaped": UShapedPlan,
    "nested_u": NestedUPlan,
    "fcn": FcnPlan,
    "dilated": DilatedPlan,
    "parallel": ParallelPlan,
    "encoder_u": EncoderUPlan,
    "hybrid_2d_3d": HybridPlan,
}
