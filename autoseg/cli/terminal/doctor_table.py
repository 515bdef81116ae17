"""Prints the findings of an examination of the machine."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoseg.cli.terminal.console import Console
    from autoseg.workflows.doctor.finding import DoctorReport, Finding

STYLES = {"ok": "green", "warning": "yellow", "will fail": "bold red"}


def print_findings(console: "Console", report: "DoctorReport") -> None:
    """Prints one row for each finding, the worst ones last, and a summary."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"This machine, for work in {report.folder}", title_justify="left")
    for heading in ("", "what", "found, what it means, what to do"):
        table.add_column(heading, overflow="fold")
    for finding in sorted(report.findings, key=lambda finding: list(STYLES).index(finding.state)):
        if finding.state != "ok":
            table.add_section()
        state = Text(finding.state, style=STYLES[finding.state])
        table.add_row(state, Text(finding.subject), Text("\n".join(describe_finding(finding))))
    console.show_table(table)
    console.note(summarize(report))


def describe_finding(finding: "Finding") -> "Iterator[str]":
    """Yields the lines of a finding: what was found, what it means, what to do, where to read about it."""
    yield finding.found
    if finding.meaning:
        yield finding.meaning
    if finding.remedy:
        yield f"-> {finding.remedy}"
    if finding.source:
        yield f"   {finding.source}"


def summarize(report: "DoctorReport") -> str:
    """Summarizes a report in one line."""
    states = [finding.state for finding in report.findings]
    failing, warnings = states.count("will fail"), states.count("warning")
    if not failing and not warnings:
        return f"nothing to do ({report.seconds:.1f} s)"
    return f"will fail: {failing}, warnings: {warnings}, ok: {states.count('ok')} ({report.seconds:.1f} s)"
