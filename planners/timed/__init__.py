"""Planning by time, for the device that will train."""

from planners.timed.planner import TimedPlanner

__all__ = ["TimedPlanner"]
