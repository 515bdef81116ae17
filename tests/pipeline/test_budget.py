"""From raw images to predictions within a time, on the processor alone."""

import json
import re
import time

import pytest
import torch
from balls import make_case, run_autoseg, save

from autoseg.document import read_document
from autoseg.fingerprint import Fingerprint
from autoseg.plan import Plan
from autoseg.run_folder import open_run
from autoseg.workflows import validation
from autoseg.workflows.evaluation import count_evaluation_workers
from autoseg.workflows.validation import ESTIMATE_MARGIN, estimate_validation_seconds

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lite_run(dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp("lite") / "balls.autoseg"
    planned = run_autoseg("plan", dataset, "--run", run, "--planner", "lite", "--budget", "20s", "--workers", 1)
    assert planned.code == 0, planned.err
    assert re.search(r"budget: 0\.3 minutes of training\n +as stated; a tenth is kept", planned.out)
    return run


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
        return estimate_validation_seconds(run, plan, "3d_fullres", cases=cases, device=torch.device("cpu"))

    def work_slowly(*arguments, **named):
        time.sleep(2)
        return work(*arguments, **named)

    quick, work = estimate(), getattr(validation, step)
    monkeypatch.setattr(validation, step, work_slowly)
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
