"""The choice among candidates of which some are stages, by scores that are made by hand."""

from dataclasses import replace

import numpy as np
import pytest
from builders.labels import build_labels
from builders.plans import build_configuration, build_plan
from builders.progress import Notes

from autoseg.evaluation.crossvalidation import Statistic
from autoseg.plan import BoxOfPreviousStage, MasksOfPreviousStage
from autoseg.plan.stages import BoundaryOfPreviousStage
from autoseg.postprocessing.instances import build_usual_rules
from autoseg.run_folder import RunFolder
from autoseg.workflows.evaluate.evaluation import EvaluationJob
from autoseg.workflows.select import selection
from autoseg.workflows.select.candidates import ModelCandidate, describe_stages, explain, has_stages, judge_stages, rank
from autoseg.workflows.select.held_out import HeldOut
from autoseg.workflows.select.selection_document import CandidateScores, ObjectChoice

STAGES = {
    "boundary_refinement": BoundaryOfPreviousStage(configuration="3d_fullres", overlap_limit=0.25),
    "3d_roi": BoxOfPreviousStage(configuration="3d_coarse", margin_mm=4.0),
    "detect_then_segment": BoxOfPreviousStage(configuration="3d_detector", margin_mm=4.0),
    "3d_cascade_fullres": MasksOfPreviousStage(configuration="3d_lowres"),
}
FULL, ROI, BOUNDARY = "3d_fullres", "3d_roi", "boundary_refinement"
SCORED = np.array([True])
NOISE = np.array([[0.01], [-0.01], [0.02], [-0.02], [0.0], [0.0]])  # the same in each candidate: gains have no spread


def build_member(name: str) -> HeldOut:
    whole, stage = build_configuration((8, 8, 8), data_of=FULL if name in STAGES else name), STAGES.get(name)
    configurations = {name: whole.model_copy(update={"previous_stage": stage})}
    configurations |= {} if stage is None else {stage.configuration: whole}
    planned = build_configuration((8, 8), data_of="2d", network={"output_channels": 2})
    plan = build_plan({"2d": planned}, labels=build_labels({"organ": (1,)}))
    plan = plan.model_copy(update={"configurations": configurations})
    return HeldOut(configuration=name, plan=plan, folds=("0",), holders={})


def build(*names: str, dice: float, nsd: float = 0.5, spread: float = 0.0, cases: int = 6, cost: float | None = 1.0):
    """A candidate whose Dice and NSD differ among cases, by the spread in a way of its own."""
    own = spread * np.array([[1.0], [-1.0], [1.0], [-1.0], [1.0], [-1.0]])
    return ModelCandidate(
        members=tuple(map(build_member, names)),
        jobs=(),
        dice=(dice + NOISE + own)[:cases],
        nsd=(nsd + NOISE + own)[:cases],
        image_cost=cost,
    )


def choose(*candidates: ModelCandidate) -> list[ModelCandidate]:
    return rank(judge_stages(candidates, SCORED), SCORED)


@pytest.mark.parametrize(
    ("changes", "is_kept"),
    [
        ({"dice": 0.81}, True),
        ({"dice": 0.81, "spread": 0.1}, False),  # higher, but not in all of the interval
        ({"dice": 0.8, "nsd": 0.6}, True),  # surfaces gain, and Dice does not fall
        ({"dice": 0.799, "nsd": 0.6}, False),
        ({"dice": 0.8}, False),
    ],
)
def test_a_stage_stays_only_where_dice_or_surfaces_gain_by_their_interval(changes, is_kept):
    ranked = choose(build(FULL, dice=0.8), build(BOUNDARY, **changes))
    assert ranked[0].name == (BOUNDARY if is_kept else FULL)
    assert ranked[0 if is_kept else 1].verdict.is_kept == is_kept
    told = explain(ranked, SCORED)
    assert (f"{BOUNDARY} stays: it gains" if is_kept else f"{BOUNDARY} is left out: it gains") in told
    assert f"in NSD over {FULL}" in told


@pytest.mark.parametrize(
    ("changes", "is_kept"),
    [
        ({"dice": 0.7985, "cost": 0.3}, True),
        ({"dice": 0.797, "cost": 0.3}, False),
        ({"dice": 0.7985, "cost": 1.1}, False),
        ({"dice": 0.7985, "cost": None}, False),
        ({"dice": 0.81, "cost": 1.1}, True),  # as any other stage
    ],
)
def test_a_stage_that_saves_time_is_taken_where_it_is_cheaper_and_about_as_good(changes, is_kept):
    ranked = choose(build("3d_coarse", dice=0.6), build(FULL, dice=0.8), build(ROI, **changes))
    assert ranked[0].name == (ROI if is_kept else FULL)
    assert next(one for one in ranked if one.name == ROI).verdict.follows == (FULL,)
    assert ("at most 0.002 below" in explain(ranked, SCORED)) == (is_kept and changes["dice"] < 0.8)


def test_the_reason_names_what_a_cheap_stage_stands_in_for():
    told = explain(choose(build("2d", dice=0.7), build(FULL, dice=0.8), build(ROI, dice=0.799, cost=0.25)), SCORED)
    assert told.startswith(f"{FULL} has the highest of 2 candidates: mean Dice 0.8000 over 6 held-out cases")
    assert f"{ROI} stays: an image costs 0.25 times that of {FULL}, and its Dice differs by -0.0010" in told


