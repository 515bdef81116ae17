"""Choosing among configurations whose held-out label maps are made by hand: two organs of 27 and 8 voxels."""

import json
import shutil

import numpy as np
import pytest
from builders.folds import build_epoch_record
from builders.labels import build_labels
from builders.progress import Notes

from autoseg.dataset.folds import Fold, Splits
from autoseg.document import read_document, write_document
from autoseg.errors import PlanError, PredictionError, SelectionError, TrainingError
from autoseg.evaluation.summary import EvaluationSummary
from autoseg.geometry import Grid
from autoseg.plan import MasksOfPreviousStage, Plan
from autoseg.processes import case_pool
from autoseg.processes.fold_lock import lock_fold
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import write_text
from autoseg.training.monitoring.history import append_to_training_log
from autoseg.validation_conditions import ValidationConditions
from autoseg.volume_io import write_label_map
from autoseg.workflows.evaluate.evaluation import EvaluationJob, evaluate_jobs
from autoseg.workflows.folds.state import KILLED_RESTART, TrainingState
from autoseg.workflows.select import held_out, selection
from autoseg.workflows.select.candidates import ModelCandidate, explain, rank
from autoseg.workflows.select.model_choice import resolve_models
from autoseg.workflows.select.postprocessing import learn_postprocessing
from autoseg.workflows.select.request import SelectionRequest
from autoseg.workflows.select.selection import select_models
from autoseg.workflows.select.selection_document import Selection

GRID = Grid(shape_voxels=(8, 9, 10), spacing_mm=(2.0, 1.0, 1.0))
LABELS = build_labels({"big": (2,), "small": (5,)})
FOLDS = (("a", "b", "e"), ("c", "d", "f"))
CASES = ("a", "b", "c", "d", "e", "f")


def make_reference(*, small=True):
    label_map = np.zeros(GRID.shape_voxels, np.uint8)
    label_map[1:4, 1:4, 1:4] = 2
    label_map[5:7, 5:7, 5:7] = 5 if small else 0
    return label_map


def make_prediction(*, missing=0, debris=0, islands=(), hole=False):
    """The reference, less some voxels of "big", with pieces of "big" that touch nothing, and a hole."""
    label_map = make_reference()
    label_map[1, 1, 1 : 1 + missing] = 0
    label_map[0, 8, :debris] = 2
    for z, y, x in islands:
        label_map[z, y, x] = 2
    if hole:
        label_map[2, 2, 2] = 0
    return label_map


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """Nearly every test evaluates, for which processes would be started on several cores."""
    monkeypatch.setattr(case_pool, "count_usable_cpus", lambda: 1)


@pytest.fixture
def run(run):
    """Of two organs, with references, nothing trained."""
    plan = read_document(run.plan, Plan)
    configurations = {}
    for name in ("2d", "3d_lowres"):
        network = plan.configurations[name].network.model_copy(update={"output_channels": 3})
        configurations[name] = plan.configurations[name].model_copy(update={"network": network})
    write_document(run.plan, plan.model_copy(update={"labels": LABELS, "configurations": configurations}))
    folds = tuple(Fold(training=FOLDS[1 - index], validation=validation) for index, validation in enumerate(FOLDS))
    write_document(run.splits, Splits(folds=folds))
    for case in CASES:
        write_label_map(run.references / f"{case}.nii.gz", make_reference(), grid=GRID, like=None)
    return run


def finish(run, configuration, *, folds=("0", "1"), **prediction):
    for fold in folds:
        folder = run.fold(configuration, fold)
        write_text(folder.final_checkpoint, f"weights of {configuration} {fold}")
        write_text(folder.plan, run.plan.read_text())
        write_predictions(run, configuration, fold, **prediction)


def write_predictions(run, configuration, fold, **prediction):
    validation = run.fold(configuration, fold).validation
    splits = read_document(run.splits, Splits)
    jobs = []
    for case in splits.folds[int(fold)].validation:
        path = validation / f"{case}.nii.gz"
        write_label_map(path, make_prediction(**prediction), grid=GRID, like=None)
        reference = run.references / f"{case}.nii.gz"
        jobs.append(EvaluationJob(case=case, prediction=path, reference=reference, labels=LABELS))
    evaluate_jobs(jobs, folder=validation, progress=SilentProgress())


def select(run, *, progress=None, **choices):
    request = SelectionRequest(ensembles=False, variants=False, **choices)  # these models are no networks
    selection = select_models(run.root, request, progress=progress or SilentProgress())
    assert selection == read_document(run.selection, Selection)
    return selection


