"""Folds that are trained as jobs of a cluster: what they need, what is repeated, what is shown and cancelled."""

import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from builders.datasets import write_dataset
from builders.fake_slurm import prepend_to_path, write_fake_slurm
from builders.fingerprints import build_case, build_fingerprint
from builders.folds import build_checkpoint_description, build_epoch_record, finish_fold

from autoseg.cli.status import watch_run
from autoseg.document import read_document, write_document
from autoseg.errors import DeviceError, OptionError, Stopped, TrainingError
from autoseg.fingerprint import Machine
from autoseg.places import open_place
from autoseg.places.local import ThisComputer
from autoseg.places.place import TaskState
from autoseg.places.slurm.case_jobs import open_case_folder
from autoseg.places.slurm.jobs import JobMark, JobRecord, add_jobs, find_jobs_folder, find_mark
from autoseg.places.slurm.settings import GpuKind, SlurmSettings
from autoseg.plan.document import Plan
from autoseg.processes.fold_lock import lock_fold
from autoseg.processes.progress import SilentProgress
from autoseg.processes.signals import StopRequest
from autoseg.run_folder import write_text
from autoseg.training.monitoring.history import write_training_log
from autoseg.training.options import Length
from autoseg.workflows.evaluate.evaluation import describe_evaluating
from autoseg.workflows.folds.jobs import cancel_run_jobs, has_jobs, read_watched_status
from autoseg.workflows.folds.state import find_restart_mark, keep_state, read_state
from autoseg.workflows.folds.status import FoldStatus, apply_task_state
from autoseg.workflows.plan.planning import PlanRequest, describe_planning
from autoseg.workflows.train import detached, dispatch
from autoseg.workflows.train.detached import (
    build_detached_queue,
    check_place,
    estimate_resources,
    make_repeatable,
    mark_restarts,
)
from autoseg.workflows.train.interruption import set_aside
from autoseg.workflows.train.request import TrainingRequest
from autoseg.workflows.train.units import Unit, is_up_to_date

CASES = {"0": ("a", "b"), "1": ("c", "d")}
FIRST = [Unit(configuration="3d_lowres", fold=fold, cases=cases) for fold, cases in CASES.items()]
SECOND = Unit(configuration="3d_cascade_fullres", fold="0", cases=CASES["0"], needs="3d_lowres")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    fake = write_fake_slurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", prepend_to_path(fake.folder))
    return fake


@pytest.fixture
def measured(run):
    cases = tuple(build_case(shape=(8, 8, 8 * factor), name=f"case{factor}") for factor in (1, 2))
    write_document(run.fingerprint, build_fingerprint((1.0, 1.0, 1.0), (8, 8, 8), cases=cases))
    return run


def build_queue(run, units, request):
    with open_place("slurm", run.root) as place:
        return build_detached_queue(run, units, request, place, autoseg=None)


def test_every_fold_is_a_command_that_finds_its_own_device(measured):
    queue = build_queue(measured, FIRST, TrainingRequest(deterministic=True))
    root = str(measured.root.resolve())
    assert queue.tasks[FIRST[1]].command == (
        sys.executable, "-m", "autoseg", "train", root, "--configuration", "3d_lowres", "--fold", "1",
        "--precision", "auto", "--deterministic",
    )  # fmt: skip


def test_the_second_stage_needs_all_folds_of_the_first_and_the_selection_all_of_both(measured):
    queue = build_queue(measured, [*FIRST, SECOND], TrainingRequest())
    first = ("3d_lowres, fold 0", "3d_lowres, fold 1")
    assert queue.tasks[SECOND].needs == first
    (selection,) = queue.following
    assert selection.needs == (*first, SECOND.name)
    assert selection.command[-2:] == ("select", str(measured.root.resolve()))


def test_the_selection_computes_on_the_kind_of_device_of_the_trainings(measured):
    (selection,) = build_queue(measured, FIRST, TrainingRequest(device="cpu")).following
    assert selection.command[-3:] == (str(measured.root.resolve()), "--device", "cpu")
    assert selection.resources.gpu_bytes == 0


