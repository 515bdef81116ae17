"""The sections about training, cross-validation and provenance of a run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from shlex import quote

from autoseg.dataset import DatasetRecord
from autoseg.evaluation.crossvalidation import CrossValidation, Score, Statistic
from autoseg.evaluation.instances import ObjectScores
from autoseg.evaluation.summary import format_metric_name
from autoseg.plan import Plan
from autoseg.report.blocks import Block, Cell, Commands, Figure, Notes, Section, Table
from autoseg.report.charts import draw_curves, draw_intervals, draw_strips
from autoseg.training.monitoring.history import EpochRecord
from autoseg.workflows.report.contents import RunContents

SHOWN: tuple[Score, ...] = ("Dice", "HD95", "NSD")
NAMING_FILES = ("--init", "--splits", "--pretrained", "--teacher")
OBJECT_SCORES = ("AP50", "AP75", "AP", "F1", "SQ", "PQ")
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
    blocks += _list_objects(contents)
    lead = "Held-out cases of all validated folds; intervals are 95 % intervals of the mean, by bootstrap over cases."
    return Section("scores", "Cross-validation", lead, blocks)


def _list_objects(contents: RunContents) -> Iterator[Table]:
    """Yields the scores of objects, which `autoseg select` computes of what it selects."""
    if contents.selection is not None and contents.selection.objects is not None:
        scores = contents.selection.objects.scores.items()
        title = f"Objects of all held-out cases together, by {contents.selection.name}"
        yield tabulate_object_scores(((name, "told apart", found) for name, found in scores), title=title)


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


def tabulate_object_scores(scores: Iterable[tuple[str, str, ObjectScores]], *, title: str) -> Table:
    """Tabulates the scores of objects, each with its class and the source of the objects."""
    rows: list[list[Cell]] = [
        [
            name,
            source,
            *(getattr(found, score) for score in OBJECT_SCORES),
            found.predicted,
            found.expected,
            found.matched,
        ]
        for name, source, found in scores
    ]
    return Table(("class", "objects", *OBJECT_SCORES, "predicted", "expected", "matched"), rows, title=title)


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
    run = quote(contents.run.root.resolve().name)
    if contents.dataset is not None:
        yield from _list_plan_commands(contents.plan, contents.dataset, run)
    for (configuration, fold), record in contents.trainings.items():
        known = record.calls or ((("--seed", str(record.seed)),) if record.seed else ((),))
        for call in known:
            yield " ".join(["autoseg train", run, "--configuration", configuration, "--fold", fold, *_quote(call)])
    if contents.selection is not None:
        yield " ".join(["autoseg select", run, *_quote(contents.selection.call)])
    yield f"autoseg report {run}"


def _list_plan_commands(plan: Plan, record: DatasetRecord, run: str) -> Iterator[str]:
    """Yields the calls that made the plan, with what they left to the planner; of earlier versions by the plan."""
    task = () if plan.instances is None else ("--task", "instances")
    has_centres = plan.instances is not None and plan.instances.centre_steps > 0
    targets = ("--targets", "centre_distance") if has_centres else ()
    fixes = ("--fix-geometry",) if record.fix_geometry else ()
    splitting = {word for word in record.split_options if word.startswith("--")}
    is_first_known = any(splitting <= set(call) for call in record.plan_calls[:1])
    unknown = () if is_first_known else ((*fixes, *task, *targets, *record.split_options),)
    for call in (*unknown, *record.plan_calls):
        planner = plan.planner.split(" ")
        usual = {
            "--planner": planner if call in unknown else planner[:1],
            "--memory-gb": [f"{plan.accelerator_memory_gb:g}"],
            "--budget": [] if plan.budget_seconds is None else [f"{plan.budget_seconds:.0f}s"],
        }
        added = [word for flag, words in usual.items() if words and flag not in call for word in (flag, *words)]
        yield " ".join(["autoseg plan", quote(record.name), *_quote([*added, *call]), "--run", run])
