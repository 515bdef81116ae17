"""The table of `autoseg doctor` shows what was found, what it means and what to do."""

import io

from rich.console import Console as RichConsole

from autoseg.cli.terminal.console import Console
from autoseg.cli.terminal.doctor_table import print_findings, summarize
from autoseg.workflows.doctor.finding import DoctorReport, Finding

FAILING = Finding(
    state="will fail",
    subject="GPU",
    found="driver 550; [PyTorch] for CUDA 13.0",
    meaning="the driver is too old",
    remedy="update the driver",
    source="https://docs.nvidia.com/",
)
WARNING = Finding(state="warning", subject="RAM", found="4 GB free", meaning="may not fit", remedy="close programs")
GOOD = Finding(state="ok", subject="clock", found="year 2026, running steadily")


def build_report(*findings: Finding) -> DoctorReport:
    return DoctorReport(folder="run.autoseg", seconds=2.96, findings=findings)


def test_findings_are_shown_with_meaning_remedy_and_source_and_the_worst_last() -> None:
    output = io.StringIO()
    print_findings(Console(RichConsole(file=output, width=120)), build_report(FAILING, GOOD, WARNING))
    text = output.getvalue()
    positions = [
        text.index(part)
        for part in (
            "for work in run.autoseg", "year 2026", "4 GB free", "may not fit", "-> close programs",
            "driver 550; [PyTorch]",
            "the driver is too old", "-> update the driver", "https://docs.nvidia.com/", "will fail: 1",
        )
    ]  # fmt: skip
    assert positions == sorted(positions)


def test_the_summary_counts_findings_by_state() -> None:
    assert summarize(build_report(FAILING, GOOD, WARNING)) == "will fail: 1, warnings: 1, ok: 1 (3.0 s)"
    assert summarize(build_report(GOOD)) == "nothing to do (3.0 s)"
