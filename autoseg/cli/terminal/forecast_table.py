"""Prints a forecast of time, memory and disk for training a plan, and suggestions if training takes long."""

import math
import textwrap
from typing import TYPE_CHECKING, Final

from autoseg.errors import quote_path

if TYPE_CHECKING:
    from pathlib import Path

    from autoseg.cli.terminal.console import Console
    from autoseg.workflows.plan.forecasting import ConfigurationForecast, RunForecast

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
MONTH, YEAR = 30.4 * DAY, 365.0 * DAY
UNITS: Final = ((YEAR, 2 * YEAR, "year"), (MONTH, 2 * MONTH, "month"), (DAY, 2 * DAY, "day"), (HOUR, 2 * HOUR, "h"))
"""Seconds of a unit, shortest duration for which it is used, and its name."""
LONG_FOLD_SECONDS: Final = 12 * HOUR  # of training on a CPU, longer than a night: suggestions are printed
NIGHT_HOURS: Final = 8  # suggested budget, unless it would be refused
LEAST_MARGIN: Final = 1.5  # on the smallest budget: estimates are accurate to about a third
LONG_TRAINING_SECONDS: Final = 2 * HOUR  # of all folds: training one fold first is suggested
GIGABYTE: Final = 1e9
WIDTH: Final = 80


