"""The section about what `autoseg select` chose: models, ways to predict, postprocessing, objects, and estimates."""

from collections.abc import Iterator, Sequence
from typing import Final

from autoseg.quality.calibration import QualityCalibration
from autoseg.quality.regression import CalibratedScore
from autoseg.report.blocks import Block, Cell, Decisions, Facts, Notes, Section, Table
from autoseg.workflows.report.scores import format_interval, tabulate_object_scores
from autoseg.workflows.select.prediction_choice import PredictionChoice
from autoseg.workflows.select.selection_document import CandidateScores, ObjectChoice, Selection

NOT_MEASURED: Final = (
    "ways to predict were not measured: --no-variants, too few cases, a previous stage, cases that are not "
    "preprocessed any more, or an earlier version"
)
COST: Final = "billions of multiply-adds an image"


def describe_selection(selection: Selection, calibration: QualityCalibration | None) -> Section:
    """Describes what `autoseg select` chose, against what, and why."""
    facts = [
        ("Predicts with", selection.name),
        ("Folds", "; ".join(", ".join(member.folds) for member in selection.members)),
        ("Views", "mirrored ones are averaged" if selection.options.mirroring else "no mirrored ones"),
        ("Decoding", selection.options.decoding),
        ("Postprocessing", "; ".join(rule.describe() for rule in selection.postprocessing.rules) or "none"),
        ("Held-out cases", str(len(selection.cases))),
    ]
    blocks: list[Block] = [
        Facts(facts),
        Notes([selection.because]),
        _tabulate_candidates(selection.candidates),
        *_list_prediction(selection.prediction),
        *_list_postprocessing(selection),
        *_list_objects(selection.objects),
        *_list_calibration(calibration),
    ]
    lead = "The models, the way to predict and the postprocessing with which new images are predicted."
    return Section("selection", "Selection", lead, blocks)


def _tabulate_candidates(candidates: Sequence[CandidateScores]) -> Table:
    """Tabulates the scores of all candidates, the best one first; those of objects and costs where there are any."""
    columns: dict[str, list[Cell]] = {
        "candidate": [one.name for one in candidates],
        "Dice": [one.foreground.mean for one in candidates],
        "95 % interval": [format_interval(one.foreground) for one in candidates],
        "cases": [one.foreground.count for one in candidates],
    }
    if any(one.objects for one in candidates):
        known = [None if one.objects is None else one.objects.foreground for one in candidates]
        columns["AP of objects"] = [None if one is None else one.mean for one in known]
        columns["its 95 % interval"] = [None if one is None else format_interval(one) for one in known]
    if any(one.image_cost is not None for one in candidates):
        columns[COST] = [one.image_cost for one in candidates]
    rows = list(zip(*columns.values(), strict=True))
    return Table(tuple(columns), rows, title="Candidates", formats={COST: ".4g"})


def _list_prediction(choice: PredictionChoice | None) -> Iterator[Block]:
    """Yields views and decoding with their reasons, and every way that was measured with its cost."""
    if choice is None:
        yield Notes([NOT_MEASURED])
        return
    views = "mirrored views" if choice.mirroring else "no mirrored views"
    decisions = [("views", views, choice.mirroring_because), ("decoding", choice.decoding, choice.decoding_because)]
    yield Decisions("Prediction", decisions)
    rows = [
        (
            variant.describe(),
            variant.passes_per_case,
            variant.foreground.mean,
            format_interval(variant.foreground),
            variant.foreground.count,
        )
        for variant in choice.variants
    ]
    if rows:
        columns = ("way", "patches a case", choice.score_name, "95 % interval", "cases")
        title = "Ways to predict, before postprocessing; the patches of a fold are their cost"
        yield Table(columns, rows, title=title, formats={"patches a case": ".1f"})


def _list_postprocessing(selection: Selection) -> Iterator[Block]:
    steps = [
        (step.what, "accepted" if step.accepted else "left out", step.because)
        for step in selection.postprocessing.steps
    ]
    if steps:
        yield Table(("step", "", "because"), steps, title="Postprocessing that was tried")


def _list_objects(choice: ObjectChoice | None) -> Iterator[Block]:
    """Yields the rules by which objects are found, with their scores and those of connected components."""
    if choice is None:
        return
    yield Notes([*(rule.describe() for rule in choice.rules), choice.because])
    sources = {"told apart": choice.scores, "connected components": choice.components}
    rows = [(name, source, found) for source, scores in sources.items() for name, found in scores.items()]
    yield tabulate_object_scores(rows, title="Objects of all held-out cases together, on which the rules were learned")


def _list_calibration(calibration: QualityCalibration | None) -> Iterator[Block]:
    """Yields how good the estimates of quality are, each held-out case judged without its fold."""
    if calibration is None:
        yield Notes(["quality: there is no calibration, so no Dice of new images is estimated"])
        return
    yield Notes([f"quality: {calibration.describe()}"])
    rows = [
        _describe_fit(name, title, fitted)
        for name, entry in zip(calibration.class_names, calibration.classes, strict=True)
        for title, fitted in (("Dice", entry.dice), ("NSD", entry.nsd))
        if fitted is not None
    ]
    rows += [
        _describe_fit(name, title, fitted)
        for name, of_objects in (calibration.objects or {}).items()
        for title, fitted in (("F1 of objects", of_objects.f1), ("PQ of objects", of_objects.pq))
        if fitted is not None
    ]
    if rows:
        columns = ("class", "score", "cases", "coverage of 90 %", "mean error", "rank correlation")
        yield Table(columns, rows, title="Estimates of quality", formats={"coverage of 90 %": ".1%"})


def _describe_fit(name: str, title: str, fitted: CalibratedScore) -> Sequence[Cell]:
    found = fitted.quality
    return name, title, found.cases, found.coverage, found.mean_error, found.rank_correlation
