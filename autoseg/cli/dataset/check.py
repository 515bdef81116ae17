"""`autoseg check`: check a dataset without planning it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from autoseg.workflows.plan.checking import CheckReport


def check(
    dataset: Annotated[Path, typer.Argument(help="Folder with dataset.json, images and labels.")],
    *,
    group_by: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Check this pattern, and whether folds by it hold equal images together."),
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(help="Check folds from this file, in the form of nnU-Net's splits_final.json.")
    ] = None,
    fix_geometry: Annotated[
        bool, typer.Option("--fix-geometry", help="List what `autoseg plan --fix-geometry` would resample.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.  [default: by cores and free memory]")] = None,
    every_case: Annotated[
        bool, typer.Option("--all", help="One row for each problem of each case instead of one for each kind.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Read every case and list everything that is wrong or odd; exit code 1 if something must be put right."""
    from autoseg.cli.terminal.console import UNLIMITED_WIDTH, open_console
    from autoseg.cli.terminal.reports import print_check
    from autoseg.processes.progress import SilentProgress
    from autoseg.workflows.plan.checking import CheckRequest, check_dataset
    from autoseg.workflows.plan.splitting import SplitRequest

    console = open_console(plain_width=UNLIMITED_WIDTH)
    request = CheckRequest(
        split=SplitRequest(group_by=group_by, splits_file=splits), fix_geometry=fix_geometry, workers=workers
    )
    report = check_dataset(dataset, request, progress=SilentProgress() if as_json else console)
    if as_json:
        typer.echo(format_check_json(report))
    else:
        print_check(console, report, every_case=every_case)
        kinds = len(report.diagnosis.problems)
        console.note(f"{report.dataset}: {report.cases} cases, {kinds} {'problem' if kinds == 1 else 'problems'}")
    raise typer.Exit(1 if report.problems else 0)


def format_check_json(report: "CheckReport") -> str:
    """Formats a report as one JSON object, for programs."""
    import dataclasses
    import json

    content = dataclasses.asdict(report)
    del content["diagnosis"]
    content |= {
        "dataset": str(report.dataset),
        "problems": [
            {"case": entry.cases[0] if entry.cases else None, "problem": entry.text} for entry in report.problems
        ],
        "kinds": [{"cases": entry.cases, "problem": entry.text} for entry in report.diagnosis.problems],
        "corrections": [dataclasses.asdict(entry) for entry in report.diagnosis.corrections],
        "orientations": dict(report.orientations),
    }
    return json.dumps(content, indent=2, ensure_ascii=False)
