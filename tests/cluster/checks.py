"""Trains on a real Slurm with two nodes; `make cluster-test` names this file, which no other run collects."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from builders.command_line import run_autoseg
from builders.folds import read_arrays

from autoseg.dataset.folds import Fold, Splits
from autoseg.document import read_document, write_document
from autoseg.places.place import TaskState
from autoseg.places.slurm.jobs import find_jobs_folder, read_jobs, read_task_states
from autoseg.plan.document import ConfigurationPlan, Plan
from autoseg.processes.fold_lock import find_holder
from autoseg.run_folder import RunFolder
from autoseg.training.monitoring.history import read_last_record
from autoseg.workflows.folds.jobs import read_watched_status
from autoseg.workflows.folds.state import find_restart_mark, read_state
from autoseg.workflows.synthetic import write_synthetic_dataset
from cluster.slurm import Cluster, find_reason_to_skip, run, start_cluster, wait_until
from planners.rules.cascade import CASCADE, FULL_RESOLUTION, LOW_RESOLUTION, choose_cascade

pytestmark = pytest.mark.timeout(600)

FOLD_0 = ("--configuration", FULL_RESOLUTION, "--fold", "0")
EPOCHS = 12
# Two starts, an epoch and the half minute between two looks of Slurm at time limits; the computer may become faster.
SECONDS_OF_TRAINING = 120.0
SETTINGS = ("memory_gb=1", "cpus=1")
CASES = tuple(f"case_{index:03d}" for index in range(5))
SPLITS = Splits(
    folds=tuple(Fold(training=tuple(other for other in CASES if other != case), validation=(case,)) for case in CASES)
)
SECONDS_TO_WAIT = 300.0


@pytest.fixture(scope="session", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    reason = find_reason_to_skip()
    if reason is not None:
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch, start_cluster(tmp_path_factory.mktemp("slurm")) as started:
        patch.setenv("OMP_NUM_THREADS", "1")  # a resumed training is bit-equal with the same number of threads
        yield started


@pytest.fixture(scope="session")
def planned(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of the demonstration, with five folds, tiny networks and a cascade that it would not need."""
    folder = tmp_path_factory.mktemp("planned")
    write_synthetic_dataset(folder / "dataset", training_cases=len(CASES), test_cases=0, seed=0)
    root = folder / "abdomen.autoseg"
    done = run_autoseg(
        *("plan", folder / "dataset", "--run", root, "--memory-gb", 0.1, "--workers", 1),
        *("--configuration", FULL_RESOLUTION),
    )
    assert done.code == 0, done.err
    write_document(RunFolder(root).splits, SPLITS)
    return root


def make_run(planned: Path, folder: Path, *, epochs: int, iterations: int) -> RunFolder:
    """A copy of the run, with a short training."""
    run_folder = RunFolder(Path(shutil.copytree(planned, folder / "abdomen.autoseg")))  # makes parents, too
    plan = read_document(run_folder.plan, Plan)
    full = narrow(plan.configurations[FULL_RESOLUTION], epochs=epochs, iterations=iterations)
    cascade, _ = choose_cascade(full, plan.labels)
    configurations = {FULL_RESOLUTION: full, LOW_RESOLUTION: full, CASCADE: cascade}
    write_document(run_folder.plan, plan.model_copy(update={"configurations": configurations}))
    return run_folder


def narrow(full: ConfigurationPlan, *, epochs: int, iterations: int) -> ConfigurationPlan:
    length = {"epochs": epochs, "iterations_per_epoch": iterations, "validation_iterations_per_epoch": 1}
    transforms = tuple(transform for transform in full.training.transforms if transform.name != "mirror")
    training = full.training.model_copy(update={**length, "sufficient_iterations": 1, "transforms": transforms})
    network = full.network.model_copy(update={"features_per_stage": (4,) * len(full.network.strides)})
    return full.model_copy(update={"training": training, "network": network})


def list_words(run_folder: RunFolder, *options: str) -> list[str]:
    settings = [word for text in SETTINGS for word in ("--slurm", text)]
    return ["train", str(run_folder.root), "--on", "slurm", "--workers", "0", *settings, *options]