def get_steps(selection):
    return {step.what: step for step in selection.postprocessing.steps}


def test_the_configuration_with_the_highest_mean_dice_wins_and_the_numbers_say_so(run):
    finish(run, "2d", missing=3)
    finish(run, "3d_lowres", missing=1)
    selection = select(run)
    assert [candidate.name for candidate in selection.candidates] == ["3d_lowres", "2d"]
    dice = [(2 * (27 - missing) / (54 - missing) + 1) / 2 for missing in (1, 3)]
    assert [candidate.foreground.mean for candidate in selection.candidates] == pytest.approx(dice)
    (member,) = selection.members
    assert (member.configuration, member.folds) == ("3d_lowres", ("0", "1"))
    assert len(member.weights_sha256) == 2
    assert f"{dice[0]:.4f} over 6 held-out cases" in selection.because
    assert f"2d, has {dice[1]:.4f}, a difference of {dice[0] - dice[1]:+.4f}" in selection.because
    assert selection.cases == CASES
    assert selection.call == ("--no-ensembles", "--no-variants")


def test_what_ties_stays_in_the_order_of_the_plan(run):
    finish(run, "3d_lowres", missing=1)
    finish(run, "2d", missing=1)
    assert [candidate.name for candidate in select(run).candidates] == ["2d", "3d_lowres"]


@pytest.mark.parametrize(("cases", "first"), [(4, "2d"), (5, "2d + 3d_lowres")])
def test_a_pair_comes_before_a_single_model_only_with_enough_cases(run, cases, first):
    for name in ("2d", "3d_lowres"):
        finish(run, name, folds=("0",))
    two, low = held_out.find_held_out(run, configurations=None, folds=None)
    entries = [
        ModelCandidate(members=members, jobs=(), dice=np.full((cases, 1), dice))
        for members, dice in (((two,), 0.8), ((low,), 0.7), ((two, low), 0.9))
    ]
    ranked = rank(entries, np.array([True]))
    assert ranked[0].name == first
    assert ("whether a pair is better" in explain(ranked, np.array([True]))) == (cases < 5)


def test_rules_that_help_are_accepted_with_their_gain_and_the_others_are_listed(run):
    finish(run, "2d", debris=2, hole=True)
    selection = select(run)
    steps = get_steps(selection)
    assert {what for what, step in steps.items() if step.accepted} == {
        "keep the largest component of big",
        "fill holes of big",
    }
    assert not steps["keep the largest component of foreground"].accepted  # it would remove the small organ
    assert "which is no gain" in steps["keep the largest component of foreground"].because
    largest = steps["keep the largest component of big"]
    gain = (2 * 26 / (27 + 26) - 2 * 26 / (27 + 28)) / 2
    assert (largest.gain.mean, largest.gain.lower, largest.gain.upper) == pytest.approx((gain, gain, gain))
    assert [rule.kind for rule in selection.postprocessing.rules] == ["largest_component", "fill_holes"]
    assert selection.postprocessing.rules[0].values == (2,)
    assert selection.postprocessing.rules[1].fill_value == 2
    assert selection.postprocessing.before.mean < 1
    assert selection.postprocessing.after.mean == 1


def test_a_hole_that_one_region_filled_is_no_gain_for_the_next(tmp_path):
    labels = build_labels({"whole": (1, 2), "core": (2,)}, region_write_values=(1, 2))
    reference = np.zeros(GRID.shape_voxels, np.uint8)
    reference[1:7, 1:7, 1:7], reference[2:6, 2:6, 2:6] = 1, 2
    predicted = reference.copy()
    predicted[3:5, 3:5, 3:5] = 0
    jobs = []
    for case in CASES:
        for name, label_map in (("prediction", predicted), ("reference", reference)):
            write_label_map(tmp_path / name / f"{case}.nii.gz", label_map, grid=GRID, like=None)
        paths = {name: tmp_path / name / f"{case}.nii.gz" for name in ("prediction", "reference")}
        jobs.append(EvaluationJob(case=case, labels=labels, **paths))
    learned = learn_postprocessing(jobs, blocks=np.array([0, 0, 1, 1, 0, 1]), progress=SilentProgress())
    steps = {step.what: step for step in learned.steps}
    assert steps["fill holes of whole"].accepted
    assert not steps["fill holes of core"].accepted
    np.testing.assert_array_equal(learned.after.predicted, [[6**3, 4**3 - 2**3]] * 6)


