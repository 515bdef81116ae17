"""Context modules, one module each."""

from collections.abc import Callable
from typing import Final

from autoseg.networks.parts.contexts.context import Context, ContextSite
from autoseg.networks.parts.contexts.spp import PyramidPooling
from autoseg.plan.network.contexts import ContextPlan

CONTEXTS: Final[dict[str, Callable[..., Context]]] = {
    "spp": PyramidPooling,
}
"""Built from the plans of the same names in `autoseg.plan.network.contexts.CONTEXT_PLANS`."""


def build_context(plan: ContextPlan, site: ContextSite) -> Context:
    """Builds a context module."""
    return CONTEXTS[plan.name](plan, site)
