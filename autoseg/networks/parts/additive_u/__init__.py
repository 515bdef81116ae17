"""Residual units, one module each: functions that build one for its place."""

from collections.abc import Callable
from typing import Final

from torch import nn

from autoseg.networks.parts.additive_u.mednext import build_mednext_unit
from autoseg.networks.parts.additive_u.pre_activation import build_pre_activation_unit
from autoseg.networks.parts.additive_u.unit import UnitSite
from autoseg.plan.network.additive_u import ResidualUnitPlan

RESIDUAL_UNITS: Final[dict[str, Callable[..., nn.Module]]] = {
    "mednext": build_mednext_unit,
    "pre_activation": build_pre_activation_unit,
}
"""Built from the plans of the same names in `autoseg.plan.network.additive_u.RESIDUAL_UNIT_PLANS`."""


def build_unit(plan: ResidualUnitPlan, site: UnitSite) -> nn.Module:
    """Builds a unit, a step between stages, or the stem."""
    return RESIDUAL_UNITS[plan.name](plan, site)
