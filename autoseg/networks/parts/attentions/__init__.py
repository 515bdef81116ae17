"""Attention modules at the end of a stage, one module each."""

from collections.abc import Callable, Sequence
from typing import Final

from torch import nn

from autoseg.networks.parts.attentions.cbam import ConvolutionalAttention
from autoseg.networks.parts.attentions.dual_excitation import DualExcitation
from autoseg.networks.parts.attentions.scse import ConcurrentExcitation
from autoseg.networks.parts.attentions.se import SqueezeExcitation
from autoseg.plan.network.attentions import AttentionPlan

ATTENTIONS: Final[dict[str, Callable[..., nn.Module]]] = {
    "se": SqueezeExcitation,
    "cbam": ConvolutionalAttention,
    "scse": ConcurrentExcitation,
    "dual_excitation": DualExcitation,
}
"""Built from the plans of the same names in `autoseg.plan.network.attentions.ATTENTION_PLANS`."""


def build_attention(plan: AttentionPlan | None, channels: int, kernel: Sequence[int]) -> nn.Module:
    """Builds the attention module of a stage with such kernels; the identity without a plan."""
    return nn.Identity() if plan is None else ATTENTIONS[plan.name](plan, channels, kernel)
