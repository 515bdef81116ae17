"""Policy: the decisions for a given fingerprint. Planners are pure functions from measurements to a plan."""

from typing import Final

from planners.architectures import ARCHITECTURES
from planners.default import DEFAULT
from planners.lite import LitePlanner
from planners.planner import Planner
from planners.residual import RESIDUAL_L, RESIDUAL_M, RESIDUAL_XL

__all__ = ["ARCHITECTURES", "PLANNERS", "LitePlanner", "Planner"]

PLANNERS: Final[dict[str, Planner | LitePlanner]] = {
    planner.name: planner for planner in (DEFAULT, RESIDUAL_M, RESIDUAL_L, RESIDUAL_XL, LitePlanner())
}