def print_forecast(console: "Console", forecast: "RunForecast", run: "Path", *, options: str = "") -> None:
    """Prints the table, how its figures were determined, what does not fit, and suggestions.

    Args:
        console: Console to print to.
        forecast: The forecast.
        run: Run folder.
        options: Options of `autoseg plan` that say what was planned, for another plan of the same.
    """
    from rich.table import Table
    from rich.text import Text

    survey = forecast.survey
    memory = f"{format_bytes(survey.memory_bytes)} of memory"
    gpu = "" if survey.has_gpu else ", no GPU"
    console.note("\n" + _wrap(f"Forecast for this computer ({survey.device}, {memory}{gpu})"))
    table = Table()
    every = f"{forecast.folds} folds"
    table.add_column("", no_wrap=True)
    for heading in ("time of\na fold", f"time of\n{every}", "peak\nmemory", "disk of\na fold", f"disk of\n{every}"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in _list_rows(forecast):
        table.add_row(*map(Text, row))
    console.show_table(table)
    for remark in list_remarks(forecast):
        console.note(_wrap(remark))
    for line in list_help(forecast, run, options):
        console.note(line)


def list_remarks(forecast: "RunForecast") -> list[str]:
    """Lists how the figures were determined, what they exclude, and what does not fit."""
    lines = [_explain_time(forecast), _explain_disk(forecast), *_list_warnings(forecast)]
    has_free_length = any(not entry.is_budgeted for entry in forecast.configurations)
    if not forecast.survey.has_gpu and has_free_length:
        lines.append(
            "GPU: none here, so the time on a GPU is unknown; on a computer with one, autoseg plan ends with this "
            "forecast for it, and autoseg train begins with one"
        )
    return lines


def suggest_next(forecast: "RunForecast", run: "Path") -> str:
    """Suggests the next command: a single fold if all of them take hours or an unknown time."""
    total = forecast.total_seconds
    is_short = total is not None and total <= LONG_TRAINING_SECONDS
    return f"autoseg train {quote_path(run)}" + ("" if is_short else " --fold 0")


def format_about(seconds: float | int | None) -> str:
    """Formats a coarse duration: 40 s, 25 min, 3.5 h, 12 days, 4 months."""
    if seconds is None:
        return "unknown"
    for unit, least, name in UNITS:
        if seconds >= least:
            return f"{_round(seconds / unit)} {name}{'' if name == 'h' else 's'}"
    return f"{seconds / MINUTE:.0f} min" if seconds >= 1.5 * MINUTE else f"{seconds:.0f} s"


def format_bytes(size_bytes: float | int) -> str:
    """Formats a size in MB or GB with two digits."""
    if size_bytes >= 0.95 * GIGABYTE:
        return f"{_round(size_bytes / GIGABYTE)} GB"
    return f"{max(1, round(size_bytes / 1e6))} MB"


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def _format_step(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"


def _round(number: float | int) -> str:
    return f"{number:.1f}".removesuffix(".0") if number < 9.95 else f"{number:.0f}"


def _list_rows(forecast: "RunForecast") -> list[tuple[str, ...]]:
    rows = [_format_row(forecast, entry) for entry in forecast.configurations]
    if len(rows) > 1:
        needed = [entry.cost.memory_bytes for entry in forecast.configurations if entry.cost is not None]
        left = sum(entry.fold_bytes for entry in forecast.configurations)
        rows.append(
            (
                "in all",
                format_about(forecast.fold_seconds),
                format_about(forecast.total_seconds),
                format_bytes(max(needed)) if needed else "unknown",
                format_bytes(left),
                format_bytes(forecast.folds * left),
            )
        )
    return rows


def _format_row(forecast: "RunForecast", entry: "ConfigurationForecast") -> tuple[str, ...]:
    return (
        entry.name,
        format_about(entry.fold_seconds),
        format_about(forecast.compute_total(entry)),
        "unknown" if entry.cost is None else format_bytes(entry.cost.memory_bytes),
        format_bytes(entry.fold_bytes),
        format_bytes(forecast.folds * entry.fold_bytes),
    )


def _explain_time(forecast: "RunForecast") -> str:
    first = [entry for entry in forecast.configurations if entry.autoencoder_seconds > 0]
    if all(entry.is_budgeted for entry in forecast.configurations):
        share = ", and its label autoencoder to a fifth of it" if first else ""
        return f"time: the plan's budget, which training and validation of a fold keep to{share}"
    known = [(entry, entry.cost) for entry in forecast.configurations if entry.cost is not None]
    if not known:
        return f"time: unknown; {forecast.survey.how}"
    steps = ", ".join(f"{entry.name} {_format_step(cost.iteration_seconds)}" for entry, cost in known)
    validation = " and ".join(format_about(entry.validation_seconds) for entry, _ in known)
    label_maps = ", ".join(f"{entry.name} {format_about(entry.autoencoder_seconds)}" for entry in first)
    before = f"; so is its label autoencoder, which is trained before ({label_maps})" if first else ""
    return (
        f"time: {forecast.survey.how}. An iteration: {steps}. Predicting the held-out cases of a fold is counted "
        f"({validation}), scoring them is not{before}"
    )


def _explain_disk(forecast: "RunForecast") -> str:
    parts = [f"preprocessed data {format_bytes(forecast.written_bytes)}"] if forecast.written_bytes else []
    if forecast.missing_bytes:
        parts.append(f"up to {format_bytes(forecast.missing_bytes)} more that preprocessing writes")
    parts.append(f"{format_bytes(forecast.passing_bytes)} while a fold is trained")
    return f"disk: models and validation as above; beside them {', '.join(parts)}"


def _list_warnings(forecast: "RunForecast") -> list[str]:
    limit, where = forecast.survey.memory_bytes, forecast.survey.device
    lines = [
        f"warning: {entry.name} needs about {format_bytes(entry.cost.memory_bytes)} of memory and {where} has "
        f"{format_bytes(limit)}: it cannot be trained here"
        for entry in forecast.configurations
        if entry.cost is not None and entry.cost.memory_bytes > limit
    ]
    if forecast.survey.costs or forecast.survey.has_gpu:
        lines += [f"warning: {problem}" for problem in forecast.survey.problems.values()]
    return lines


def list_help(forecast: "RunForecast", run: "Path", options: str = "") -> list[str]:
    """Lists ways to shorten the training if it takes long on this CPU."""
    free = [entry for entry in forecast.configurations if not entry.is_budgeted]
    longest = max((entry.fold_seconds for entry in free if entry.fold_seconds is not None), default=0.0)
    if forecast.survey.has_gpu or longest <= LONG_FOLD_SECONDS:
        return []
    least = LEAST_MARGIN * max(entry.least_budget_seconds for entry in free)
    hours = max(NIGHT_HOURS, math.ceil(least / HOUR))
    same = f" {options}" if options else ""
    return [
        f"This plan is for a GPU: on this CPU one fold takes {format_about(longest)}. What helps:",
        f"  - a plan for this CPU: autoseg plan DATASET --planner timed --budget 30m --run ANOTHER_FOLDER{same}",
        f"  - a computer with a GPU: copy {run} there",
        f"  - training that ends in time, however far it gets: autoseg train {quote_path(run)} --budget {hours}h",
    ]
