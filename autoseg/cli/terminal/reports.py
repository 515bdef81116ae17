"""Prints results of commands as tables: checks of a dataset, a plan with its reasons, scores."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoseg.errors import quote_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from autoseg.cli.terminal.console import Console
    from autoseg.evaluation.crossvalidation import CrossValidation, Score, Statistic
    from autoseg.evaluation.instances import ObjectScores
    from autoseg.evaluation.summary import EvaluationSummary, MetricValues
    from autoseg.geometry import DistanceUnit
    from autoseg.plan.document import Plan
    from autoseg.workflows.evaluate.objects import ClassObjects, ObjectSource
    from autoseg.workflows.plan.checking import CheckReport
    from autoseg.workflows.plan.class_counts import ClassCount
    from autoseg.workflows.select.prediction_choice import PredictionChoice
    from autoseg.workflows.select.selection_document import ObjectChoice, Selection

COLUMNS = ("Dice", "IoU", "HD95", "NSD", "volume_difference_ml")

COST = "cost of an image (billions of multiply-adds)"

CROSSVALIDATED: "tuple[Score, ...]" = ("Dice", "HD95", "NSD")


def print_plan(console: "Console", plan: "Plan") -> None:
    """Prints every decision with its reason, then the configurations side by side."""
    from rich.table import Table

    console.note(f"\nPlan for {plan.dataset_name} (planner {plan.planner})")
    for reason in plan.reasons:
        console.note(f"\n{reason.subject}: {reason.value}\n    {reason.because}")
    table = Table(title="Configurations", title_justify="left")
    for heading in ("", *plan.configurations):
        table.add_column(heading)
    for row in _list_plan_rows(plan):
        table.add_row(*row)
    console.note("")
    console.show_table(table)
    for reason in plan.reasons:
        if reason.subject.startswith("warning"):
            console.note(f"{reason.subject} ({reason.value}): {reason.because}")


def _list_plan_rows(plan: "Plan") -> list[tuple[str, ...]]:
    configurations = plan.configurations.values()
    networks = [c.network.describe() for c in configurations]
    headings = dict.fromkeys(heading for about in networks for heading in about)
    return [
        (
            "spacing (mm)" if plan.distance_unit == "mm" else "spacing (pixels)",
            *(" x ".join(f"{v:.4g}" for v in c.spacing_mm) for c in configurations),
        ),
        ("median shape", *(" x ".join(f"{v:.6g}" for v in c.median_shape_voxels) for c in configurations)),
        ("patch", *(" x ".join(map(str, c.patch_voxels)) for c in configurations)),
        ("batch", *(str(c.training.batch_size) for c in configurations)),
        ("network", *(c.network.family for c in configurations)),
        *((heading, *(about.get(heading, "") for about in networks)) for heading in headings),
        ("trained outputs", *(str(c.network.trained_output_count) for c in configurations)),
    ]


def print_check(console: "Console", report: "CheckReport", *, every_case: bool = False) -> None:
    """Prints problems and notes in one table, then proposed corrections of dataset.json, then the classes.

    Args:
        console: Console to print to.
        report: Result of the check.
        every_case: Print one row for each problem of each case instead of one for each kind.
    """
    from rich.table import Table
    from rich.text import Text

    from autoseg.errors import describe_cases, has_unnamed_cases

    if report.problems or report.notes:
        table = Table(title="Problems and notes", title_justify="left")
        for heading in ("", "cases", "what"):
            table.add_column(heading)
        for entry in report.problems if every_case else report.diagnosis.problems:
            table.add_row("problem", Text(describe_cases(entry.cases) if entry.cases else "-"), Text(entry.text))
        for note in report.notes:
            is_warning, text = note.startswith("warning: "), note.removeprefix("warning: ")
            table.add_row("warning" if is_warning else "note", "-", Text(text))
        console.show_table(table)
    for correction in report.diagnosis.corrections:
        console.note(f"{correction.describe()}\n")
    if has_unnamed_cases(report.diagnosis.problems) and not every_case:
        console.note(f"every case with its problems: autoseg check {quote_path(report.dataset)} --all\n")
    if report.classes:
        failed = len({name for entry in report.problems for name in entry.cases})
        print_classes(console, report.classes, title=f"Classes in the {report.cases - failed} cases without problems")


def print_classes(console: "Console", classes: "Sequence[ClassCount]", *, title: str = "Classes") -> None:
    """Prints a table with one row per class."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    table.add_column("class")
    for heading in ("values", "cases", "voxels"):
        table.add_column(heading, justify="right")
    for count in classes:
        values = ", ".join(map(str, count.values))
        table.add_row(Text(count.name), values, str(count.cases), str(count.voxels))
    console.show_table(table)


