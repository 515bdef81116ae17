import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from builders.damage import show_late

from autoseg.dataset import read_dataset
from autoseg.document import read_document, write_document
from autoseg.errors import RunError, TrainingError
from autoseg.places.local import ThisComputer
from autoseg.plan import Plan
from autoseg.processes import fold_lock
from autoseg.processes.fold_lock import find_holder, lock_fold, wait_for_lock
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import FoldFolder, remove_folder
from autoseg.workflows.plan import preprocessing
from autoseg.workflows.plan.preprocessing import extract_recipe, is_recipe_followed, preprocess_dataset

HOLD = """
import sys
from pathlib import Path
from autoseg.run_folder import FoldFolder
from autoseg.processes.fold_lock import lock_fold
with lock_fold(FoldFolder(Path(sys.argv[1])), device="cuda:3"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that trains the fold."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "fold_0")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_two_processes_cannot_train_one_fold(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(fold_lock, "SECONDS_BETWEEN_ATTEMPTS", 0.0)
    folder = FoldFolder(tmp_path / "fold_0")
    expected = rf"fold_0 is being trained already, by process {holder.pid} .*\(cuda:3\).*autoseg status"
    with pytest.raises(TrainingError, match=expected), lock_fold(folder, device="cpu"):
        pass
    found = find_holder(folder)
    assert (found.pid, found.device) == (holder.pid, "cuda:3")


def test_a_process_that_is_killed_leaves_no_lock(holder, tmp_path):
    folder = FoldFolder(tmp_path / "fold_0")
    holder.kill()
    holder.wait()
    assert find_holder(folder) is None
    with lock_fold(folder, device="cpu"):
        pass


def test_other_folds_are_free(holder, tmp_path):
    with lock_fold(FoldFolder(tmp_path / "fold_1"), device="cpu"):
        assert find_holder(FoldFolder(tmp_path / "fold_0")) is not None


def test_the_lock_lies_beside_the_folder_which_may_be_removed_and_is_no_fold(tmp_path):
    folder = FoldFolder(tmp_path / "fold_0")
    with lock_fold(folder, device="cpu"):
        assert not folder.root.exists()
    assert not list(tmp_path.glob("fold_*"))
    assert find_holder(folder) is None


def test_nobody_trains_what_was_never_begun(tmp_path):
    assert find_holder(FoldFolder(tmp_path / "nowhere" / "fold_0")) is None


def test_a_lock_is_waited_for_until_its_process_ends_whatever_the_clock_says(holder, tmp_path, monkeypatch):
    told = []

    def end_holder():
        told.append("waits")
        holder.kill()
        holder.wait()

    monkeypatch.setattr("time.time", lambda: -1.0e9)
    monkeypatch.setattr(fold_lock, "SECONDS_BETWEEN_ATTEMPTS", 0.01)
    lock = FoldFolder(tmp_path / "fold_0").lock
    with wait_for_lock(lock, on_wait=end_holder):
        assert told == ["waits"]
    assert lock.exists()


def test_a_lock_that_is_never_released_is_named(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(fold_lock, "SECONDS_BETWEEN_ATTEMPTS", 0.01)
    lock = FoldFolder(tmp_path / "fold_0").lock
    with (
        pytest.raises(RunError, match=r"another process holds the lock .*for more than 0 s"),
        wait_for_lock(lock, on_wait=list, longest_seconds=0.1),
    ):
        pass


def test_a_lock_file_that_is_not_kept_is_removed_while_others_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(fold_lock, "SECONDS_BETWEEN_ATTEMPTS", 0.001)
    path, inside, most = tmp_path / "lock", [], []

    def work(index):
        with wait_for_lock(path, on_wait=list, is_kept=False):
            inside.append(index)
            most.append(len(inside))
            inside.remove(index)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert most == [1] * 40
    assert not path.exists()


def test_a_lock_that_cannot_be_written_is_an_error_of_the_folder(tmp_path):
    (tmp_path / "lock").mkdir()
    with pytest.raises(RunError, match=r"cannot write .*lock"), wait_for_lock(tmp_path / "lock", on_wait=list):
        pass


def test_under_a_lock_the_files_are_seen_that_another_computer_has_just_written(tmp_path, monkeypatch):
    folder, record = FoldFolder(tmp_path / "fold_0"), tmp_path / "out" / "prediction.json"
    for path in (folder.final_checkpoint, record):
        path.parent.mkdir()
        path.write_text("new")
    show_late(monkeypatch, {folder.final_checkpoint: None, folder.root: None, record: None})
    assert [path.exists() for path in (folder.root, folder.final_checkpoint, record)] == [False] * 3
    with lock_fold(folder, device="cpu"):
        assert [path.exists() for path in (folder.root, folder.final_checkpoint)] == [True] * 2
    with wait_for_lock(record.parent / "lock", on_wait=list):
        assert record.exists()


def test_arrays_that_a_training_reads_are_not_replaced_by_those_of_another_plan(dataset, run, monkeypatch):
    plan = read_document(run.plan, Plan)
    coarser = plan.configurations["2d"].model_copy(update={"spacing_mm": (2.0, 2.0)})
    edited = plan.model_copy(update={"configurations": {**plan.configurations, "2d": coarser}})
    array = run.preprocessed("2d") / "p1_a.image.b2nd"
    array.parent.mkdir(parents=True)
    array.touch()
    write_document(run.recipe("2d"), extract_recipe(plan, "2d"))

    def preprocess():
        preprocess_dataset(
            replace(read_dataset(dataset), cases=()),
            run,
            edited,
            configurations=["2d"],
            workers=1,
            place=ThisComputer(),
            progress=SilentProgress(),
        )

    with lock_fold(run.fold("3d_cascade_fullres", "0"), device="cpu"):  # it shares the arrays
        with pytest.raises(RunError, match=r"process \d+ on .* trains .*3d_cascade_fullres.fold_0 with what would be"):
            preprocess()
        assert array.exists()
    with lock_fold(FoldFolder(run.synthetic("2d", "1")), device="cpu"):
        expected = r"process \d+ on .* makes the synthetic cases in .*2d.fold_1 from what would be replaced; wait until"
        with pytest.raises(RunError, match=expected):
            preprocess()
        assert array.exists()

    def remove(folder):
        assert not run.recipe("2d").exists()  # so that a process that preprocesses by the earlier plan adds no case
        remove_folder(folder)

    monkeypatch.setattr(preprocessing, "remove_folder", remove)
    preprocess()
    assert not array.exists()
    assert is_recipe_followed(run, edited, "2d")
