"""Warns of cases whose intensities, spacing or size are implausible; the same for `check` and `plan`."""

from collections.abc import Sequence

from autoseg.errors import Problem, group_problems
from autoseg.fingerprint import CaseFingerprint


def warn_of_intensities(cases: Sequence[CaseFingerprint]) -> list[str]:
    """Writes one warning for each kind of oddity that was found in intensities."""
    odd = [Problem(text=text, cases=(case.name,)) for case in cases for text in case.intensity_warnings]
    return [f"warning: {problem.describe()}" for problem in group_problems(odd)]
