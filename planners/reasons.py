"""Decisions in words: numbers as text, a decision as a stored reason."""

from collections.abc import Iterable

from autoseg.geometry import DistanceUnit
from autoseg.plan.decisions import Decision, Reason, Value

AXIS_NAMES = ("z", "y", "x")
UNIT_NAMES: dict[DistanceUnit, str] = {"mm": "mm", "pixel": "pixels"}


def record(subject: str, decision: Decision[Value], value: str) -> Reason:
    """Turns a decision into the reason that the plan stores; `value` is the decision in words or numbers."""
    return Reason(subject=subject, value=value, because=decision.because)


def record_offer(subject: str, because: str) -> Reason:
    """Offers what is planned on request alone, where the data speak for it."""
    return record(subject, Decision(None, because), "offered, not planned")


def format_extents(values: Iterable[float]) -> str:
    """Formats values per axis as in "128 x 128 x 40.5"; integers without a point, others with six digits."""
    return " x ".join(f"{value:.6g}" if value < 1e6 else f"{value:.0f}" for value in values)


def format_lengths(values: Iterable[float], unit: DistanceUnit) -> str:
    """Formats lengths per axis with their unit, as in "1 x 0.5 x 0.5 mm" or "1 x 1 pixels"."""
    return f"{format_extents(values)} {UNIT_NAMES[unit]}"


def format_share(fraction: float) -> str:
    """Formats a fraction in per cent, as in "4.9 %"."""
    return f"{fraction * 100:.3g} %"


def format_amount(count: int, noun: str) -> str:
    """Formats a count with its noun in the right number, as in "1 stage" and "2 stages"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_count(value: float) -> str:
    """Formats a large number with thousands separators, rounded to an integer."""
    return f"{value:,.0f}"