def test_the_largest_component_of_all_foreground_is_kept_where_it_helps(run):
    for case in CASES:
        joined = make_reference()
        joined[3:6, 3:6, 3:6] = 2
        joined[5:7, 5:7, 5:7] = 5
        write_label_map(run.references / f"{case}.nii.gz", joined, grid=GRID, like=None)
    finish(run, "2d")
    for case, fold in ((case, str(fold)) for fold, cases in enumerate(FOLDS) for case in cases):
        path = run.fold("2d", fold).validation / f"{case}.nii.gz"
        shutil.copy(run.references / f"{case}.nii.gz", path)
        with_debris = make_reference()
        with_debris[3:6, 3:6, 3:6] = 2
        with_debris[5:7, 5:7, 5:7] = 5
        with_debris[0, 8, 8:], with_debris[7, 0, :1] = 2, 5
        write_label_map(path, with_debris, grid=GRID, like=None)
    selection = select(run)
    assert [rule.describe() for rule in selection.postprocessing.rules] == ["keep the largest component of foreground"]
    assert selection.postprocessing.after.mean == 1


def test_a_minimum_size_is_learned_where_an_organ_has_several_parts(run):
    for case in CASES:
        two_parts = make_reference()
        two_parts[1:3, 6:8, 6:8] = 2
        write_label_map(run.references / f"{case}.nii.gz", two_parts, grid=GRID, like=None)
    finish(run, "2d")
    for case, fold in ((case, str(fold)) for fold, cases in enumerate(FOLDS) for case in cases):
        predicted = make_reference()
        predicted[1:3, 6:8, 6:8] = 2
        predicted[7, 0, 0:2] = 2  # 4 mm3
        write_label_map(run.fold("2d", fold).validation / f"{case}.nii.gz", predicted, grid=GRID, like=None)
    selection = select(run)
    (rule,) = selection.postprocessing.rules
    assert (rule.kind, rule.name, rule.minimum_mm3) == ("minimum_size", "big", 5.0)


def test_classes_without_reference_are_left_out_of_the_ranking_and_named(run):
    for case in CASES:
        write_label_map(run.references / f"{case}.nii.gz", make_reference(small=False), grid=GRID, like=None)
    finish(run, "2d", missing=1)  # predicts "small", which scores 0 there
    finish(run, "3d_lowres", missing=3)
    for case, fold in ((case, str(fold)) for fold, cases in enumerate(FOLDS) for case in cases):
        path = run.fold("3d_lowres", fold).validation / f"{case}.nii.gz"
        predicted = make_prediction(missing=3)
        predicted[predicted == 5] = 0
        write_label_map(path, predicted, grid=GRID, like=None)
    for fold, cases in enumerate(FOLDS):
        folder = run.fold("3d_lowres", str(fold)).validation
        jobs = [
            EvaluationJob(
                case=case,
                prediction=folder / f"{case}.nii.gz",
                reference=run.references / f"{case}.nii.gz",
                labels=LABELS,
            )
            for case in cases
        ]
        evaluate_jobs(jobs, folder=folder, progress=SilentProgress())
    notes = Notes()
    selection = select(run, progress=notes)
    assert selection.classes_without_reference == ("small",)
    assert [candidate.name for candidate in selection.candidates] == ["2d", "3d_lowres"]
    assert list(selection.candidates[0].classes) == ["2"]
    assert any("no reference of these cases has small" in line for line in notes.lines)
    assert not any("small" in step.what for step in selection.postprocessing.steps)


def test_configurations_with_other_folds_are_compared_on_the_cases_that_all_hold_out(run):
    finish(run, "2d", missing=3)
    finish(run, "3d_lowres", folds=("1",), missing=1, debris=2)
    notes = Notes()
    selection = select(run, progress=notes)
    assert selection.cases == ("c", "d", "f")
    assert selection.members[0].folds == ("1",)
    assert "2d: 6 held-out cases of folds 0, 1" in notes.lines
    assert any("compared on the 3 cases that all of them hold out" in line and "2d" in line for line in notes.lines)
    largest = get_steps(selection)["keep the largest component of big"]
    assert largest.gain.mean > 0
    for text in (selection.because, largest.because):  # three cases prove nothing
        assert "too few cases to tell" in text
        assert "interval" not in text
    assert selection.candidates[0].foreground.lower is None
    assert selection.postprocessing.rules == ()
    finish(run, "2d", missing=0)
    again = select(run)
    assert (again.members[0].configuration, again.members[0].folds) == ("2d", ("0", "1"))


