import json
import os
import time

import pytest
from builders.folds import build_epoch_record, finish_fold

from autoseg.errors import RunError
from autoseg.files.checksums import find_present_version
from autoseg.processes.fold_lock import lock_fold
from autoseg.run_folder import write_text
from autoseg.training.monitoring.history import append_to_training_log
from autoseg.untrusted.json_reading import read_json
from autoseg.validation_conditions import ValidationConditions
from autoseg.workflows.evaluate.crossvalidation import collect_crossvalidation
from autoseg.workflows.folds import status as status_module
from autoseg.workflows.folds.state import KILLED_RESTART, StateWriter, TrainingState, record_failure
from autoseg.workflows.folds.status import read_run_status, read_statuses
from autoseg.workflows.folds.unfinished import describe_unfinished


def log_epochs(run, configuration, fold, count):
    for epoch in range(count):
        record = build_epoch_record(epoch, train_loss=0.5 - epoch / 100, moving_average=0.65)
        append_to_training_log(run.fold(configuration, fold).training_log, record)


def keep_state(run, configuration, fold, **values):
    state = TrainingState.model_validate({"device": "cuda:1", **values})
    StateWriter(folder=run.fold(configuration, fold), state=state).change()


def find(run, configuration, fold):
    (status,) = (s for s in read_run_status(run.root) if (s.configuration, s.fold) == (configuration, fold))
    return status


def test_a_run_that_was_never_trained_waits(run):
    statuses = read_run_status(run.root)
    assert [(status.configuration, status.fold) for status in statuses] == [
        (name, fold) for name in ("3d_cascade_fullres", "2d", "3d_lowres") for fold in ("0", "1")
    ]
    assert {status.state for status in statuses} == {"waiting"}
    assert statuses[0].epochs_done == 0


def test_a_finished_fold_has_its_validated_dice(run):
    finish_fold(run, "2d", "0", dice=0.87)
    log_epochs(run, "2d", "0", 3)
    status = find(run, "2d", "0")
    assert (status.state, status.dice, status.epochs_done) == ("finished", 0.87, 3)
    assert find(run, "2d", "1").state == "waiting"


def test_a_copy_of_what_predicts_has_finished_folds(run):
    finish_fold(run, "2d", "1")
    run.splits.unlink()
    assert [(status.fold, status.state) for status in read_run_status(run.root)] == [("1", "finished")]


def test_a_running_fold_tells_epoch_time_losses_device_and_process(run):
    log_epochs(run, "2d", "1", 4)
    keep_state(run, "2d", "1", phase="training", end_epoch=10, remaining_seconds=60.0)
    with lock_fold(run.fold("2d", "1"), device="cuda:1"):
        status = find(run, "2d", "1")
    assert (status.state, status.is_running, status.device) == ("training", True, "cuda:1")
    assert (status.epochs_done, status.end_epoch, status.remaining_seconds) == (4, 10, 60.0)
    assert (status.train_loss, status.validation_loss, status.pseudo_dice) == (pytest.approx(0.47), 0.6, 0.65)
    assert status.pid


@pytest.mark.parametrize(("phase", "state"), [("preparing", "preparing"), ("validating", "validating")])
def test_a_running_fold_tells_what_it_is_at(run, phase, state):
    keep_state(run, "2d", "0", phase=phase, cases_done=1, cases=2)
    with lock_fold(run.fold("2d", "0"), device="cpu"):
        status = find(run, "2d", "0")
    assert (status.state, status.cases_done, status.cases) == (state, 1, 2)


def test_a_fold_at_which_nobody_is_any_more_was_interrupted(run):
    log_epochs(run, "2d", "0", 2)
    keep_state(run, "2d", "0", phase="training", end_epoch=10, remaining_seconds=60.0)
    status = find(run, "2d", "0")
    assert (status.state, status.epochs_done, status.end_epoch) == ("interrupted", 2, 10)
    assert status.remaining_seconds is None


def test_a_trained_fold_without_a_whole_validation_was_interrupted(run):
    finish_fold(run, "2d", "0")
    content = json.loads(run.fold("2d", "0").summary.read_text())
    content["metric_per_case"].pop()
    run.fold("2d", "0").summary.write_text(json.dumps(content))
    assert find(run, "2d", "0").state == "interrupted"


def test_a_summary_is_read_once_however_often_the_status_is_and_again_when_it_changes(run, monkeypatch):
    read, paths = status_module.read_json, []

    def count_and_read(path, **options):
        paths.append(path)
        return read(path, **options)

    monkeypatch.setattr(status_module, "read_json", count_and_read)
    summary = run.fold("2d", "0").summary
    for dice, seconds_ago in ((0.87, 60), (0.88, 30)):
        finish_fold(run, "2d", "0", dice=dice)
        os.utime(summary, (time.time() - seconds_ago,) * 2)
        found = [{status.dice for status in read_statuses(run)} for _ in range(3)]
        assert found == [{dice, None}] * 3
    assert paths.count(summary) == 2


