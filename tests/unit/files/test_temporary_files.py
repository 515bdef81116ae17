import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from autoseg.files import temporary_files
from autoseg.files.temporary_files import (
    REPLACED_ENDING,
    make_temporary_folder,
    mark_multiprocessing_folder,
    name_temporary,
    remove_abandoned_folders,
    remove_leftovers,
)
from autoseg.run_folder import open_run, write_atomically, write_text

KEPT = (".fold_0.lock", "a.txt", ".hidden-file.txt", f".a-autoseg-{'0' * 17}.txt", f"a-autoseg-{'0' * 32}.txt")
WRITE_AND_DIE = """
import os, sys
from pathlib import Path
from autoseg.processes.fork_server import prepare_worker_context
from autoseg.run_folder import write_atomically, write_folder_atomically
from autoseg.files.temporary_files import make_temporary_folder
root = Path(sys.argv[1])
prepare_worker_context()
writers = [
    write_atomically(root / "a.tar.gz"),
    write_atomically(root / "below" / "no_ending"),
    write_folder_atomically(root / "folder.of.a.model"),
    make_temporary_folder(),
]
opened = [writer.__enter__() for writer in writers]
(opened[2] / "fold_0").mkdir()
print(*opened, sep="\\n", flush=True)
os.killpg(0, 9)
"""


@pytest.fixture
def temporary_place(monkeypatch):
    with tempfile.TemporaryDirectory() as place:  # short: the name of a socket below it has at most 107 bytes
        monkeypatch.setattr(tempfile, "tempdir", place)
        remove_abandoned_folders.cache_clear()
        yield Path(place)
        remove_abandoned_folders.cache_clear()


def list_names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def make_dead(path: Path) -> Path:
    """The same name, written by a process of this PID that was started at another time."""
    head, _, rest = path.name.partition(f"{os.getpid():08x}")
    return path.with_name(f"{head}{os.getpid():08x}00000001{rest[8:]}")


def test_the_next_command_removes_what_a_killed_one_left_and_nothing_else(tmp_path, temporary_place):
    run = tmp_path / "run"
    for name in KEPT:
        write_text(run / "below" / name, "x")
    with write_atomically(run / "alive.txt") as living:
        (run / "below" / f".link-autoseg-{'0' * 32}").symlink_to(tmp_path)
        (run / "plan.json").touch()
        before = list_names(run)
        environment = os.environ | {"TMPDIR": str(temporary_place)}
        command = [sys.executable, "-c", WRITE_AND_DIE, str(run)]
        killed = subprocess.run(
            command, check=False, env=environment, start_new_session=True, capture_output=True, text=True
        )
        assert killed.returncode == -signal.SIGKILL
        left = [Path(line) for line in killed.stdout.splitlines()]
        assert all(path.exists() for path in left)
        assert len(left) == 4
        assert any(path.name.startswith("pymp-") for path in temporary_place.iterdir())
        open_run(run)
        assert list_names(run) == before
        assert not list_names(temporary_place)
        assert living.exists()


def test_another_host_has_a_day(tmp_path, monkeypatch):
    monkeypatch.setattr(temporary_files, "_identify_host", lambda: "0" * 8)
    path = name_temporary(tmp_path / "a.nii.gz")
    path.touch()
    monkeypatch.undo()
    remove_leftovers(tmp_path)
    assert list_names(tmp_path) == [path.name]
    os.utime(path, (0, 0))
    remove_leftovers(tmp_path)
    assert not list_names(tmp_path)


def test_hidden_files_of_other_programs_stay_however_old_they_are(tmp_path):
    cache, notes = tmp_path / f".cache-{'0123456789abcdef' * 2}", tmp_path / ".notes-0123456789abcdef.txt"
    cache.mkdir()
    (cache / "thesis.txt").write_text("years of work")
    notes.touch()
    for path in (cache / "thesis.txt", cache, notes):
        os.utime(path, (0, 0))
    before = list_names(tmp_path)
    write_text(tmp_path / "b.txt", "x")
    remove_leftovers(tmp_path)
    assert list_names(tmp_path) == sorted([*before, "b.txt"])


def test_files_of_earlier_versions_go_where_nobody_else_writes(tmp_path):
    (tmp_path / ".a-0123456789abcdef.safetensors").touch()
    folder = tmp_path / ".folder-0123456789abcdef"
    folder.mkdir()
    remove_leftovers(tmp_path, is_exclusive=True)
    assert list_names(tmp_path) == [folder.name]


def test_a_folder_of_another_host_is_as_old_as_the_newest_file_in_it(tmp_path):
    folder = tmp_path / f".model-autoseg-{'0' * 32}"
    write_text(folder / "fold_0" / "x", "x")
    os.utime(folder, (0, 0))
    remove_leftovers(tmp_path)
    assert folder.exists()


def test_where_nobody_else_writes_all_temporary_files_are_leftovers(tmp_path):
    path = name_temporary(tmp_path / "a.safetensors")
    path.touch()
    remove_leftovers(tmp_path)
    assert path.exists()
    remove_leftovers(tmp_path, is_exclusive=True)
    assert not path.exists()


def test_a_later_process_of_the_same_number_is_another_one(tmp_path):
    path = name_temporary(tmp_path / "a.txt")
    dead = make_dead(path)
    for written in (path, dead):
        written.touch()
    remove_leftovers(tmp_path)
    assert list_names(tmp_path) == [path.name]


def test_a_process_that_nobody_has_waited_for_is_dead(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    token = f"{temporary_files._identify_host()}{child.pid:08x}{temporary_files._read_start(child.pid):08x}{'0' * 8}"
    (tmp_path / f".a-autoseg-{token}").touch()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    remove_leftovers(tmp_path)
    assert not list_names(tmp_path)
    child.wait()


def test_the_first_writing_into_a_folder_removes_what_lies_there(tmp_path):
    path = make_dead(name_temporary(tmp_path / "a.txt"))
    path.touch()
    write_text(tmp_path / "b.txt", "x")
    assert list_names(tmp_path) == ["b.txt"]


def test_a_folder_that_was_being_replaced_gets_its_name_back(tmp_path):
    replaced = make_dead(name_temporary(tmp_path / "a.b", REPLACED_ENDING))
    write_text(replaced / "content", "old")
    remove_leftovers(tmp_path)
    assert list_names(tmp_path) == ["a.b", "a.b/content"]
    replaced.mkdir()
    remove_leftovers(tmp_path)
    assert list_names(tmp_path) == ["a.b", "a.b/content"]


def test_a_temporary_folder_goes_with_its_block(temporary_place):
    with make_temporary_folder() as folder:
        assert folder.parent == temporary_place
        remove_abandoned_folders.cache_clear()
        remove_leftovers(temporary_place)
        assert folder.exists()
    assert not list_names(temporary_place)


def test_folders_that_their_processes_remove_meanwhile_are_no_error(temporary_place, tmp_path, monkeypatch):
    """Many commands on one computer have the same folder of temporary files."""
    before = os.scandir

    def list_late(folder):
        if Path(folder).name.startswith("pymp-"):
            Path(folder).rmdir()
        return before(folder)

    (temporary_place / "pymp-x").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", list_late)
        remove_leftovers(tmp_path)
    assert not list_names(temporary_place)


def test_the_folder_of_multiprocessing_is_marked_once(temporary_place, monkeypatch):
    (temporary_place / "pymp-x").mkdir()
    monkeypatch.setattr(temporary_files.multiprocessing_util, "get_temp_dir", lambda: temporary_place / "pymp-x")
    for _ in range(2):
        mark_multiprocessing_folder()
    assert len(list_names(temporary_place)) == 2