def test_a_fold_is_shared_by_no_more_processes_than_its_batch_has_samples(measured):
    plan = read_document(measured.plan, Plan)
    request = TrainingRequest(folds=("0",), nodes=plan.configurations["3d_lowres"].training.batch_size, parallel=True)
    with open_place("slurm", measured.root, ["gres=gpu:2"]) as place:
        queue = build_detached_queue(measured, FIRST[:1], request, place, autoseg=None)
        with pytest.raises(OptionError, match=r"a batch of .* cannot be divided"):
            place.describe_tasks(queue.list_tasks())
    (selection,) = build_queue(measured, FIRST, TrainingRequest(parallel=True, nodes=2)).following
    assert not selection.resources.is_parallel


def test_nothing_is_selected_after_single_folds_or_where_all_are_trained(measured):
    assert build_queue(measured, FIRST[:1], TrainingRequest(folds=("0",))).following == ()
    finish_fold(measured, "3d_lowres", "0")
    queue = build_queue(measured, FIRST[:1], TrainingRequest())
    assert (queue.tasks, queue.following) == ({}, ())


def test_a_gpu_of_the_planned_memory_is_asked_for_unless_the_device_is_the_cpu(measured):
    plan = read_document(measured.plan, Plan)
    on_gpu = estimate_resources(measured, plan, "3d_lowres", TrainingRequest(workers=3))
    assert on_gpu.gpu_bytes == plan.accelerator_memory_gb * 1e9
    assert (on_gpu.cores, on_gpu.nodes, on_gpu.seconds) == (4, 1, None)
    on_cpu = estimate_resources(measured, plan, "3d_lowres", TrainingRequest(device="cpu"))
    assert (on_cpu.gpu_bytes, on_cpu.cores) == (0, detached.CPU_CORES)


def test_the_memory_grows_with_the_largest_case(measured):
    plan = read_document(measured.plan, Plan)
    before = estimate_resources(measured, plan, "3d_lowres", TrainingRequest()).ram_bytes
    cases = (build_case(shape=(80, 80, 80)),)
    write_document(measured.fingerprint, build_fingerprint((1.0, 1.0, 1.0), (8, 8, 8), cases=cases))
    assert estimate_resources(measured, plan, "3d_lowres", TrainingRequest()).ram_bytes > before


@pytest.mark.parametrize(
    ("planned", "request_", "seconds"),
    [
        (None, TrainingRequest(budget_seconds=3600.0), 3600.0),
        (7200.0, TrainingRequest(), 7200.0),
        (7200.0, TrainingRequest(length=Length(epochs=3)), None),
        (None, TrainingRequest(), None),
    ],
)
def test_the_time_is_that_of_the_budget(measured, planned, request_, seconds):
    plan = read_document(measured.plan, Plan)
    chosen = plan.configurations["3d_lowres"]
    chosen = chosen.model_copy(update={"training": chosen.training.model_copy(update={"budget_seconds": planned})})
    plan = plan.model_copy(update={"configurations": {**plan.configurations, "3d_lowres": chosen}})
    needed = estimate_resources(measured, plan, "3d_lowres", request_)
    assert (needed.seconds, needed.may_be_cut) == (seconds, seconds is None)


def test_without_a_budget_the_time_is_twice_that_of_the_slowest_fold_that_was_trained(measured):
    plan = read_document(measured.plan, Plan)
    training = plan.configurations["3d_lowres"].training
    for fold, pace in (("0", 0.25), ("1", 0.5)):
        record = build_epoch_record(0).model_copy(update={"seconds_per_iteration": pace})
        write_training_log(measured.fold("3d_lowres", fold).training_log, [record])

    def find_seconds(request):
        return estimate_resources(measured, plan, "3d_lowres", request).seconds

    assert find_seconds(TrainingRequest(length=Length(epochs=3))) is None  # nobody knows on what they were trained
    for fold, device in (("0", "cuda:1"), ("1", "2 x cuda")):
        with keep_state(measured.fold("3d_lowres", fold), device=device):
            pass
    assert find_seconds(TrainingRequest(length=Length(epochs=10**6))) == detached.LONGEST_SECONDS
    assert find_seconds(TrainingRequest(length=Length(epochs=3))) == 2 * 0.5 * 3 * training.iterations_per_epoch
    assert find_seconds(TrainingRequest(length=Length(more_epochs=3))) is None  # how many it has had, its state says
    assert find_seconds(TrainingRequest(budget_seconds=60.0)) == 60.0


