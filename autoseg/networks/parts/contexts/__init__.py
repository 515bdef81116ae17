"""Context modules, one module each."""

from collections.abc import Callable
from typing import Final

from autoseg.networks.parts.contexts.aspp import DilatedPyramid
from autoseg.networks.parts.contexts.context import Context, ContextSite
from autoseg.networks.parts.contexts.dac import DenseDilation
from autoseg.networks.parts.contexts.dual_attention import DualAttention
from autoseg.networks.parts.contexts.graph_unet import GraphUNet
from autoseg.networks.parts.contexts.non_local import NonLocal
from autoseg.networks.parts.contexts.rmp import MultiKernelPooling
from autoseg.networks.parts.contexts.spp import PyramidPooling
from autoseg.plan.network.contexts import ContextPlan

CONTEXTS: Final[dict[str, Callable[..., Context]]] = {
    "spp": PyramidPooling,
    "aspp": DilatedPyramid,
    "dac": DenseDilation,
    "rmp": MultiKernelPooling,
    "non_local": NonLocal,
    "dual_attention": DualAttention,
    "graph_unet": GraphUNet,
}
"""Built from the plans of the same names in `autoseg.plan.network.contexts.CONTEXT_PLANS`."""


def build_context(plan: ContextPlan, site: ContextSite) -> Context:
    """Builds a context module."""
    return CONTEXTS[plan.name](plan, site)
