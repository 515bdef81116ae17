"""What a report says of the choice of `autoseg select`."""

from pathlib import Path
from typing import Any

from builders.scored_runs import build_planned_run
from builders.selections import build_prediction_choice, build_selection, build_variant

from autoseg.document import write_document
from autoseg.evaluation.crossvalidation import Statistic
from autoseg.evaluation.instances import ObjectScores
from autoseg.postprocessing.instances import ObjectRule
from autoseg.quality.calibration import CALIBRATION_NAME, ClassCalibration, QualityCalibration
from autoseg.quality.distribution import Distribution
from autoseg.quality.regression import CalibratedScore, FitQuality, Regression
from autoseg.report.blocks import Block, Decisions, Facts, Notes, Section, Table
from autoseg.run_folder import write_text
from autoseg.workflows.report.contents import compute_digest, read_contents
from autoseg.workflows.report.selection import describe_selection
from autoseg.workflows.select.selection_document import (
    CandidateScores,
    Member,
    ObjectChoice,
    ObjectPrecision,
    Selection,
)

MEMBER = Member(configuration="3d_fullres", folds=("0",), weights_sha256=("a",))


def select(**fields: Any) -> Selection:
    return build_selection((MEMBER,), ()).model_copy(update=fields)


def build_calibration(cases: int = 40) -> QualityCalibration:
    regression = Regression(centres=(0.0,), scales=(1.0,), weights=(1.0,), intercept=0.0, low=0.0, high=0.0)
    quality = FitQuality(cases=cases, coverage=0.925, mean_error=0.0123, rank_correlation=0.456)
    fitted = CalibratedScore(regression=regression, quality=quality)
    return QualityCalibration(
        autoseg_version="1",
        weights_sha256=(),
        postprocessing=(),
        cases=cases,
        class_names=("liver",),
        classes=(ClassCalibration(dice=fitted, nsd=None, volume=None),),
        distribution=Distribution(ranges=(), threshold=3.0, thumbnails=(), cases=cases, is_calibrated=False),
    )


def find(section: Section, kind: type[Block]) -> list[Any]:
    return [block for block in section.blocks if isinstance(block, kind)]


def list_notes(section: Section) -> list[str]:
    return [text for notes in find(section, Notes) for text in notes.texts]


def test_views_and_decoding_are_shown_with_reasons_and_all_ways_with_their_costs() -> None:
    variants = (
        build_variant("3d_fullres").model_copy(update={"passes_per_case": 64.0}),
        build_variant("3d_fullres", mirroring=False, dice=0.89).model_copy(update={"passes_per_case": 8.0}),
    )
    told = {"mirroring_because": "views gain <0.0001>", "decoding_because": "dice gains 0.02"}
    choice = build_prediction_choice(variants, mirroring=False, decoding="dice").model_copy(update=told)
    section = describe_selection(select(prediction=choice), None)
    facts = dict(find(section, Facts)[0].entries)
    assert (facts["Views"], facts["Decoding"]) == ("no mirrored ones", "dice")
    (decisions,) = find(section, Decisions)
    assert decisions.entries == [
        ("views", "no mirrored views", "views gain <0.0001>"),
        ("decoding", "dice", "dice gains 0.02"),
    ]
    (ways,) = [table for table in find(section, Table) if table.title.startswith("Ways to predict")]
    assert [row[:3] for row in ways.rows] == [
        ("3d_fullres: mirroring, step 0.5", 64.0, 0.9),
        ("3d_fullres: no mirroring, step 0.5", 8.0, 0.89),
    ]


def test_the_scores_that_decided_are_shown_by_their_names() -> None:
    dice, precision = (Statistic(count=9, mean=mean, std=None, lower=0.25, upper=0.75) for mean in (0.8, 0.5))
    plain = CandidateScores(configurations=("2d",), foreground=dice, classes={})
    assert find_candidates(plain).columns == ("candidate", "Dice", "95 % interval", "cases")
    objects = ObjectPrecision(foreground=precision, classes={})
    table = find_candidates(plain.model_copy(update={"objects": objects, "image_cost": 1234.5}), plain)
    assert table.columns[4:] == ("AP of objects", "its 95 % interval", "billions of multiply-adds an image")
    assert [row[4:] for row in table.rows] == [(0.5, "0.250 to 0.750", 1234.5), (None, None, None)]
    assert table.format_cell(table.columns[-1], 1234.5) == "1234"
    choice = build_prediction_choice((build_variant("2d"),)).model_copy(update={"score_name": "AP of objects"})
    (ways,) = [table for table in list_tables(select(prediction=choice)) if table.title.startswith("Ways to predict")]
    assert ways.columns[2] == "AP of objects"


def find_candidates(*candidates: CandidateScores) -> Table:
    return next(table for table in list_tables(select(candidates=candidates)) if table.title == "Candidates")


def list_tables(selection: Selection) -> list[Table]:
    return find(describe_selection(selection, None), Table)


def test_what_was_not_measured_is_said() -> None:
    notes = list_notes(describe_selection(select(), None))
    assert any("ways to predict were not measured" in text for text in notes)
    assert any("there is no calibration" in text for text in notes)
    few = list_notes(describe_selection(select(), build_calibration(cases=7)))
    assert any("7 held-out cases are too few to calibrate it" in text for text in few)


def test_the_calibration_says_how_good_the_estimates_are() -> None:
    section = describe_selection(select(), build_calibration())
    assert any("quality: calibrated on 40 held-out cases" in text for text in list_notes(section))
    (table,) = [table for table in find(section, Table) if table.title == "Estimates of quality"]
    assert table.rows == [("liver", "Dice", 40, 0.925, 0.0123, 0.456)]
    assert table.format_cell("coverage of 90 %", 0.925) == "92.5%"


def test_objects_have_their_rules_and_scores() -> None:
    scores = ObjectScores(AP=0.5, AP50=0.75, AP75=0.25, F1=0.8, SQ=0.9, PQ=0.72, predicted=3, expected=4, matched=3)
    rule = ObjectRule(name="cell", value=1, seed_threshold=0.4)
    worse = scores.model_copy(update={"AP": 0.1})
    choice = ObjectChoice(
        rules=(rule,), gain=None, because="learned on 6 cases", scores={"cell": scores}, components={"cell": worse}
    )
    section = describe_selection(select(objects=choice), None)
    assert "objects of cell grow from cores of at least 0.4" in list_notes(section)
    assert "learned on 6 cases" in list_notes(section)
    (table,) = [table for table in find(section, Table) if table.title.startswith("Objects")]
    places = [table.columns.index(name) for name in ("objects", "AP", "PQ")]
    assert [[row[place] for place in places] for row in table.rows] == [
        ["told apart", 0.5, 0.72],
        ["connected components", 0.1, 0.72],
    ]


def test_a_new_calibration_makes_a_new_page(tmp_path: Path) -> None:
    run = build_planned_run(tmp_path)
    before = compute_digest(read_contents(run.root))
    write_document(run.root / CALIBRATION_NAME, build_calibration())
    contents = read_contents(run.root)
    assert contents.calibration == build_calibration()
    assert compute_digest(contents) != before


def test_corrected_objects_make_a_new_page(tmp_path: Path) -> None:
    contents, out = read_contents(build_planned_run(tmp_path).root), tmp_path / "out"
    write_text(out / "instances" / "a.nii.gz", "numbers")
    before = compute_digest(contents, out)
    assert compute_digest(contents, out) == before
    write_text(out / "instances" / "a.nii.gz", "corrected numbers")
    assert compute_digest(contents, out) != before
