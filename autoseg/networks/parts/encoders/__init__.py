"""Encoders of the literature, one module each."""

from typing import Final

from autoseg.networks.parts.encoders.densenet import DenseNetEncoder
from autoseg.networks.parts.encoders.encoder import Encoder
from autoseg.networks.parts.encoders.resnet import ResNetEncoder
from autoseg.networks.parts.encoders.vgg import VggEncoder
from autoseg.plan.network.encoder_u import EncoderOfLiteraturePlan

ENCODERS: Final[dict[str, type[Encoder]]] = {
    "vgg": VggEncoder,
    "resnet": ResNetEncoder,
    "densenet": DenseNetEncoder,
}
"""Built from the plans of the same names in `autoseg.plan.network.encoder_u.ENCODER_PLANS`."""


def build_encoder(plan: EncoderOfLiteraturePlan) -> Encoder:
    """Builds the encoder of a plan."""
    return ENCODERS[plan.encoder.name](plan)
