"""Trains on a real Slurm with two nodes; `make cluster-test` names this file, which no other run collects."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from builders.command_line import run_autoseg
from builders.folds import read_arrays

from autoseg.document import read_document, write_document
from autoseg.places.place import TaskState
from autoseg.places.slurm.jobs import find_jobs_folder, read_jobs, read_task_states
from autoseg.plan.document import ConfigurationPlan, Plan
from autoseg.run_folder import RunFolder
from autoseg.workflows.folds.jobs import read_watched_status
from autoseg.workflows.folds.state import read_state
from autoseg.workflows.synthetic import write_synthetic_dataset
from cluster.slurm import Cluster, find_reason_to_skip, run, start_cluster, wait_until
from planners.rules.cascade import CASCADE, FULL_RESOLUTION, LOW_RESOLUTION, choose_cascade

pytestmark = pytest.mark.timeout(1200)

LONG_EPOCHS = 14
SETTINGS = ("memory_gb=1", "cpus=1")
SECONDS_TO_TRAIN = 500.0


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
    """The dataset of the demonstration, with tiny networks and a cascade that it would not need."""
    folder = tmp_path_factory.mktemp("planned")
    write_synthetic_dataset(folder / "dataset", training_cases=5, test_cases=0, seed=0)
    root = folder / "abdomen.autoseg"
    done = run_autoseg(
        *("plan", folder / "dataset", "--run", root, "--memory-gb", 0.1, "--workers", 1),
        *("--configuration", FULL_RESOLUTION),
    )
    assert done.code == 0, done.err
    return root


def make_run(planned: Path, folder: Path, *, epochs: int, iterations: int) -> RunFolder:
    """A copy of the run, with a short training."""
    run_folder = RunFolder(Path(shutil.copytree(planned, folder / "abdomen.autoseg")))
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


def find_task(run_folder: RunFolder, fold: str) -> TaskState:
    return read_task_states(find_jobs_folder(run_folder.root))[f"{FULL_RESOLUTION}, fold {fold}"]


def is_under_way(run_folder: RunFolder, fold: str) -> bool:
    """Whether a fold is being trained, and can be continued."""
    folder = run_folder.fold(FULL_RESOLUTION, fold)
    state = read_state(folder)
    return state is not None and state.phase == "training" and folder.latest_checkpoint.exists()


def wait_for_end(cluster: Cluster, run_folder: RunFolder, fold: str) -> None:
    def is_over() -> bool:
        cluster.hasten()
        time.sleep(1.0)
        return find_task(run_folder, fold).phase not in {"queued", "running"}

    wait_until(is_over, seconds=SECONDS_TO_TRAIN, what=f"fold {fold} has ended")
    assert find_task(run_folder, fold).phase == "finished", find_task(run_folder, fold)


def read_weights(run_folder: RunFolder, fold: str) -> dict[str, np.ndarray]:
    return read_arrays(run_folder.fold(FULL_RESOLUTION, fold).final_checkpoint)


@pytest.fixture(scope="module")
def undisturbed(planned: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Weights of a training on this computer that nothing disturbs."""
    run_folder = make_run(planned, tmp_path_factory.mktemp("undisturbed"), epochs=LONG_EPOCHS, iterations=10)
    done = run_autoseg(
        *("train", run_folder.root, "--configuration", FULL_RESOLUTION, "--fold", "0"),
        *("--device", "cpu", "--workers", 0),
    )
    assert done.code == 0, done.err
    return read_weights(run_folder, "0")


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_all_folds_of_a_cascade_are_trained_and_models_are_selected(planned: Path, tmp_path: Path) -> None:
    run_folder = make_run(planned, tmp_path, epochs=1, iterations=2)
    done = run_autoseg(*list_words(run_folder, "--configuration", CASCADE))
    assert done.code == 0, done.out + done.err
    statuses, notes = read_watched_status(run_folder)
    states = {(status.configuration, status.fold): status.state for status in statuses}
    trained = [(name, str(fold)) for name in (LOW_RESOLUTION, CASCADE) for fold in range(5)]
    assert {states[key] for key in trained} == {"finished"}
    assert notes == ("select: finished",)
    assert run_folder.selection.is_file()
    assert "AccountingStorageType   = accounting_storage/none" in run("scontrol", "show", "config")


def test_two_computers_train_a_fold_together(planned: Path, tmp_path: Path) -> None:
    run_folder = make_run(planned, tmp_path, epochs=1, iterations=2)
    options = ("--configuration", FULL_RESOLUTION, "--fold", "0", "--nodes", "2", "--parallel")
    done = run_autoseg(*list_words(run_folder, *options))
    assert done.code == 0, done.out + done.err
    assert read_task_states(find_jobs_folder(run_folder.root))["3d_fullres, fold 0"].phase == "finished"
    (record,) = (status for status in read_watched_status(run_folder)[0] if status.is_trained)
    assert record.device == "2 x cpu"


def test_a_fold_outlives_its_node_and_another_its_time_limit_and_a_third_is_cancelled(
    cluster: Cluster, planned: Path, tmp_path: Path, undisturbed: dict[str, np.ndarray]
) -> None:
    (tmp_path / "limit").mkdir()
    disturbed = make_run(planned, tmp_path, epochs=LONG_EPOCHS, iterations=10)
    limited = make_run(planned, tmp_path / "limit", epochs=LONG_EPOCHS, iterations=10)
    fold = ("--configuration", FULL_RESOLUTION, "--fold", "0")
    submit(limited, *fold, "--slurm", "time_minutes=60", "--slurm", "signal_seconds=60")
    submit(disturbed, *fold)
    (job,) = read_jobs(find_jobs_folder(limited.root))
    wait_until(lambda: is_under_way(limited, "0"), seconds=SECONDS_TO_TRAIN, what="the training has a checkpoint")
    cluster.end_soon(job.job_id)
    wait_until(lambda: is_under_way(disturbed, "0"), seconds=SECONDS_TO_TRAIN, what="the training has a checkpoint")
    node = find_task(disturbed, "0").where
    assert node is not None
    cluster.kill_node(node)
    wait_until(lambda: find_task(limited, "0").phase == "queued", seconds=SECONDS_TO_TRAIN, what="it is queued again")
    cluster.limit(job.job_id, minutes=60)
    wait_for_end(cluster, limited, "0")
    wait_for_end(cluster, disturbed, "0")
    for run_folder in (limited, disturbed):
        log = (run_folder.logs / "train_3d_fullres_fold_0.log").read_text()
        assert "continues, saved" in log or "continues, after epoch" in log or "continues, in epoch" in log
        assert_equal(read_weights(run_folder, "0"), undisturbed)
    cluster.start_node(node)
    submit(disturbed, "--configuration", FULL_RESOLUTION, "--fold", "1")
    wait_until(lambda: find_task(disturbed, "1").phase == "running", seconds=60.0, what="fold 1 runs")
    done = run_autoseg("cancel", disturbed.root, "--fold", "1")
    assert done.out.startswith("3d_fullres, fold 1: job "), done.err
    wait_until(lambda: find_task(disturbed, "1").phase == "stopped", seconds=60.0, what="fold 1 is stopped")
    assert "was cancelled" in run_autoseg("status", disturbed.root).out
