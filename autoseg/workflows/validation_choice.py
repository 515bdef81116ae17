"""What of a validation there is time for."""

from dataclasses import dataclass

from autoseg.inference.options import DEFAULT_OPTIONS, PredictionOptions
from autoseg.validation_conditions import list_limits


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationChoice:
    """A validation that fits into a time.

    Attributes:
        cases: That are predicted and evaluated.
        held_out_cases: All that there are.
        seconds: It takes, about.
        whole_seconds: What a whole one would take.
    """

    cases: tuple[str, ...]
    held_out_cases: int
    options: PredictionOptions = DEFAULT_OPTIONS
    seconds: float = 0.0
    whole_seconds: float = 0.0

    @property
    def limits(self) -> tuple[str, ...]:
        """What it does without, in words; nothing for a whole one."""
        return list_limits(
            mirroring=self.options.mirroring,
            step_fraction=self.options.step_fraction,
            cases=len(self.cases),
            held_out_cases=self.held_out_cases,
        )

    def is_better_than(self, other: "ValidationChoice") -> bool:
        """Whether it does without less: first by mirrored views, then by overlap, then by cases."""
        return self._rank > other._rank

    @property
    def _rank(self) -> tuple[bool, float, int]:
        return self.options.mirroring, -self.options.step_fraction, len(self.cases)
