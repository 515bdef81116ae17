"""Planning by time, for computers without a GPU."""

from planners.lite.planner import LitePlanner

__all__ = ["LitePlanner"]