def test_the_first_folds_on_a_cpu_take_twice_the_time_that_is_forecast_for_it(measured, slurm):
    plan = read_document(measured.plan, Plan)

    def forecast(run, plan, name, epochs):
        return {None: 3600.0, 3: 60.0, 10**6: 1e9, 5: None}[epochs]

    def find(request):
        needed = estimate_resources(measured, plan, "3d_lowres", request, forecast_cpu=forecast)
        return needed.seconds, needed.time_origin

    origin = detached.CPU_FORECAST
    assert find(TrainingRequest(device="cpu")) == (7200.0, origin)
    assert find(TrainingRequest(device="cpu", length=Length(epochs=3))) == (120.0, origin)
    assert find(TrainingRequest(device="cpu", length=Length(epochs=10**6))) == (detached.LONGEST_SECONDS, origin)
    for request in (
        TrainingRequest(),
        TrainingRequest(device="cpu", length=Length(epochs=5)),  # the speed of this CPU is not known
        TrainingRequest(device="cpu", length=Length(more_epochs=3)),
    ):
        assert find(request) == (None, None)
    assert find(TrainingRequest(device="cpu", budget_seconds=60.0)) == (60.0, None)
    for given, minutes in (((), 135), (("time_minutes=90",), 90)):
        with open_place("slurm", measured.root, given) as place:
            request = TrainingRequest(device="cpu", folds=("0",))
            queue = build_detached_queue(measured, FIRST[:1], request, place, autoseg=None, forecast_cpu=forecast)
            script = place.describe_tasks(queue.list_tasks())
        assert f"#SBATCH --time={minutes}\n" in script
        assert (f"# its time limit comes from {origin}" in script) == (not given)


@pytest.mark.parametrize(("device", "on_cpu", "on_gpu"), [("cpu", 0.25, 0.5), ("2 x cpu", 0.25, 0.5)])
def test_a_pace_counts_for_jobs_with_a_device_of_its_kind(measured, device, on_cpu, on_gpu):
    plan = read_document(measured.plan, Plan)
    iterations = 3 * plan.configurations["3d_lowres"].training.iterations_per_epoch
    for fold, where, pace in (("0", device, on_cpu), ("1", "cuda:0", on_gpu)):
        record = build_epoch_record(0).model_copy(update={"seconds_per_iteration": pace})
        write_training_log(measured.fold("3d_lowres", fold).training_log, [record])
        with keep_state(measured.fold("3d_lowres", fold), device=where):
            pass
    for wanted, pace in (("cpu", on_cpu), ("auto", on_gpu), ("cuda", on_gpu)):
        request = TrainingRequest(device=wanted, length=Length(epochs=3))
        assert estimate_resources(measured, plan, "3d_lowres", request).seconds == 2 * pace * iterations


def test_a_repeated_command_neither_restarts_nor_extends_once_more(run, monkeypatch):
    unit = FIRST[0]
    assert not make_repeatable(run, unit, TrainingRequest(restart=True)).restart
    write_text(run.fold("3d_lowres", "0").final_checkpoint, "weights")
    monkeypatch.setattr(detached, "read_description", lambda path: build_checkpoint_description(epochs=7))
    repeatable = make_repeatable(run, unit, TrainingRequest(length=Length(more_epochs=5)))
    assert repeatable.length == Length(epochs=12)


def test_jobs_extend_only_finished_trainings_that_do_not_begin_again(run, monkeypatch):
    monkeypatch.setattr(detached, "read_description", lambda path: build_checkpoint_description(epochs=7))
    folder, extending = run.fold("3d_lowres", "0"), TrainingRequest(length=Length(more_epochs=5))
    assert make_repeatable(run, FIRST[0], extending).length == Length()  # it was never trained
    write_text(folder.final_checkpoint, "weights")
    assert make_repeatable(run, FIRST[0], replace(extending, restart=True)).length == Length()
    write_text(folder.latest_checkpoint, "of an extension that was interrupted")
    assert make_repeatable(run, FIRST[0], extending).length == Length()
    folder.latest_checkpoint.unlink()
    write_text(find_restart_mark(folder), "")
    assert make_repeatable(run, FIRST[0], extending).length == Length()


