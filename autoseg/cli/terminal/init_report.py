"""Prints the reports of `autoseg init` and `autoseg convert` as tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoseg.errors import shorten_names

if TYPE_CHECKING:
    from rich.table import Table

    from autoseg.cli.terminal.console import Console
    from autoseg.workflows.convert.converting import ConversionReport
    from autoseg.workflows.init.initializing import InitReport, LabelRow


def print_init(console: "Console", report: "InitReport") -> None:
    """Prints cases, channels and patients, labels, ignored files and notes."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=report.dataset.name, title_justify="left", show_header=False)
    for subject, text in _list_facts(report):
        table.add_row(subject, Text(text))
    console.show_table(table)
    console.show_table(_build_label_table(report.labels))
    for reason, paths in report.left_out.items():
        console.note(f"left out: {shorten_names(paths)}: {reason}")
    for note in report.notes:
        console.note(note if note.startswith("warning: ") else f"note: {note}")


def print_conversion(console: "Console", report: "ConversionReport") -> None:
    """Prints the layout and why it was chosen, cases, groups and notes."""
    from rich.table import Table
    from rich.text import Text

    training, test = report.list_names(held_out=False), report.list_names(held_out=True)
    facts = [
        ("layout", f"{report.layout_name}: {report.match.layout.title}"),
        ("recognized by", report.match.describe()),
        ("cases", f"{len(training)}: {shorten_names(training)}"),
    ]
    if test:
        facts.append(("test cases", f"{len(test)}, in imagesTs: {shorten_names(test)}"))
    if report.groups:
        facts.append(("groups", f"{len(set(report.groups.values()))}, kept together (groups.json)"))
    table = Table(title="Conversion", title_justify="left", show_header=False)
    for subject, text in facts:
        table.add_row(subject, Text(text))
    console.show_table(table)
    for note in report.list_notes():
        console.note(note if note.startswith("warning: ") else f"note: {note}")


def _list_facts(report: "InitReport") -> list[tuple[str, str]]:
    first = report.cases[0]
    ways = ", ".join(f"{way} ({count})" for way, count in report.ways.items())
    facts = [
        ("cases", f"{len(report.cases)}: {shorten_names([case.name for case in report.cases])}"),
        ("for example", f"{' + '.join(first.images)} with {next(iter(first.masks.values()))}"),
        ("paired by", ways),
        ("channels", ", ".join(f"{index}: {name}" for index, name in enumerate(report.channels))),
    ]
    if report.groups:
        facts.append(("patients", f"{len(report.groups)}, kept together (groups.json): {_show_groups(report)}"))
    if report.joined is not None:
        facts.append(("joined masks", f"{report.joined.name}/ (new files; the masks are untouched)"))
    if report.region_order:
        facts.append(("regions", f"regions_class_order {list(report.region_order)}"))
    return facts


def _show_groups(report: "InitReport") -> str:
    return shorten_names([f"{name} ({len(cases)})" for name, cases in report.groups.items()])


def _build_label_table(rows: "Sequence[LabelRow]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Labels", title_justify="left")
    table.add_column("label")
    for heading in ("values", "cases", "voxels"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(Text(row.name), ", ".join(map(str, row.values)), str(row.cases), f"{row.voxel_fraction:.3%}")
    return table