def submit(run_folder: RunFolder, *options: str) -> None:
    """Submits, and ends the command that has submitted as soon as it has."""
    known = read_jobs(find_jobs_folder(run_folder.root))
    command = [sys.executable, "-m", "autoseg", *list_words(run_folder, *options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        wait_until(
            lambda: read_jobs(find_jobs_folder(run_folder.root)) != known or process.poll() is not None,
            seconds=60.0,
            what="jobs are submitted",
        )
        process.kill()
    assert read_jobs(find_jobs_folder(run_folder.root)) != known


def find_task(run_folder: RunFolder) -> TaskState:
    return read_task_states(find_jobs_folder(run_folder.root))[f"{FULL_RESOLUTION}, fold 0"]


def is_in_training(run_folder: RunFolder) -> bool:
    """Whether fold 0 is being trained, and has finished an epoch; an error where it was too short to be disturbed."""
    folder = run_folder.fold(FULL_RESOLUTION, "0")
    state = read_state(folder)
    assert state is None or state.phase not in ("validating", "finished"), "it ended before it was disturbed"
    is_training = state is not None and state.phase == "training" and find_holder(folder) is not None
    return is_training and read_last_record(folder.training_log) is not None


def wait_for(cluster: Cluster, condition: Callable[[], bool], *, what: str) -> None:
    """Waits; jobs that were queued again begin without the delay of Slurm."""

    def is_met() -> bool:
        cluster.hasten()
        return condition()

    wait_until(is_met, seconds=SECONDS_TO_WAIT, what=what)


@pytest.fixture(scope="session")
def cascade(planned: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """All folds of a cascade, trained as jobs."""
    run_folder = make_run(planned, tmp_path_factory.mktemp("cascade"), epochs=1, iterations=4)
    done = run_autoseg(*list_words(run_folder, "--configuration", CASCADE))
    assert done.code == 0, done.out + done.err
    return run_folder


def find_seconds_per_iteration(cascade: RunFolder) -> float:
    """The least of all folds: a fold that others disturbed more than usual would make a training that ends too soon."""
    folds = [(name, str(fold)) for name in (LOW_RESOLUTION, CASCADE) for fold in range(len(SPLITS.folds))]
    records = [read_last_record(cascade.fold(*fold).training_log) for fold in folds]
    return min(record.seconds_per_iteration for record in records if record is not None)


def test_all_folds_of_a_cascade_are_trained_and_models_are_selected(cascade: RunFolder) -> None:
    statuses, notes = read_watched_status(cascade)
    states = {(status.configuration, status.fold): status.state for status in statuses}
    trained = [(name, str(fold)) for name in (LOW_RESOLUTION, CASCADE) for fold in range(len(SPLITS.folds))]
    assert {states[key] for key in trained} == {"finished"}
    assert notes == ("select: finished",)
    assert cascade.selection.is_file()
    assert "AccountingStorageType   = accounting_storage/none" in run("scontrol", "show", "config")


def test_models_are_selected_in_a_job_of_their_own(cascade: RunFolder) -> None:
    before = cascade.selection.stat().st_ino
    settings = [word for text in SETTINGS for word in ("--slurm", text)]
    done = run_autoseg("select", cascade.root, "--no-variants", "--device", "cpu", "--on", "slurm", *settings)
    assert done.code == 0, done.out + done.err
    assert "select, finished" in done.out + done.err
    assert cascade.selection.stat().st_ino != before


def test_images_are_predicted_by_jobs_as_on_this_computer(planned: Path, cascade: RunFolder, tmp_path: Path) -> None:
    images, options = planned.parent / "dataset" / "imagesTr", ("--configuration", LOW_RESOLUTION, "--device", "cpu")
    settings = [word for text in (*SETTINGS, "case_jobs=2") for word in ("--slurm", text)]
    for out, place in (("jobs", ["--on", "slurm", *settings]), ("here", [])):
        done = run_autoseg("predict", cascade.root, images, tmp_path / out, *options, *place)
        assert done.code == 0, done.out + done.err
    names = {path.name for path in (tmp_path / "here").glob("*.nii.gz")}
    assert len(names) == len(list(images.iterdir()))
    for name in names:
        assert (tmp_path / "jobs" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    assert not [path for path in cascade.root.iterdir() if path.name.startswith(".jobs")]


def test_two_computers_train_a_fold_together(planned: Path, tmp_path: Path) -> None:
    run_folder = make_run(planned, tmp_path, epochs=1, iterations=2)
    done = run_autoseg(*list_words(run_folder, *FOLD_0, "--nodes", "2", "--parallel"))
    assert done.code == 0, done.out + done.err
    (status,) = (status for status in read_watched_status(run_folder)[0] if status.is_trained)
    assert (status.state, status.device) == ("finished", "2 x cpu")


def test_a_training_outlives_its_time_limit_and_its_node_and_ends_as_if_nothing_had_happened(
    cluster: Cluster, planned: Path, cascade: RunFolder, tmp_path: Path
) -> None:
    iterations = max(3, round(SECONDS_OF_TRAINING / EPOCHS / find_seconds_per_iteration(cascade)))
    length = {"epochs": EPOCHS, "iterations": iterations}
    disturbed = make_run(planned, tmp_path / "disturbed", **length)
    undisturbed = make_run(planned, tmp_path / "undisturbed", **length)
    submit(disturbed, *FOLD_0, "--slurm", "time_minutes=60", "--slurm", "signal_seconds=90")
    submit(undisturbed, *FOLD_0)
    (job,) = read_jobs(find_jobs_folder(disturbed.root))
    wait_until(lambda: is_in_training(disturbed), seconds=SECONDS_TO_WAIT, what="it is trained")

    cluster.end_soon(job.job_id)
    wait_until(lambda: find_task(disturbed).phase == "queued", seconds=SECONDS_TO_WAIT, what="it is queued again")
    cluster.limit(job.job_id, minutes=60)
    wait_for(cluster, lambda: is_in_training(disturbed), what="it is trained again")

    node = find_task(disturbed).where
    assert node is not None
    cluster.kill_node(node)
    wait_for(cluster, lambda: find_task(disturbed).phase == "finished", what="it is finished")
    wait_for(cluster, lambda: find_task(undisturbed).phase == "finished", what="the other one is finished")
    log = (disturbed.logs / "train_3d_fullres_fold_0.log").read_text()
    assert log.count("3d_fullres, fold 0: continues, ") == 2
    found, expected = (
        read_arrays(run_folder.fold(FULL_RESOLUTION, "0").final_checkpoint) for run_folder in (disturbed, undisturbed)
    )
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    cluster.start_node(node)


def test_a_job_is_cancelled_and_says_so(planned: Path, tmp_path: Path) -> None:
    run_folder = make_run(planned, tmp_path, epochs=100, iterations=100)
    submit(run_folder, *FOLD_0)
    wait_until(lambda: find_task(run_folder).phase == "running", seconds=SECONDS_TO_WAIT, what="it runs")
    done = run_autoseg("cancel", run_folder.root)
    assert done.out.startswith("3d_fullres, fold 0: job "), done.err
    wait_until(lambda: find_task(run_folder).phase == "stopped", seconds=SECONDS_TO_WAIT, what="it is stopped")
    assert "was cancelled" in run_autoseg("status", run_folder.root).out
    assert run_autoseg("cancel", run_folder.root).out == f"no job of {run_folder.root} is queued or running\n"


def test_a_training_that_begins_again_is_kept_until_its_job_begins_it(
    cluster: Cluster, planned: Path, tmp_path: Path
) -> None:
    run_folder = make_run(planned, tmp_path, epochs=1, iterations=4)
    done = run_autoseg("train", run_folder.root, *FOLD_0, "--device", "cpu", "--seed", 1, "--workers", 0)
    assert done.code == 0, done.err
    folder = run_folder.fold(FULL_RESOLUTION, "0")
    first, mark = read_arrays(folder.final_checkpoint), find_restart_mark(folder)
    with cluster.pause():
        submit(run_folder, *FOLD_0, "--restart", "--seed", "2")
        assert mark.exists()
        assert run_autoseg("cancel", run_folder.root).code == 0
        assert not mark.exists()
        submit(run_folder, *FOLD_0, "--restart", "--seed", "2")
        assert mark.exists()
        kept = read_arrays(folder.final_checkpoint)
    assert all(np.array_equal(first[name], array) for name, array in kept.items())
    wait_for(cluster, lambda: find_task(run_folder).phase == "finished", what="it is trained again")
    second = read_arrays(folder.final_checkpoint)
    assert not all(np.array_equal(first[name], array) for name, array in second.items())
    assert not mark.exists()