def test_trainings_that_begin_again_are_kept_until_their_jobs_have_begun_them(measured):
    folder, needed = measured.fold("3d_lowres", "0"), replace(FIRST[1], is_only_needed=True)
    for unit in FIRST:
        finish_fold(measured, "3d_lowres", unit.fold)
    request = TrainingRequest(restart=True)
    queue = build_queue(measured, [FIRST[0], needed], request)
    assert "--restart" not in queue.tasks[FIRST[0]].command
    mark_restarts(measured, queue, request)
    assert list_restarts(measured) == [".fold_0.restart"]
    assert not is_up_to_date(measured, FIRST[0], TrainingRequest())  # also for a command that submits what is missing
    with pytest.raises(KeyboardInterrupt), set_aside(folder, is_restart=False):
        raise KeyboardInterrupt  # a job that is ended before it has begun, and queued again
    assert folder.final_checkpoint.exists()
    told: list[str] = []
    with set_aside(folder, is_restart=False, announce=told.append) as discard:
        write_text(folder.latest_checkpoint, "new")
        discard()
    with set_aside(folder, is_restart=False, announce=told.append):
        assert folder.latest_checkpoint.exists()  # the job that is queued again continues
    assert told == ["begins again, as --restart asked of jobs that have not begun it"]
    assert not folder.final_checkpoint.exists()
    assert list_restarts(measured) == []


def test_a_training_that_an_earlier_restart_set_aside_begins_again_by_a_job(measured):
    folder = measured.fold("3d_lowres", "0")
    finish_fold(measured, "3d_lowres", "0")
    folder.root.rename(folder.root.with_name(".fold_0.earlier"))  # what is left where a restart is killed
    write_text(folder.state, "new")
    request = TrainingRequest(restart=True)
    mark_restarts(measured, build_queue(measured, FIRST[:1], request), request)
    with pytest.raises(KeyboardInterrupt):
        end_before_it_begins(folder)
    assert folder.final_checkpoint.exists()
    assert list_restarts(measured) == [".fold_0.restart"]


def end_before_it_begins(folder, meanwhile=lambda: None):
    """Does what a job does that is ended before it has begun a training again."""
    with set_aside(folder, is_restart=False):
        assert not folder.root.exists()
        meanwhile()
        raise KeyboardInterrupt


def list_restarts(run):
    return sorted(path.name for path in run.root.rglob(".fold_*.restart"))


def test_no_training_is_to_begin_again_where_one_runs(measured):
    for unit in FIRST:
        finish_fold(measured, "3d_lowres", unit.fold)
    request = TrainingRequest(restart=True)
    queue = build_queue(measured, FIRST, request)
    with lock_fold(measured.fold("3d_lowres", "1"), device="cpu"), pytest.raises(TrainingError, match="already"):
        mark_restarts(measured, queue, request)
    assert list_restarts(measured) == []


def test_no_training_is_to_begin_again_by_jobs_that_cannot_be_submitted(measured):
    finish_fold(measured, "3d_lowres", "0")
    kinds = (GpuKind(gres="gpu:small:1", memory_gb=0.1),)
    write_document(measured.root / "slurm.json", SlurmSettings(gpus=kinds))
    request = TrainingRequest(restart=True)
    with pytest.raises(OptionError, match="the plan needs GPUs of"):
        mark_restarts(measured, build_queue(measured, FIRST, request), request)
    assert list_restarts(measured) == []


def test_options_that_do_not_fit_the_place_are_refused(run):
    methods = dict.fromkeys(("run_over_cases", "run_tasks", "describe_tasks", "describe_cases"), print)
    place_of_cases = SimpleNamespace(is_detached=False, **methods)
    with open_place("slurm", run.root) as place:
        with pytest.raises(OptionError, match=r"--devices 0,1 are of this computer.*gres=gpu:2"):
            check_place(TrainingRequest(), place, "0,1")
        check_place(TrainingRequest(nodes=2, parallel=True), place, None)
        with pytest.raises(OptionError, match=r"--device cuda:3 is of this computer; .* give --device cuda$"):
            check_place(TrainingRequest(device="cuda:3"), place, None)
    with pytest.raises(OptionError, match=r"works on single cases; train the folds here, or as jobs"):
        check_place(TrainingRequest(), place_of_cases, None)
    with pytest.raises(OptionError, match="--nodes needs a cluster"):
        check_place(TrainingRequest(nodes=2, parallel=True), ThisComputer(), None)
    with pytest.raises(OptionError, match="--nodes 2 needs --parallel"):
        TrainingRequest(nodes=2)