def test_a_summary_that_is_removed_just_now_is_none(run, monkeypatch):
    finish_fold(run, "2d", "0")
    monkeypatch.setattr(status_module, "find_present_version", find_version_of_removed_file)
    assert {status.state for status in read_statuses(run) if status.is_trained} == {"interrupted"}


def find_version_of_removed_file(path):
    """Finds the version of a file that another process removes first."""
    path.unlink(missing_ok=True)
    return find_present_version(path)


def test_the_metrics_of_cases_are_not_kept_in_memory(run):
    finish_fold(run, "2d", "0", dice=0.87)
    content = read_json(run.fold("2d", "0").summary, leaves_out=("metrics",))
    assert [set(entry) for entry in content["metric_per_case"]] == [
        {"case", "prediction_file", "reference_file", "metrics"}
    ] * 2
    assert all(entry["metrics"] is None for entry in content["metric_per_case"])
    assert content["foreground_mean"]["Dice"] == 0.87


@pytest.mark.parametrize("fold", ["0", "all"])
def test_a_training_that_a_killed_restart_set_aside_is_interrupted_until_it_is_given_back(run, fold):
    folder = run.fold("2d", fold)
    write_text(folder.final_checkpoint, "weights")
    folder.root.rename(folder.root.with_name(f".fold_{fold}.earlier"))
    status = find(run, "2d", fold)
    assert (status.state, status.reason) == ("interrupted", KILLED_RESTART)
    assert KILLED_RESTART in describe_unfinished(status)
    with lock_fold(folder, device="cpu"):  # a restart that prepares
        assert (find(run, "2d", fold).state, find(run, "2d", fold).reason) == ("preparing", None)
    write_text(folder.latest_checkpoint, "new")
    assert find(run, "2d", fold).reason == KILLED_RESTART


def test_a_fold_that_is_being_extended_is_not_finished(run):
    finish_fold(run, "2d", "0")
    write_text(run.fold("2d", "0").latest_checkpoint, "weights")
    assert find(run, "2d", "0").state == "interrupted"


def test_a_failed_fold_says_why(run):
    record_failure(run.fold("2d", "0"), device="cpu", reason="the disk is full")
    status = find(run, "2d", "0")
    assert (status.state, status.reason) == ("failed", "the disk is full")


def test_the_fold_of_all_cases_is_shown_where_somebody_trains_it(run):
    write_text(run.fold("2d", "all").final_checkpoint, "weights")
    assert find(run, "2d", "all").state == "finished"


def test_a_line_that_is_being_written_does_not_disturb(run):
    log_epochs(run, "2d", "0", 2)
    with run.fold("2d", "0").training_log.open("a") as log:
        log.write('{"epoch": 2, "learning_ra')
    assert find(run, "2d", "0").epochs_done == 2


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(RunError, match="no run folder"):
        read_run_status(tmp_path / "nowhere")


LIMITED = ValidationConditions(
    validated_cases=1, held_out_cases=2, mirroring=False, trained_iterations=108, sufficient_iterations=1500
)


def test_a_limited_validation_of_a_short_training_is_finished_and_says_so(run):
    finish_fold(run, "2d", "0", dice=0.13, cases=("b",), validation=LIMITED)
    status = find(run, "2d", "0")
    assert (status.state, status.dice) == ("finished", 0.13)
    limited, short = status.warnings
    assert "1 of 2 held-out cases; no mirrored views" in limited
    assert "108 iterations are 7 % of the 1,500" in short


@pytest.mark.parametrize(
    ("cases", "changes"),
    [
        (("a", "b"), {}),  # not as many as it says
        (("c",), {}),  # of another fold
        (("b",), {"held_out_cases": 5}),  # of other folds
    ],
)
def test_a_limited_validation_that_does_not_fit_the_fold_counts_as_none(run, cases, changes):
    finish_fold(run, "2d", "0", cases=cases, validation=LIMITED.model_copy(update=changes))
    assert find(run, "2d", "0").state != "finished"


def test_a_short_training_that_nothing_validates_says_so(run):
    keep_state(run, "2d", "all", phase="finished", warning="7 iterations are too few")
    assert find(run, "2d", "all").warnings == ("7 iterations are too few",)


def test_the_cross_validation_says_which_folds_were_limited_or_short(run):
    finish_fold(run, "2d", "0", cases=("b",), validation=LIMITED)
    finish_fold(run, "2d", "1")
    result = collect_crossvalidation(run.root)
    scores = result.configurations["2d"]
    assert scores.cases == 3
    assert [text[:8] for text in scores.warnings] == ["fold 0: ", "fold 0: "]
    assert "1 of 2 held-out cases" in scores.warnings[0]
    table = run.crossvalidation_csv.read_text().splitlines()
    assert table[0].endswith(",count,distance_unit,warnings")
    assert all("a limited validation" in line for line in table[1:])
