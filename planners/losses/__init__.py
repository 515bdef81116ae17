"""Losses that a plan can be asked for in place of Dice and cross entropy."""

from planners.losses.planner import LossPlanner
from planners.losses.rule import LossRule
from planners.losses.table import LOSS_RULES

__all__ = ["LOSS_RULES", "LossPlanner", "LossRule"]
