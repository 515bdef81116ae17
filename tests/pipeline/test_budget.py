"""From raw images to predictions within a time, on the CPU alone."""

import json
import re
import shutil
import time

import pytest
import torch
from builders.balls import make_case, save
from builders.command_line import run_autoseg
from builders.progress import Notes

from autoseg.dataset.folds import Splits, select_fold
from autoseg.document import read_document
from autoseg.fingerprint import Fingerprint
from autoseg.inference.options import DEFAULT_OPTIONS, PredictionOptions
from autoseg.plan import Plan
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import open_run
from autoseg.training.options import Length
from autoseg.workflows.evaluate import validation_cost
from autoseg.workflows.evaluate.evaluation import count_evaluation_workers
from autoseg.workflows.evaluate.validation import validate_fold
from autoseg.workflows.evaluate.validation_cost import ESTIMATE_MARGIN, measure_validation_cost
from autoseg.workflows.folds.status import ValidationChoice
from autoseg.workflows.train.fold_options import find_newest_checkpoint
from autoseg.workflows.train.fold_time import find_fold_time
from autoseg.workflows.train.job import FoldJob
from autoseg.workflows.train.request import TrainingRequest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lite_run(dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp("lite") / "balls.autoseg"
    planned = run_autoseg("plan", dataset, "--run", run, "--planner", "lite", "--budget", "20s", "--workers", 1)
    assert planned.code == 0, planned.err
    assert re.search(r"budget: 0\.3 minutes of training\n +as stated; a tenth is kept", planned.out)
    assert re.search(r"iterations( needed)?: at least 1,500\n", planned.out)
    demand(run, iterations=5)  # which every machine reaches
    return run


def demand(run, *, iterations):
    """Edits the plan by hand, as a user may."""
    plan = json.loads((run / "plan.json").read_text())
    plan["configurations"]["3d_fullres"]["training"]["sufficient_iterations"] = iterations
    (run / "plan.json").write_text(json.dumps(plan))


def read_log(run):
    log = run / "models" / "3d_fullres" / "fold_0" / "training_log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_lite_plan_is_trained_in_its_time_predicts_and_can_be_extended(lite_run, tmp_path):
    trained = run_autoseg("train", lite_run, "--fold", "0", "--device", "cpu")
    assert trained.code == 0, trained.err
    assert re.search(r"measured: \S+ s per iteration \(forward \S+ s, loss and backward \S+ s; a batch", trained.out)
    assert re.search(r"forecast: training 0:\d\d, validation 0:\d\d, together 0:\d\d of 0:18", trained.out)
    records = read_log(lite_run)
    assert records
    summary = json.loads((lite_run / "models/3d_fullres/fold_0/validation/summary.json").read_text())
    assert summary["foreground_mean"]["Dice"] is not None

    image, _ = make_case(100)
    save(tmp_path / "images" / "new_0000.nii.gz", image)
    predicted = run_autoseg("predict", lite_run, tmp_path / "images", tmp_path / "out", "--device", "cpu")
    assert predicted.code == 0, predicted.err
    assert (tmp_path / "out" / "new.nii.gz").is_file()

    extended = run_autoseg("train", lite_run, "--fold", "0", "--extend", "2", "--device", "cpu")
    assert extended.code == 0, extended.err
    assert f"from epoch {len(records) + 1} on, {len(records) + 2} epochs" in extended.out
    assert [record["epoch"] for record in read_log(lite_run)] == list(range(len(records) + 2))
    assert "Validating" in extended.out  # the validation of the shorter training no longer counts

    again = run_autoseg("train", lite_run, "--fold", "0", "--device", "cpu")
    assert again.code == 0, again.err
    assert "already trained" in again.out


@pytest.mark.parametrize(("step", "together"), [("write_label_map", False), ("evaluate_job", True)])
def test_the_time_for_a_validation_counts_every_step(lite_run, monkeypatch, step, together):
    run = open_run(lite_run)
    plan = read_document(run.plan, Plan)
    cases = [case.name for case in read_document(run.fingerprint, Fingerprint).cases]

    def estimate():
        cost = measure_validation_cost(
            run, plan, "3d_fullres", cases=cases, device=torch.device("cpu"), limit_seconds=60.0
        )
        return cost.estimate_seconds(cases, DEFAULT_OPTIONS)

    def work_slowly(*arguments, **named):
        time.sleep(2)
        return work(*arguments, **named)

    quick, work = estimate(), getattr(validation_cost, step)
    monkeypatch.setattr(validation_cost, step, work_slowly)
    workers = count_evaluation_workers(len(cases)) if together else 1
    assert estimate() - quick == pytest.approx(2 * len(cases) * ESTIMATE_MARGIN / workers, rel=0.4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--budget", "soon"), "expected a time like 30m, 8h, 1h30m or 2d"),
        (("train", "--precision", "half"), "no precision is called 'half'"),
        (("train", "--fold", "all", "--until-plateau"), 'the fold "all" holds no case out'),
    ],
)
def test_what_cannot_be_trained_is_said(lite_run, arguments, message):
    command, *options = arguments
    done = run_autoseg(command, lite_run, *options, "--device", "cpu")
    assert (done.code, "Traceback" in done.err) == (1, False)
    assert message in " ".join(done.err.split())