def train(run, monkeypatch, show_statuses):
    """Trains two folds at a place whose scheduler is a fake."""
    monkeypatch.setattr(dispatch, "list_units", lambda *arguments, **options: FIRST)
    work = partial(dispatch.train_folds, run.root, TrainingRequest(folds=("0", "1")), devices=None)
    with open_place("slurm", run.root) as place:
        return work(
            place=place,
            report_fold=print,
            show_statuses=show_statuses,
            progress=SilentProgress(),
            stop=StopRequest(),
        )


def test_the_outcome_names_the_folds_whose_jobs_did_not_succeed(measured, slurm, monkeypatch):
    slurm.show_queue("1_0|COMPLETED|n1|None", "1_1|NODE_FAIL|n1|NodeDown")
    shown = []
    outcome = train(measured, monkeypatch, shown.extend)
    assert outcome.failures == ("job 1_1 ended without a word (Slurm: NODE_FAIL, NodeDown)",)
    assert [status.state for status in shown[-1]] == ["waiting", "lost"]
    assert read_state(measured.fold("3d_lowres", "1")) is None  # the job may be on its way yet


def test_ctrl_c_ends_the_command_and_no_job(measured, slurm, monkeypatch):
    slurm.show_queue("1_0|RUNNING|n1|None", "1_1|PENDING||Priority")

    def interrupt(snapshots):
        next(iter(snapshots))
        raise KeyboardInterrupt

    with pytest.raises(Stopped, match=r"the jobs continue: `autoseg status .*autoseg cancel"):
        train(measured, monkeypatch, interrupt)
    assert len(slurm.read_scripts()) == 1
    assert slurm.read("cancelled") == []


def test_a_dry_run_here_shows_the_commands_that_would_be_run_here(measured, monkeypatch):
    monkeypatch.setattr(dispatch, "list_units", lambda *arguments, **options: FIRST)
    shown = dispatch.describe_training(
        measured.root, TrainingRequest(), place=ThisComputer(), devices="cpu", autoseg=None, progress=SilentProgress()
    )
    assert [line.split(" --")[2] for line in shown.splitlines()] == ["fold 0", "fold 1"]  # nothing is selected
    with pytest.raises(DeviceError, match="nonsense"):
        dispatch.describe_training(
            measured.root,
            TrainingRequest(),
            place=ThisComputer(),
            devices="nonsense",
            autoseg=None,
            progress=SilentProgress(),
        )


def test_jobs_are_not_given_the_local_copy_of_a_run_by_url(measured, monkeypatch):
    monkeypatch.setenv("AUTOSEG_REMOTE_CACHE", str(measured.root.parent))
    with pytest.raises(OptionError, match=r"--on: jobs need a run in a folder that all nodes see"):
        build_queue(measured, FIRST, TrainingRequest())


# Status and cancellation


def submit(run, *names):
    add_jobs(find_jobs_folder(run.root), [JobRecord(task=name, job_id=f"5_{i}") for i, name in enumerate(names)])


def test_the_status_of_a_run_shows_what_became_of_its_jobs(run, slurm):
    submit(run, "2d, fold 0", "2d, fold 1", "3d_lowres, fold 0", "3d_lowres, fold 1", "select")
    slurm.show_queue(
        "5_0|PENDING||Priority", "5_1|NODE_FAIL|n1|NodeDown", "5_2|RUNNING|n2|None", "5_3|CANCELLED||None",
        "5_4|PENDING||Dependency",
    )  # fmt: skip
    statuses, notes = read_watched_status(run)
    shown = {(status.configuration, status.fold): (status.state, status.reason) for status in statuses}
    assert shown["2d", "0"] == ("queued", "job 5_0 waits (Priority)")
    assert shown["2d", "1"] == ("lost", "job 5_1 ended without a word (Slurm: NODE_FAIL, NodeDown)")
    assert shown["3d_lowres", "0"] == ("preparing", None)
    assert shown["3d_lowres", "1"] == ("waiting", "job 5_3 was cancelled")
    assert shown["3d_cascade_fullres", "0"] == ("waiting", None)
    assert notes == ("select: queued: job 5_4 waits (Dependency)",)


