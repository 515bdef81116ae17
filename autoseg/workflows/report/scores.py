"""The sections about training, cross-validation and selection of a run."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from shlex import quote

from autoseg.evaluation.crossvalidation import CrossValidation, Score, Statistic
from autoseg.evaluation.summary import format_metric_name
from autoseg.report.blocks import Block, Cell, Commands, Facts, Figure, Notes, Section, Table
from autoseg.report.charts import draw_curves, draw_intervals, draw_strips
from autoseg.training.monitoring.history import EpochRecord
from autoseg.workflows.report.contents import RunContents
from autoseg.workflows.select.selection_document import Selection

SHOWN: tuple[Score, ...] = ("Dice", "HD95", "NSD")
NAMING_FILES = ("--init", "--splits")
MOST_CLASS_COLUMNS = 8
"""A table of cases with more columns is no longer read; it shows mean and lowest class instead."""


def describe_training(contents: RunContents) -> Section:
    """Describes the state of every fold, and the curves of those that were begun."""
    rows = [
        (
            status.configuration,
            status.fold,
            status.state,
            status.epochs_done or None,
            status.train_loss,
            status.validation_loss,
            status.pseudo_dice,
            status.dice,
        )
        for status in contents.statuses
    ]
    columns = ("configuration", "fold", "state", "epochs", "training loss", "validation loss", "pseudo Dice", "Dice")
    warnings = [
        f"warning: {status.configuration}, fold {status.fold}: {text}"
        for status in contents.statuses
        for text in (*status.warnings, *((status.reason,) if status.reason else ()))
    ]
    blocks: list[Block] = [Table(columns, rows), Notes(warnings)]
    for name in contents.plan.configurations:
        histories = {fold: records for (own, fold), records in contents.histories.items() if own == name}
        if histories:
            caption = f"{name}: losses and pseudo Dice (random patches, moving average) of every fold."
            blocks.append(Figure(caption, draw_curves(_collect_curves(histories), label="epoch, counted from 1")))
    return Section("training", "Training", "State and progress of every fold.", blocks)


def _collect_curves(histories: Mapping[str, Sequence[EpochRecord]]) -> dict[str, dict[str, list[float | None]]]:
    fields = {"training loss": "train_loss", "validation loss": "validation_loss", "pseudo Dice": "moving_average"}
    return {
        title: {f"fold {fold}": [getattr(record, field) for record in records] for fold, records in histories.items()}
        for title, field in fields.items()
    }


def describe_crossvalidation(contents: RunContents, result: CrossValidation) -> Section:
    """Describes the scores of every class with their intervals, and those of every case."""
    planned = 0 if contents.splits is None else len(contents.splits.folds)
    missing = [
        f"warning: {name}: {len(scores.folds)} of {planned} folds are validated so far"
        for name, scores in result.configurations.items()
        if len(scores.folds) < planned
    ]
    limits = [f"warning: {name}, {text}" for name, scores in result.configurations.items() for text in scores.warnings]
    blocks: list[Block] = [Notes([*missing, *limits]), _draw_classes(result), _tabulate_scores(result)]
    for name in result.configurations:
        summaries = contents.select_folds(name)
        dice = {
            class_name: [
                score
                for summary in summaries.values()
                for entry in summary.metric_per_case
                if (score := entry.metrics[key].Dice) is not None
            ]
            for key, class_name in result.class_names.items()
        }
        caption = f"{name}: Dice of every held-out case, one point each, with the median."
        blocks.append(Figure(caption, draw_strips(dice, label="Dice")))
    lead = "Held-out cases of all validated folds; intervals are 95 % intervals of the mean, by bootstrap over cases."
    return Section("scores", "Cross-validation", lead, blocks)


def _draw_classes(result: CrossValidation) -> Figure:
    groups = {
        class_name: {
            name: _list_bounds(scores.classes[key]["Dice"])
            for name, scores in result.configurations.items()
            if scores.classes[key]["Dice"].mean is not None
        }
        for key, class_name in result.class_names.items()
    }
    groups["foreground"] = {
        name: _list_bounds(scores.foreground["Dice"])
        for name, scores in result.configurations.items()
        if scores.foreground["Dice"].mean is not None
    }
    return Figure("Mean Dice of every class with its 95 % interval.", draw_intervals(groups, label="mean Dice"))


def _list_bounds(statistic: Statistic) -> tuple[float, float | None, float | None]:
    assert statistic.mean is not None, "only defined scores are drawn"
    return statistic.mean, statistic.lower, statistic.upper


def _tabulate_scores(result: CrossValidation) -> Table:
    columns = ["configuration", "class", "cases"]
    for score in SHOWN:
        columns += [format_metric_name(score, result.distance_unit), f"{score} 95 % interval"]
    rows = [
        (name, class_name, statistics["Dice"].count, *_list_cells(statistics))
        for name, scores in result.configurations.items()
        for class_name, statistics in (
            *((result.class_names[key], own) for key, own in scores.classes.items()),
            ("foreground", scores.foreground),
        )
    ]
    return Table(columns, rows, title="Scores")


def _list_cells(statistics: Mapping[Score, Statistic]) -> Iterator[Cell]:
    for score in SHOWN:
        yield statistics[score].mean
        yield format_interval(statistics[score])


def format_interval(statistic: Statistic) -> str | None:
    """Formats the interval of a mean; None if it is not defined."""
    if statistic.lower is None or statistic.upper is None:
        return None
    return f"{statistic.lower:.3f} to {statistic.upper:.3f}"


def describe_selection(selection: Selection) -> Section:
    """Describes what `autoseg select` chose, against what, and why."""
    rows = [
        (candidate.name, candidate.foreground.mean, format_interval(candidate.foreground), candidate.foreground.count)
        for candidate in selection.candidates
    ]
    steps = [
        (step.what, "accepted" if step.accepted else "left out", step.because)
        for step in selection.postprocessing.steps
    ]
    blocks: list[Block] = [
        Facts(
            [
                ("Predicts with", selection.name),
                ("Folds", "; ".join(", ".join(member.folds) for member in selection.members)),
                ("Postprocessing", "; ".join(rule.describe() for rule in selection.postprocessing.rules) or "none"),
                ("Held-out cases", str(len(selection.cases))),
            ]
        ),
        Notes([selection.because]),
        Table(("candidate", "Dice", "95 % interval", "cases"), rows, title="Candidates"),
    ]
    if steps:
        blocks.append(Table(("step", "", "because"), steps, title="Postprocessing that was tried"))
    lead = "The models and the postprocessing with which new images are predicted."
    return Section("selection", "Selection", lead, blocks)


def describe_provenance(contents: RunContents) -> Section:
    """Describes with which versions, devices and seeds everything was made, and the commands that make it again."""
    rows = [
        (
            record.configuration,
            record.fold,
            record.device,
            record.number_type,
            str(record.seed),
            record.versions.autoseg,
            record.versions.torch,
            record.versions.python,
        )
        for record in contents.trainings.values()
    ]
    columns = ("configuration", "fold", "device", "dtype", "seed", "autoseg", "torch", "Python")
    blocks: list[Block] = [Commands(list(_list_commands(contents)))]
    if rows:
        blocks.append(Table(columns, rows, title="Trainings"))
    lead = "Commands that make this run again, and the versions that made it."
    return Section("provenance", "Provenance", lead, blocks)


def _quote(arguments: Sequence[str]) -> Iterator[str]:
    """Quotes arguments for a shell; of files only the names, as a report tells nothing of the computer's folders."""
    pairs = zip(("", *arguments), arguments, strict=False)
    return (quote(PurePath(word).name if before in NAMING_FILES else word) for before, word in pairs)


def _list_commands(contents: RunContents) -> Iterator[str]:
    plan, run = contents.plan, contents.run.root.name
    if contents.dataset is not None:
        budget = "" if plan.budget_seconds is None else f" --budget {plan.budget_seconds:.0f}s"
        fixes = " --fix-geometry" if contents.dataset.fix_geometry else ""
        memory = f" --memory-gb {plan.accelerator_memory_gb:g}"
        folds = "".join(f" {word}" for word in _quote(contents.dataset.split_options))
        yield f"autoseg plan {contents.dataset.name} --planner {plan.planner}{memory}{budget}{fixes}{folds} --run {run}"
    for (configuration, fold), record in contents.trainings.items():
        known = record.calls or ((("--seed", str(record.seed)),) if record.seed else ((),))
        for call in known:
            yield " ".join(["autoseg train", run, "--configuration", configuration, "--fold", fold, *_quote(call)])
    if contents.selection is not None:
        yield f"autoseg select {run}"
    yield f"autoseg report {run}"
