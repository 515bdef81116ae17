"""Networks: the family of a network and the parameters from which the family builds it."""

from typing import Final

from autoseg.plan.network.additive_u import AdditiveUPlan
from autoseg.plan.network.base import NetworkPlan, StagedNetworkPlan
from autoseg.plan.network.detector import DetectorPlan
from autoseg.plan.network.diffusion_unet import DiffusionUNetPlan
from autoseg.plan.network.dilated import DilatedPlan
from autoseg.plan.network.encoder_u import EncoderUPlan
from autoseg.plan.network.fcn import FcnPlan
from autoseg.plan.network.hybrid import HybridPlan
from autoseg.plan.network.label_autoencoder import LabelAutoencoderPlan
from autoseg.plan.network.latent_diffusion import LatentDiffusionPlan
from autoseg.plan.network.mask_rcnn import MaskRcnnPlan
from autoseg.plan.network.nested_u import NestedUPlan
from autoseg.plan.network.parallel import ParallelPlan
from autoseg.plan.network.plain_transformer import PlainTransformerPlan
from autoseg.plan.network.point_rend import PointRendPlan
from autoseg.plan.network.u_shaped import UShapedPlan
from autoseg.plan.network.unets import PlainUNetPlan, ResidualEncoderUNetPlan, UNetFamily, UNetPlan
from autoseg.plan.network.unext import UNextPlan

__all__ = [
    "NETWORK_PLANS",
    "AdditiveUPlan",
    "DetectorPlan",
    "DiffusionUNetPlan",
    "DilatedPlan",
    "EncoderUPlan",
    "FcnPlan",
    "HybridPlan",
    "LabelAutoencoderPlan",
    "LatentDiffusionPlan",
    "MaskRcnnPlan",
    "NestedUPlan",
    "NetworkPlan",
    "ParallelPlan",
    "PlainTransformerPlan",
    "PlainUNetPlan",
    "PointRendPlan",
    "ResidualEncoderUNetPlan",
    "StagedNetworkPlan",
    "UNetFamily",
    "UNetPlan",
    "UNextPlan",
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
    "additive_u": AdditiveUPlan,
    "unext": UNextPlan,
    "plain_transformer": PlainTransformerPlan,
    "encoder_u": EncoderUPlan,
    "hybrid_2d_3d": HybridPlan,
    "label_autoencoder": LabelAutoencoderPlan,
    "latent_diffusion": LatentDiffusionPlan,
    "diffusion_unet": DiffusionUNetPlan,
    "point_rend": PointRendPlan,
    "detector": DetectorPlan,
    "mask_rcnn": MaskRcnnPlan,
}
