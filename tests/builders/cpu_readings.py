"""Readings of a computer's CPU time."""

from autoseg.runtime.cpu_time import CpuReading


def build_cpu_reading(
    wall_seconds: float = 0.0,
    *,
    cores: int = 2,
    granted: float | None = None,
    unused: float = 0.0,
    own: float = 0.0,
    children: float = 0.0,
    waiting: dict[int, float] | None = None,
) -> CpuReading:
    """A reading of a process that may use all of its cores, unless the test says otherwise."""
    return CpuReading(
        cores=cores,
        granted=float(cores) if granted is None else granted,
        wall_seconds=wall_seconds,
        unused_seconds=unused,
        own_seconds=own,
        children_seconds=children,
        waiting_seconds=waiting,
    )