def test_a_budget_belongs_to_a_planner_that_plans_by_time(dataset, tmp_path):
    done = run_autoseg("plan", dataset, "--run", tmp_path / "run", "--budget", "30m")
    assert done.code == 1
    assert "the planner 'default' does not plan by time" in " ".join(done.err.split())


def copy_run(run, folder):
    shutil.copytree(run, folder)
    return folder


def read_summary(run):
    return json.loads((run / "models/3d_fullres/fold_0/validation/summary.json").read_text())


def test_a_budget_for_next_to_nothing_is_refused_before_training(lite_run, tmp_path):
    run = copy_run(lite_run, tmp_path / "run")
    shutil.rmtree(run / "models", ignore_errors=True)
    demand(run, iterations=10_000_000)
    done = run_autoseg("train", run, "--fold", "0", "--device", "cpu")
    assert (done.code, "Traceback" in done.err) == (1, False)
    told = " ".join(done.err.split())
    assert "of the 10,000,000 iterations that the plan needs at least. Less than a tenth is too little" in told
    assert re.search(r"give --budget \d+h\d+m, which is enough for 10,000,000", told)
    fold = run / "models/3d_fullres/fold_0"
    assert not list(fold.glob("*.safetensors"))
    status = run_autoseg("status", run)
    assert "Less than a tenth is too little" in status.out


def test_a_training_of_few_iterations_is_marked_at_its_start_at_its_end_and_ever_after(trained_run, tmp_path):
    run = copy_run(trained_run, tmp_path / "run")
    options = ("--configuration", "3d_fullres", "--fold", "0", "--device", "cpu")
    done = run_autoseg("train", run, *options, "--extend", "1")
    assert done.code == 0, done.err
    warning = "80 iterations are 4 % of the 2,000 that the plan needs at least"
    before, _, after = done.out.partition("epoch 4/4")
    assert f"warning: {warning}" in before
    scores, _, last = after.partition("foreground")
    assert warning not in scores
    assert f"warning: {warning}" in last
    assert read_summary(run)["validation"]["trained_iterations"] == 80
    assert f"warning: 3d_fullres, fold 0: {warning}" in run_autoseg("status", run).out


def test_a_fold_without_validation_is_marked_too(trained_run, tmp_path):
    run = copy_run(trained_run, tmp_path / "run")
    options = ("--configuration", "3d_fullres", "--fold", "all", "--device", "cpu", "--epochs", "1")
    done = run_autoseg("train", run, *options)
    assert done.code == 0, done.err
    assert "warning: 20 iterations are 1 %" in done.out.partition("fold all: model")[2]
    assert "warning: 3d_fullres, fold all: 20 iterations are 1 %" in run_autoseg("status", run).out


def limit(run, **choice):
    """Validates fold 0 anew in less time."""
    cases = json.loads((run / "splits.json").read_text())["folds"][0]["validation"]
    chosen = ValidationChoice(cases=tuple(cases[:1]), held_out_cases=len(cases), **choice)
    opened = open_run(run)
    return validate_fold(
        opened, "3d_fullres", "0", cases=cases, device="cpu", progress=SilentProgress(), choice=chosen
    ), cases