def test_only_wanted_configurations_and_folds_are_used(run):
    finish(run, "2d", missing=3)
    finish(run, "3d_lowres", missing=1)
    selection = select(run, configurations=("2d",), folds=("0",))
    assert [candidate.name for candidate in selection.candidates] == ["2d"]
    assert selection.members[0].folds == ("0",)
    assert selection.cases == ("a", "b", "e")
    assert "only candidate" in selection.because


def test_cases_of_a_single_fold_are_divided_into_blocks(run):
    write_document(run.splits, Splits(folds=(Fold(training=("x",), validation=CASES),)))
    finish(run, "2d", folds=("0",), islands=((7, 0, 0), (7, 0, 1), (7, 8, 8)))
    steps = get_steps(select(run))
    assert "two blocks" not in steps["remove components of big"].because


def test_what_cannot_be_compared_is_refused_with_what_to_do(run):
    with pytest.raises(SelectionError, match=r"(?s)found none among folds 0, 1 .*none was ever trained.*autoseg train"):
        select(run)
    finish(run, "2d", folds=("0",))
    finish(run, "3d_lowres", folds=("1",))
    with pytest.raises(SelectionError, match=r"there is none \(2d: fold 0; 3d_lowres: fold 1\)"):
        select(run)
    with pytest.raises(SelectionError, match="needs trained and validated folds of 3d_lowres"):
        select(run, configurations=("2d", "3d_lowres"), folds=("0",))
    with pytest.raises(PlanError, match="3d_fullres"):
        select(run, configurations=("3d_fullres",))
    with pytest.raises(TrainingError, match="'7'"):
        select(run, folds=("7",))
    with pytest.raises(SelectionError, match="holds no case out"):
        select(run, folds=("all",))
    run.splits.unlink()
    with pytest.raises(SelectionError, match="which cases its folds held out"):
        select(run)


def refuse(run, **choices):
    with pytest.raises(SelectionError) as refused:
        select(run, **choices)
    return str(refused.value)


def keep_state(run, configuration, fold, **values):
    write_document(run.fold(configuration, fold).state, TrainingState(device="cpu", **values))


def test_a_fold_that_is_being_trained_or_validated_is_waited_for(run):
    keep_state(run, "2d", "0", phase="validating", cases_done=3, cases=10, remaining_seconds=40)
    keep_state(run, "2d", "1", phase="training", end_epoch=100)
    append_to_training_log(run.fold("2d", "1").training_log, build_epoch_record())
    with lock_fold(run.fold("2d", "0"), device="cuda:0"), lock_fold(run.fold("2d", "1"), device="cpu"):
        told = refuse(run, configurations=("2d",))
    assert "2d, fold 0: is being validated, 3 of 10 cases are done, 0:40 left (process" in told
    assert "cuda:0)" in told
    assert "2d, fold 1: is being trained, epoch 2 of 100 (process" in told
    assert f"wait until this is finished: 2d, fold 0; 2d, fold 1 (autoseg status {run.root} --watch" in told
    assert "autoseg train" not in told


def test_folds_whose_process_is_gone_are_to_be_continued(run):
    keep_state(run, "2d", "0", phase="training", end_epoch=100)
    append_to_training_log(run.fold("2d", "0").training_log, build_epoch_record())
    keep_state(run, "2d", "1", phase="failed", reason="the disk is full")
    told = refuse(run, configurations=("2d",))
    assert "2d, fold 0: was interrupted after epoch 1 of 100" in told
    assert "2d, fold 1: failed: the disk is full" in told
    assert f"continue with: autoseg train {run.root} --configuration 2d --fold 0 --fold 1" in told


def test_a_fold_of_which_the_validation_was_interrupted_is_told_from_an_untrained_one(run):
    finish(run, "2d", folds=("1",))
    write_text(run.fold("2d", "0").final_checkpoint, "weights")
    keep_state(run, "2d", "0", phase="validating", cases_done=1, cases=2)
    told = refuse(run, folds=("0",), configurations=("2d",))
    assert "2d, fold 0: is trained, but its validation was interrupted" in told
    assert "or use what is finished, with --fold: 2d: fold 1" in told


def test_what_is_left_out_because_it_is_not_finished_is_told(run):
    finish(run, "2d", folds=("0",))
    keep_state(run, "2d", "1", phase="training", end_epoch=100)
    notes = Notes()
    with lock_fold(run.fold("2d", "1"), device="cpu"):
        assert select(run, progress=notes).members[0].folds == ("0",)
    assert any(line.startswith("left out: 2d, fold 1: is being trained, epoch 1 of 100") for line in notes.lines)