def test_a_stage_that_stands_in_for_a_worse_candidate_does_not_beat_the_best():
    ranked = choose(build("2d", dice=0.801), build(FULL, dice=0.8), build(ROI, dice=0.7995, cost=0.3))
    assert [one.name for one in ranked] == ["2d", ROI, FULL]


def test_without_the_network_for_whole_images_a_box_is_compared_with_its_first_stage():
    ranked = choose(build("3d_coarse", dice=0.6), build(ROI, dice=0.8, cost=9.0))
    assert (ranked[0].name, ranked[0].verdict.follows) == (ROI, ("3d_coarse",))
    alone = choose(build("2d", dice=0.7), build("detect_then_segment", dice=0.8))
    assert (alone[0].name, alone[0].verdict) == ("detect_then_segment", None)
    assert any("not compared with 3d_fullres or 3d_detector" in line for line in describe_stages(alone))


def test_pairs_with_a_stage_are_compared_with_the_same_pair_without_it():
    ranked = choose(
        build("2d", dice=0.7),
        build(FULL, dice=0.8),
        build(ROI, dice=0.799, cost=0.3),
        build("2d", FULL, dice=0.82, cost=2.0),
        build("2d", ROI, dice=0.8195, cost=1.3),
        build(FULL, ROI, dice=0.8, cost=1.3),
    )
    assert [one.name for one in ranked] == [
        f"2d + {ROI}",
        f"2d + {FULL}",
        ROI,
        FULL,
        "2d",
        f"{FULL} + {ROI}",
    ]
    assert ranked[-1].verdict.follows == (FULL,)


def test_too_few_cases_keep_no_stage():
    ranked = choose(build(FULL, dice=0.8, cases=4), build(ROI, dice=0.9, cases=4, cost=0.1))
    assert ranked[0].name == FULL
    assert f"{ROI} is left out: it gains +0.1000 (too few cases to tell" in explain(ranked, SCORED)


def test_a_cascade_is_ranked_by_its_mean_dice_as_in_nnunet():
    candidates = (build("3d_lowres", dice=0.8), build("3d_cascade_fullres", dice=0.8001, spread=0.1))
    assert not has_stages(candidates)
    ranked = choose(*candidates)
    assert [one.name for one in ranked] == ["3d_cascade_fullres", "3d_lowres"]
    assert all(one.verdict is None for one in ranked)
    assert has_stages([build(ROI, dice=0.5)])


def test_costs_and_verdicts_are_told_for_every_candidate():
    candidates = judge_stages([build(FULL, dice=0.8, cost=12.34567), build(ROI, dice=0.8, cost=3.0)], SCORED)
    first, second = describe_stages(candidates)
    assert first.endswith(f"included: {FULL} 12.35, {ROI} 3")
    assert second.startswith(f"{ROI} stays: an image costs 0.24 times")


def test_select_says_what_became_of_stages_also_where_costs_cannot_be_counted(tmp_path):
    job = EvaluationJob(case="a", prediction=tmp_path, reference=tmp_path, labels=build_labels({"organ": (1,)}))
    notes = Notes()
    candidates = [replace(one, jobs=(job,), image_cost=None) for one in (build(ROI, dice=0.801), build(FULL, dice=0.8))]
    ranked = selection._rank(RunFolder(tmp_path), candidates, SCORED, progress=notes)
    assert ranked[0].name == ROI
    assert notes.text.startswith(f"{ROI} stays: it gains +0.0010 (95 % interval")
    assert selection._describe_candidate(ranked[0], SCORED).stage == ranked[0].verdict
    candidates[0] = replace(candidates[0], dice=candidates[1].dice)
    selection._rank(RunFolder(tmp_path), candidates, SCORED, progress=notes)
    assert "and what an image costs is not known, as cases are not preprocessed any more" in notes.text


def test_objects_rank_candidates_whatever_their_dice():
    rules = build_usual_rules(build_labels({"organ": (1,)}))
    choice = ObjectChoice(rules=rules, gain=None, because="", scores={}, components={})
    both, candidates = np.array([True, True]), []  # core and border
    for name, dice, precision in ((FULL, 0.9, 0.3), ("2d", 0.7, 0.5)):
        one = build(name, dice=dice)
        objects = (choice, np.full((6, 1), precision), ())
        candidates.append(ModelCandidate(members=one.members, jobs=(), dice=np.tile(one.dice, 2), objects=objects))
    ranked = rank(candidates, both)
    assert [one.name for one in ranked] == ["2d", FULL]
    assert explain(ranked, both).startswith("2d has the highest of 2 candidates: mean AP of objects 0.5000 over 6")
    written = selection._describe_objects(ranked[0], both)
    assert (written.foreground.mean, list(written.classes)) == (0.5, ["organ"])


def test_documents_of_runs_without_stages_and_objects_are_as_before():
    statistic = Statistic(mean=0.5, std=None, lower=None, upper=None, count=1)
    written = CandidateScores(configurations=("2d",), foreground=statistic, classes={}).model_dump()
    assert list(written) == ["configurations", "foreground", "classes", "pruned_depth"]