def print_cases(console: "Console", summary: "EvaluationSummary") -> None:
    """Prints a table with one row per case and class."""
    table = _open_table("Cases", "case", "class", unit=summary.distance_unit)
    for case in summary.metric_per_case:
        for key, values in case.metrics.items():
            table.add_row(case.case, summary.class_names[key], *_format_row(values))
    console.show_table(table)


def print_summary(console: "Console", summary: "EvaluationSummary") -> None:
    """Prints mean scores per class and over classes; with the number of cases where a score is not always defined."""
    total = len(summary.metric_per_case)
    table = _open_table(
        f"Mean over {total} cases (in brackets: cases in which the metric is defined, if fewer)",
        "class",
        unit=summary.distance_unit,
    )
    for key, values in summary.mean.items():
        counts = summary.count[key]
        cells = [
            cell if getattr(counts, name) == total else f"{cell} ({int(getattr(counts, name))})"
            for name, cell in zip(COLUMNS, _format_row(values), strict=True)
        ]
        table.add_row(summary.class_names[key], *cells)
    table.add_section()
    table.add_row("foreground", *_format_row(summary.foreground_mean))
    console.show_table(table)
    boxes = None if summary.validation is None else summary.validation.describe_box()
    if boxes is not None:
        console.note(boxes)


def print_crossvalidation(console: "Console", result: "CrossValidation") -> None:
    """Prints scores per class over the held-out cases of all folds, one table for each configuration."""
    from rich.table import Table

    from autoseg.evaluation.summary import format_metric_name

    for name, scores in result.configurations.items():
        title = f"Cross-validation of {name}: {scores.cases} cases, {len(scores.folds)} folds"
        table = Table(title=f"{title} (mean, standard deviation, 95 % interval of the mean)", title_justify="left")
        for heading in ("class", *(format_metric_name(score, result.distance_unit) for score in CROSSVALIDATED)):
            table.add_column(heading)
        for key, values in scores.classes.items():
            table.add_row(result.class_names[key], *(_format_statistic(values[score]) for score in CROSSVALIDATED))
        table.add_section()
        table.add_row("foreground", *(_format_statistic(scores.foreground[score]) for score in CROSSVALIDATED))
        console.show_table(table)
        for warning in scores.warnings:
            console.note(f"warning: {name}, {warning}")