def test_a_fold_that_a_killed_restart_set_aside_is_told_in_selecting_and_predicting(run):
    finish(run, "2d")
    folder, notes = run.fold("2d", "1").root, Notes()
    folder.rename(folder.with_name(".fold_1.earlier"))
    assert select(run, progress=notes).members[0].folds == ("0",)
    assert f"left out: 2d, fold 1: was interrupted: {KILLED_RESTART}" in notes.lines
    notes = Notes()
    resolve_models(run, configuration=None, folds=None, postprocessing=True, progress=notes)
    assert f"warning: 2d, fold 1, is not used: {KILLED_RESTART}" in notes.lines
    with lock_fold(run.fold("2d", "1"), device="cpu"):  # a restart that prepares
        resolve_models(run, configuration="2d", folds=None, postprocessing=True, progress=notes)
    assert len([line for line in notes.lines if KILLED_RESTART in line]) == 1


def test_a_cascade_without_its_first_stage_is_refused_before_anything_is_learned(run, monkeypatch):
    plan = read_document(run.plan, Plan)
    network = plan.configurations["2d"].network.model_copy(update={"input_channels": 3})
    changes = {"previous_stage": MasksOfPreviousStage(configuration="3d_lowres"), "network": network}
    cascade = plan.configurations["2d"].model_copy(update=changes)
    write_document(run.plan, plan.model_copy(update={"configurations": plan.configurations | {"2d": cascade}}))
    finish(run, "2d")
    monkeypatch.setattr(selection, "learn_postprocessing", None)
    with pytest.raises(PredictionError, match="3d_lowres"):
        select(run)


def test_an_unfinished_or_unvalidated_fold_is_not_used(run):
    finish(run, "2d", missing=1)
    write_text(run.fold("2d", "1").latest_checkpoint, "training goes on")
    assert select(run).members[0].folds == ("0",)
    run.fold("2d", "1").latest_checkpoint.unlink()
    summary = json.loads(run.fold("2d", "1").summary.read_text())
    summary["metric_per_case"].pop()
    run.fold("2d", "1").summary.write_text(json.dumps(summary))
    assert select(run).members[0].folds == ("0",)


def limit_validation(run, configuration, fold, *, cases):
    """As a budget does: a part of the cases, without mirrored views."""
    folder = run.fold(configuration, fold)
    summary = read_document(folder.summary, EvaluationSummary)
    conditions = ValidationConditions(
        mirroring=False,
        validated_cases=len(cases),
        held_out_cases=len(summary.metric_per_case),
        trained_iterations=108,
        sufficient_iterations=1500,
    )
    kept = tuple(entry for entry in summary.metric_per_case if entry.case in cases)
    write_document(folder.summary, summary.model_copy(update={"metric_per_case": kept, "validation": conditions}))


def test_validations_that_a_budget_limited_are_made_whole_before_they_are_compared(run, monkeypatch):
    finish(run, "2d", missing=1)
    finish(run, "3d_lowres", missing=3)
    limit_validation(run, "3d_lowres", "1", cases=("d",))
    made = []

    def validate(run, configuration, fold, *, cases, device, progress):
        made.append((configuration, fold, cases, device))
        write_predictions(run, configuration, fold, missing=0)

    monkeypatch.setattr(held_out, "validate_fold", validate)
    notes = Notes()
    selection = select(run, progress=notes, folds=("1",), device="cpu")
    assert made == [("3d_lowres", "1", ("c", "d", "f"), "cpu")]
    assert selection.candidates[0].name == "3d_lowres"
    assert selection.cases == ("c", "d", "f")
    assert any("3d_lowres, fold 1: its validation was limited by a budget (1 of 3 held" in line for line in notes.lines)
    select(run, folds=("1",))
    assert len(made) == 1


def test_short_trainings_are_named_when_models_are_compared(run):
    finish(run, "2d")
    folder = run.fold("2d", "0")
    summary = read_document(folder.summary, EvaluationSummary)
    short = ValidationConditions(
        validated_cases=3, held_out_cases=3, trained_iterations=108, sufficient_iterations=1500
    )
    write_document(folder.summary, summary.model_copy(update={"validation": short}))
    notes = Notes()
    select(run, progress=notes)
    assert any(line.startswith("warning: 2d, fold 0: 108 iterations are 7 %") for line in notes.lines)