def test_what_was_trained_after_a_lost_job_is_finished(run, slurm):
    submit(run, "2d, fold 0")
    finish_fold(run, "2d", "0")
    assert {status.state for status in read_watched_status(run)[0] if status.is_trained} == {"finished"}


def test_where_slurm_does_not_answer_the_files_are_shown(run, slurm):
    submit(run, "2d, fold 0")
    slurm.fail("squeue", "Unable to contact slurm controller")
    statuses, notes = read_watched_status(run)
    assert {status.state for status in statuses} == {"waiting"}
    assert "Unable to contact slurm controller" in notes[0]


def test_a_watched_run_asks_slurm_seldom(run, slurm, monkeypatch):
    waits = []

    def sleep(seconds):
        if seconds < 1:
            return  # of the standard library, which waits for squeue
        waits.append(seconds)
        if len(waits) == 2:
            raise KeyboardInterrupt
        submit(run, "2d, fold 0")

    monkeypatch.setattr("time.sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        list(watch_run(run.root))
    assert waits == [2.0, 15.0]


def test_a_run_without_jobs_asks_no_slurm(run, slurm):
    assert read_watched_status(run)[1] == ()
    assert slurm.read("asked") == []


def test_jobs_of_named_folds_are_cancelled(run, slurm):
    submit(run, "2d, fold 0", "2d, fold 1", "3d_lowres, fold 0")
    slurm.show_queue("5_0|RUNNING|n1|None", "5_1|PENDING||Priority", "5_2|RUNNING|n1|None")
    assert cancel_run_jobs(run.root, configurations=["2d"], folds=["1"]) == ("2d, fold 1: job 5_1 is cancelled",)
    assert cancel_run_jobs(run.root, folds=["0"]) == (
        "2d, fold 0: job 5_0 is cancelled",
        "3d_lowres, fold 0: job 5_2 is cancelled",
    )
    assert slurm.read("cancelled") == ["5_1", "5_0 5_2"]


def test_a_job_that_was_to_begin_a_training_again_shows_its_failure_and_is_cancelled(run, slurm):
    submit(run, "2d, fold 0")
    finish_fold(run, "2d", "0", cases=("a", "b"))
    folder, mark = run.fold("2d", "0"), find_mark(find_jobs_folder(run.root), "2d, fold 0")
    write_text(find_restart_mark(folder), "")
    write_document(mark, JobMark(job_id="5_0", phase="failed", node="n1", reason="the disk is full"))
    assert "the disk is full" in [status.reason for status in read_watched_status(run)[0]]
    mark.unlink()
    slurm.show_queue("5_0|PENDING||Priority")
    assert len(cancel_run_jobs(run.root)) == 1
    assert not find_restart_mark(folder).exists()
    assert folder.final_checkpoint.exists()


def test_a_training_that_failed_jobs_were_to_begin_again_does_not_after_they_are_cancelled(run, slurm):
    for fold in ("0", "1", "all"):
        finish_fold(run, "2d", fold, cases=("a", "b"))
        write_text(find_restart_mark(run.fold("2d", fold)), "")
    assert cancel_run_jobs(run.root, folds=["1"]) == ("2d, fold 1: does not begin again",)
    assert list_restarts(run) == [".fold_0.restart", ".fold_all.restart"]
    assert len(cancel_run_jobs(run.root)) == 2
    assert list_restarts(run) == []


def test_a_job_that_is_cancelled_while_it_prepares_to_begin_a_training_again_leaves_that_as_it_was(run, slurm):
    submit(run, "2d, fold 0")
    finish_fold(run, "2d", "0", cases=("a", "b"))
    folder = run.fold("2d", "0")
    write_text(find_restart_mark(folder), "")
    slurm.show_queue("5_0|RUNNING|n1|None")
    cancelled = []
    with pytest.raises(KeyboardInterrupt):
        end_before_it_begins(folder, meanwhile=lambda: cancelled.extend(cancel_run_jobs(run.root)))
    assert len(cancelled) == 1
    assert folder.final_checkpoint.exists()
    assert list_restarts(run) == []


def test_jobs_for_the_cases_of_a_command_are_shown_and_cancelled_while_it_waits(run, slurm):
    slurm.show_queue("6_0|RUNNING|n1|None", "6_1|PENDING||Priority")
    with open_case_folder(run.root) as folder:
        add_jobs(folder, [JobRecord(task=f"Predicting, part {part + 1} of 2", job_id=f"6_{part}") for part in range(2)])
        assert has_jobs(run)
        assert read_watched_status(run)[1] == (
            "Predicting, part 1 of 2: running on n1",
            "Predicting, part 2 of 2: queued: job 6_1 waits (Priority)",
        )
        assert cancel_run_jobs(run.root, folds=["0"]) == ()
        lines = cancel_run_jobs(run.root)
        assert lines == tuple(f"Predicting, part {part + 1} of 2: job 6_{part} is cancelled" for part in range(2))
    assert slurm.read("cancelled") == ["6_0 6_1"]
    assert not has_jobs(run)


def test_the_job_of_a_fold_that_has_not_begun_is_cancelled_by_name(run, slurm):
    submit(run, "2d, fold all", "2d, fold 0", "select")
    slurm.show_queue("5_0|PENDING||Priority", "5_1|PENDING||Priority", "5_2|PENDING||Dependency")
    assert cancel_run_jobs(run.root, folds=["all"]) == ("2d, fold all: job 5_0 is cancelled",)
    assert slurm.read("cancelled") == ["5_0"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            {"configurations": ["2dd"]},
            r"--configuration: this run has no '2dd' \(did you mean '2d'\?\); choose from: 2d,",
        ),
        ({"folds": ["7"]}, r"--fold: this run has no '7'; choose from: 0, "),
    ],
)
def test_nothing_is_cancelled_for_names_that_do_not_exist(run, slurm, names, message):
    submit(run, "2d, fold 0")
    with pytest.raises(OptionError, match=message):
        cancel_run_jobs(run.root, **names)
    assert slurm.read("cancelled") == []


