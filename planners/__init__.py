"""Policy: the decisions for a given fingerprint. Planners are pure functions from measurements to a plan."""

from typing import Final

from planners.architectures import ARCHITECTURES
from planners.architectures.parts import PARTS, replace_parts
from planners.default import DEFAULT
from planners.further import FURTHER_CONFIGURATIONS
from planners.heads import HEADS
from planners.planner import Planner
from planners.plausibility import PlausibilityPlanner
from planners.residual import RESIDUAL_L, RESIDUAL_M, RESIDUAL_XL
from planners.timed import TimedPlanner

__all__ = [
    "ARCHITECTURES",
    "FURTHER_CONFIGURATIONS",
    "HEADS",
    "PARTS",
    "PLANNERS",
    "Planner",
    "PlausibilityPlanner",
    "TimedPlanner",
    "replace_parts",
]

TIMED: Final = TimedPlanner()
PLANNERS: Final[dict[str, Planner | TimedPlanner]] = {
    planner.name: planner for planner in (DEFAULT, RESIDUAL_M, RESIDUAL_L, RESIDUAL_XL, TIMED)
} | {"lite": TIMED}  # its name in earlier versions
