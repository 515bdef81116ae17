"""Findings of an examination of a machine, and the report that collects them."""

from typing import Literal

from autoseg.document import Part

State = Literal["ok", "warning", "will fail"]


class Finding(Part):
    """A single finding about a machine.

    Attributes:
        state: "will fail" where a command ends with an error or computes wrong results; "warning" where it may, or is
            slow.
        subject: The examined part of the machine, in a word or two.
        found: The observation, with numbers.
        meaning: Consequence for autoseg's work; empty where all is well.
        remedy: Advice; empty where there is nothing to do.
        source: Address of a page about the problem; empty without one.
    """

    state: State
    subject: str
    found: str
    meaning: str = ""
    remedy: str = ""
    source: str = ""


class DoctorReport(Part):
    """All findings about a machine and a folder.

    Attributes:
        folder: The examined folder.
        seconds: Duration of the examination.
        findings: Findings in the order of the table of checks.
    """

    folder: str
    seconds: float
    findings: tuple[Finding, ...]

    @property
    def fails(self) -> bool:
        """Whether something will fail."""
        return any(finding.state == "will fail" for finding in self.findings)


def format_size(size_bytes: float | int) -> str:
    """Formats a size in MB or GB."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"