def test_a_limited_validation_is_recorded_and_made_whole_when_there_is_time(trained_run, tmp_path):
    run = copy_run(trained_run, tmp_path / "run")
    whole = read_summary(run)
    assert whole["validation"]["mirroring"]
    summary, cases = limit(run, options=PredictionOptions(mirroring=False, step_fraction=0.75))
    assert len(cases) > 1
    folder = run / "models/3d_fullres/fold_0/validation"
    assert [path.name for path in folder.glob("*.nii.gz")] == [f"{cases[0]}.nii.gz"]
    assert (summary.validation.mirroring, summary.validation.step_fraction) == (False, 0.75)
    assert read_summary(run)["validation"]["validated_cases"] == 1
    status = run_autoseg("status", run)
    assert "a limited validation (1 of 2 held-out cases; no mirrored views; windows 0.75" in status.out

    options = ("--configuration", "3d_fullres", "--fold", "0", "--device", "cpu")
    again = run_autoseg("train", run, *options, "--budget", "1h")
    assert again.code == 0, again.err
    assert "already trained" in again.out
    made = read_summary(run)
    assert made["foreground_mean"] == whole["foreground_mean"]
    assert made["validation"] == whole["validation"]
    assert not (folder / "options.json").exists()


def test_label_maps_of_a_sample_are_kept_for_the_whole_validation(trained_run, tmp_path):
    run = copy_run(trained_run, tmp_path / "run")
    whole = read_summary(run)
    shutil.rmtree(run / "models/3d_fullres/fold_0/validation")
    _, cases = limit(run)
    kept = run / f"models/3d_fullres/fold_0/validation/{cases[0]}.nii.gz"
    before = kept.stat().st_mtime_ns
    validate_fold(open_run(run), "3d_fullres", "0", cases=cases, device="cpu", progress=SilentProgress())
    assert kept.stat().st_mtime_ns == before
    assert read_summary(run)["foreground_mean"] == whole["foreground_mean"]


def test_a_selection_makes_a_limited_validation_whole(trained_run, tmp_path):
    run = copy_run(trained_run, tmp_path / "run")
    whole = read_summary(run)
    limit(run, options=PredictionOptions(mirroring=False))
    done = run_autoseg("select", run, "--device", "cpu")
    assert done.code == 0, done.err
    assert "its validation was limited by a budget (1 of 2 held-out cases; no mirrored views)" in done.out
    assert read_summary(run)["foreground_mean"] == whole["foreground_mean"]


def test_a_validation_takes_at_most_a_third_of_a_budget_and_says_what_it_does_without(trained_run, monkeypatch):
    write = validation_cost.write_label_map

    def write_slowly(*arguments, **named):
        time.sleep(5)  # of two cases one fits into a third of the time
        return write(*arguments, **named)

    monkeypatch.setattr(validation_cost, "write_label_map", write_slowly)
    run = open_run(trained_run)
    plan, splits = read_document(run.plan, Plan), read_document(run.splits, Splits)
    job = FoldJob(
        run=run,
        plan=plan,
        configuration="3d_fullres",
        fold="0",
        cases=select_fold(splits, "0"),
        device=torch.device("cpu"),
    )
    request = TrainingRequest(budget_seconds=33.0, length=Length(more_epochs=400))
    notes = Notes()
    found = find_fold_time(job, request, find_newest_checkpoint(job.folder), notes)
    assert (len(found.validation.cases), found.validation.options.mirroring) == (1, False)
    assert found.budget.reserved_seconds == found.validation.seconds <= 11.0
    assert re.match(r"warning: a whole validation would take 0:1\d, more than a third of 0:33; ", notes.lines[-1])
    assert "1 of 2 held-out cases; no mirrored views" in notes.lines[-1]


def test_a_budget_of_which_a_third_holds_no_case_is_refused(trained_run, tmp_path):
    run = copy_run(trained_run, tmp_path / "run")
    options = ("--configuration", "3d_fullres", "--fold", "0", "--device", "cpu", "--extend", "400")
    few = run_autoseg("train", run, *options, "--budget", "1s")
    assert (few.code, "Traceback" in few.err) == (1, False)
    told = " ".join(few.err.split())
    assert "validation takes at most a third of a budget, here of 0:01" in told
    assert "--fold all" in told