def print_objects(console: "Console", classes: "Mapping[ObjectSource, Mapping[str, ClassObjects]]") -> None:
    """Prints the scores of objects: told apart, and as connected components."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Objects of all cases together (AP50 over cases: mean of the cases)", title_justify="left")
    for heading in ("class", "objects", "AP50", "AP50 over cases", "AP", "PQ", "SQ", "F1", "predicted", "expected"):
        table.add_column(heading)
    for source, of_source in classes.items():
        for name, scores in of_source.items():
            found = scores.pooled
            values = (found.AP50, scores.ap50_over_cases, found.AP, found.PQ, found.SQ, found.F1)
            shown = ("-" if value is None else f"{value:.3f}" for value in values)
            table.add_row(Text(name), source, *shown, str(found.predicted), str(found.expected))
    console.show_table(table)


def print_object_rules(console: "Console", choice: "ObjectChoice") -> None:
    """Prints the rules by which objects are found, with their scores and those of connected components."""
    for rule in choice.rules:
        console.note(f"{rule.describe()}: {_format_object_scores(choice.scores[rule.name])}")
        console.note(f"connected components of {rule.name}: {_format_object_scores(choice.components[rule.name])}")
    console.note(f"{choice.because}\n")


def _format_object_scores(scores: "ObjectScores") -> str:
    named = {"AP50": scores.AP50, "AP": scores.AP, "PQ": scores.PQ}
    return ", ".join(f"{name} {'-' if value is None else f'{value:.3f}'}" for name, value in named.items())


def print_selection(console: "Console", selection: "Selection") -> None:
    """Prints the candidates, the best one first, and the postprocessing steps that change something."""
    from rich.table import Table
    from rich.text import Text

    console.show_table(_build_candidates(selection))
    console.note(f"{selection.because}\n")
    table = Table(title="Postprocessing", title_justify="left")
    for heading in ("step", "", "because"):
        table.add_column(heading)
    steps = selection.postprocessing.steps
    shown = [step for step in steps if step.gain is not None and step.gain.mean != 0]
    for step in shown:
        table.add_row(Text(step.what), "accepted" if step.accepted else "left out", Text(step.because))
    if shown:
        console.show_table(table)
    console.note(f"postprocessing: {len(steps)} steps tried, {len(steps) - len(shown)} of them change nothing\n")
    if selection.prediction is not None:
        _print_variants(console, selection.prediction)
    if selection.objects is not None:
        print_object_rules(console, selection.objects)


def _build_candidates(selection: "Selection") -> "Table":
    """Builds the table of candidates: a column for each, or a row where they are more than the classes."""
    from rich.table import Table
    from rich.text import Text

    candidates = selection.candidates
    title = f"Dice over {len(selection.cases)} held-out cases (mean, standard deviation, 95 % interval of the mean)"
    classes = candidates[0].classes
    rows = [
        (selection.class_names[key], [_format_statistic(each.classes[key]) for each in candidates]) for key in classes
    ]
    rows.append(("foreground", [_format_statistic(each.foreground) for each in candidates]))
    objects = [each.objects for each in candidates]
    if any(objects):
        cells = [_format_statistic(one.foreground) if one else "-" for one in objects]
        rows.append(("AP of objects", cells))
    costs = [each.image_cost for each in candidates]
    if any(costs):
        rows.append((COST, ["-" if cost is None else f"{cost:.4g}" for cost in costs]))
    table = Table(title=title, title_justify="left")
    if len(candidates) > len(rows):
        for heading in ("candidate", *(name for name, _ in rows)):
            table.add_column(Text(heading))
        for candidate, *cells in zip(candidates, *(cells for _, cells in rows), strict=True):
            table.add_row(candidate.name, *cells)
        return table
    for heading in ("class", *(candidate.name for candidate in candidates)):
        table.add_column(heading)
    for index, (name, cells) in enumerate(rows, start=1):
        table.add_row(Text(name), *cells, end_section=index == len(classes))
    return table


def _print_variants(console: "Console", choice: "PredictionChoice") -> None:
    """Prints the ways to predict that were measured, and what was chosen."""
    from rich.table import Table

    table = Table(title="Ways to predict, before postprocessing", title_justify="left")
    table.add_column("variant")
    table.add_column(choice.score_name)
    table.add_column("passes per case", justify="right")
    for variant in choice.variants:
        table.add_row(variant.describe(), _format_statistic(variant.foreground), f"{variant.passes_per_case:.4g}")
    console.show_table(table)
    console.note(f"mirroring {'kept' if choice.mirroring else 'dropped'}: {choice.mirroring_because}")
    console.note(f"decoding {choice.decoding}: {choice.decoding_because}\n")


def _format_statistic(values: "Statistic") -> str:
    if values.mean is None:
        return "-"
    spread = "" if values.std is None else f" ± {values.std:.3f}"
    interval = "" if values.lower is None else f" [{format_metric(values.lower)}, {format_metric(values.upper)}]"
    return f"{values.mean:.3f}{spread}{interval}"


def _open_table(title: str, *names: str, unit: "DistanceUnit") -> "Table":
    from rich.table import Table

    from autoseg.evaluation.summary import format_metric_name

    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name)
    for metric in COLUMNS:
        table.add_column(format_metric_name(metric, unit), justify="right")
    return table


def _format_row(values: "MetricValues") -> list[str]:
    return [format_metric(getattr(values, name)) for name in COLUMNS]


def format_metric(value: float | None) -> str:
    """Formats a score with three decimals; a dash if it is undefined."""
    return "-" if value is None else f"{value:.3f}"
