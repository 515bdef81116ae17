"""Skip connections, one module each."""

from typing import Final

from autoseg.networks.parts.skips.addition import Addition
from autoseg.networks.parts.skips.attention_gate import AttentionGates
from autoseg.networks.parts.skips.concatenation import Concatenation
from autoseg.networks.parts.skips.residual_path import ResidualPath
from autoseg.networks.parts.skips.skip import Skip, SkipSite
from autoseg.plan.network.skips import SkipPlan

SKIPS: Final[dict[str, type[Skip]]] = {
    "concatenation": Concatenation,
    "addition": Addition,
    "attention_gate": AttentionGates,
    "residual_path": ResidualPath,
}
"""Built from the plans of the same names in `autoseg.plan.network.skips.SKIP_PLANS`."""


def build_skip(plan: SkipPlan, site: SkipSite) -> Skip:
    """Builds the skip connection of a decoder stage."""
    return SKIPS[plan.name](plan, site)
