"""The families of networks, one module each."""

from typing import Final

import torch

from autoseg.networks.families.additive_u import AdditiveUNetwork
from autoseg.networks.families.detector import Detector
from autoseg.networks.families.diffusion_unet import DiffusionUNet
from autoseg.networks.families.dilated import DilatedNetwork
from autoseg.networks.families.encoder_u import EncoderUNetwork
from autoseg.networks.families.fcn import Fcn
from autoseg.networks.families.hybrid import HybridNetwork
from autoseg.networks.families.label_autoencoder import LabelAutoencoder
from autoseg.networks.families.latent_diffusion import LatentDiffusion
from autoseg.networks.families.mask_rcnn import MaskRcnn
from autoseg.networks.families.nested_u import NestedUNetwork
from autoseg.networks.families.parallel import ParallelNetwork
from autoseg.networks.families.plain_transformer import PlainTransformer
from autoseg.networks.families.plain_unet import PlainUNet
from autoseg.networks.families.point_rend import PointRendNetwork
from autoseg.networks.families.residual_encoder_unet import ResidualEncoderUNet
from autoseg.networks.families.u_shaped import UShapedNetwork
from autoseg.networks.families.unext import UNextNetwork
from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.planes import PlaneNetworks
from autoseg.plan.network.base import NetworkPlan

FAMILIES: Final[dict[str, type[SegmentationNetwork]]] = {
    "plain_unet": PlainUNet,
    "residual_encoder_unet": ResidualEncoderUNet,
    "u_shaped": UShapedNetwork,
    "nested_u": NestedUNetwork,
    "fcn": Fcn,
    "dilated": DilatedNetwork,
    "parallel": ParallelNetwork,
    "additive_u": AdditiveUNetwork,
    "unext": UNextNetwork,
    "plain_transformer": PlainTransformer,
    "encoder_u": EncoderUNetwork,
    "hybrid_2d_3d": HybridNetwork,
    "label_autoencoder": LabelAutoencoder,
    "latent_diffusion": LatentDiffusion,
    "diffusion_unet": DiffusionUNet,
    "point_rend": PointRendNetwork,
    "detector": Detector,
    "mask_rcnn": MaskRcnn,
}
"""Built from the plans of the same names in `autoseg.plan.network.NETWORK_PLANS`."""


def build_network(plan: NetworkPlan, generator: torch.Generator | None = None) -> SegmentationNetwork:
    """Builds the network of a plan, with initialized weights, in training mode.

    Args:
        generator: Source of the first weights; None is torch's global one (see `torch.manual_seed`). The same state
            of the source gives the same weights. On the meta device, where weights have no values, nothing is drawn.
    """
    network = _construct(plan, generator)
    if not any(parameter.is_meta for parameter in network.parameters()):
        network.initialize_weights(generator)
    return network


def _build(plan: NetworkPlan) -> SegmentationNetwork:
    """Builds the network, or that of each plane."""
    family = FAMILIES[plan.family]
    if plan.planes == 1:
        return family(plan)
    one = plan.with_planes(1)
    return PlaneNetworks(plan, [family(one) for _ in range(plan.planes)])


def _construct(plan: NetworkPlan, generator: torch.Generator | None) -> SegmentationNetwork:
    """Constructs the network with the global generator seeded from the given one.

    Modules of PyTorch draw their first weights from the global source, and a family need not replace all of them.
    """
    if generator is None:
        return _build(plan)
    copy = torch.Generator(generator.device)
    copy.set_state(generator.get_state())
    seed = int(torch.randint(2**63 - 1, (), generator=copy, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs, too
        return _build(plan)