def test_a_job_that_failed_says_why(run, slurm):
    submit(run, "2d, fold 0")
    mark = JobMark(job_id="5_0", phase="failed", node="n1", reason="the disk is full; log: x")
    write_document(find_mark(find_jobs_folder(run.root), "2d, fold 0"), mark)
    (failed,) = (status for status in read_watched_status(run)[0] if status.state == "failed")
    assert failed.reason == "the disk is full; log: x"


@pytest.mark.parametrize(
    ("task", "state", "reason", "device"),
    [
        (TaskState(phase="running", where="n1"), "preparing", None, "n1"),
        (TaskState(phase="finished"), "interrupted", None, None),
        (TaskState(phase="stopped", reason="cancelled"), "interrupted", "cancelled", None),
        (TaskState(phase="lost", reason="gone"), "lost", "gone", None),
        (TaskState(phase="waiting"), "waiting", None, None),
    ],
)
def test_a_place_adds_what_files_do_not_tell(task, state, reason, device):
    found = apply_task_state(FoldStatus(configuration="2d", fold="0", state="interrupted"), task)
    assert (found.state, found.reason, found.device) == (state, reason, device)


def test_a_dry_run_shows_the_jobs_that_measure_and_evaluate_and_writes_nothing(run, tmp_path, slurm):
    volume = np.zeros((4, 4, 4), np.int16)
    dataset = write_dataset(tmp_path / "data", [(name, (volume, volume)) for name in "abc"], labels={"organ": 1})
    new, labels = tmp_path / "new.autoseg", dataset / "labelsTr"
    with open_place("slurm", new, ["case_jobs=2"]) as place:
        request = PlanRequest(planner="default", machine=Machine(accelerator_memory_gb=None), place=place)
        planning = describe_planning(dataset, new, request=request)
    with open_place("slurm", run.root) as place:
        evaluating = describe_evaluating(labels, labels, run_root=run.root, place=place)
    assert planning.startswith("# Measuring: 3 cases\n")
    assert "#SBATCH --array=0-1%2" in planning
    assert planning.endswith("# Preprocessing: a further array of jobs, whose memory follows from the plan")
    assert evaluating.startswith("# Evaluating: 3 cases\n")
    assert "#SBATCH --array=0-2%3" in evaluating
    assert not new.exists()
    assert {path.name for path in run.root.iterdir()} == {"plan.json", "splits.json"}
    assert {path.name for path in dataset.iterdir()} == {"dataset.json", "imagesTr", "labelsTr"}
    assert slurm.read_scripts() == []
