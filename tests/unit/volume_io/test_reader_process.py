"""A library that crashes on a file, or never comes back, ends its child process and not the program."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import psutil
import pytest
import SimpleITK

from autoseg.errors import VolumeError
from autoseg.volume_io import read_grid, read_image
from autoseg.volume_io.formats import reader_process

PARENT = """
import sys
from pathlib import Path
from autoseg.volume_io.formats import reader_process

HANGING = '''
import sys, time, types
hanging = types.ModuleType("hanging")
hanging.read_grid = lambda path: [path.touch(), time.sleep(100)]
sys.modules["hanging"] = hanging
'''

reader_process.PROGRAM = HANGING + reader_process.PROGRAM
request = {"module": "hanging", "path": sys.argv[1].encode().hex(), "wanted": "grid"}
reader_process.CHILD.call(Path(sys.argv[0]), request)
"""
WARNING = """
import logging, sys, types
import numpy as np
warning = types.ModuleType("warning")

def read_grid(path):
    logging.getLogger("autoseg.a").warning("%s: %d, %g, %s", path, np.int64(3), np.float32(0.5), np.str_("text"))
    raise OSError("done")

warning.read_grid = read_grid
sys.modules["warning"] = warning
"""
VOXELS = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


@pytest.fixture
def path(tmp_path):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOXELS), str(tmp_path / "a.h5"))
    return tmp_path / "a.h5"


@pytest.fixture
def program(monkeypatch):
    """Replaces the program of the child."""

    def replace(text):
        reader_process.CHILD.stop()
        monkeypatch.setattr(reader_process, "PROGRAM", text)

    yield replace
    reader_process.CHILD.stop()


def test_relative_paths_are_those_of_the_present_working_folder(path, monkeypatch, tmp_path):
    assert read_grid(path).shape_voxels == VOXELS.shape  # the child begins in another folder
    monkeypatch.chdir(tmp_path)
    assert read_grid(type(path)("a.h5")).shape_voxels == VOXELS.shape


def test_a_crash_is_an_error_that_names_the_file_and_the_next_file_is_read(path, program, monkeypatch):
    with monkeypatch.context():
        program("import os; os.abort()")
        with pytest.raises(VolumeError, match=r"a\.h5 cannot be read: it crashes its library \(SIGABRT\)"):
            read_image([path])
    monkeypatch.undo()
    np.testing.assert_array_equal(read_image([path]).array[0], VOXELS)


def test_a_crash_in_the_middle_of_the_voxels_is_an_error_too(path, program):
    program(
        "import sys, os, json; message = json.dumps({'warnings': [], 'shape': [9, 9], 'dtype': '<i2'}).encode(); "
        "sys.stdout.buffer.write(len(message).to_bytes(8, 'little') + message + b'12'); sys.stdout.flush(); "
        "os.kill(os.getpid(), 11)"
    )
    with pytest.raises(VolumeError, match=r"a\.h5 cannot be read: it crashes its library \(SIGSEGV\)"):
        read_image([path])


def test_a_file_that_takes_too_long_is_given_up(path, program, monkeypatch):
    program("import time; time.sleep(60)")
    monkeypatch.setattr(reader_process, "LEAST_SECONDS", 0.2)
    with pytest.raises(VolumeError, match=r"a\.h5 cannot be read: it takes more than 0 s"):
        read_grid(path)


def test_one_child_serves_all_files_and_is_replaced_if_it_was_killed(path):
    read_grid(path)
    first = reader_process.CHILD.pid
    read_grid(path)
    assert reader_process.CHILD.pid == first
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    np.testing.assert_array_equal(read_image([path]).array[0], VOXELS)
    assert reader_process.CHILD.pid != first


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_child_that_hangs_in_a_file_ends_when_its_parent_is_killed(tmp_path):
    script, started = tmp_path / "parent.py", tmp_path / "started"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script), str(started)])
    while not started.exists():
        assert parent.poll() is None
        threading.Event().wait(0.05)
    (child,) = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait(10)
    _, alive = psutil.wait_procs([child], timeout=10)
    assert alive == []


def test_numbers_of_numpy_in_warnings_stay_numbers(path, program, caplog):
    program(WARNING + reader_process.PROGRAM)
    request = {"module": "warning", "path": os.fsencode(path).hex(), "wanted": "grid"}
    with pytest.raises(RuntimeError, match="done"):
        reader_process.CHILD.call(path, request)
    assert [record.getMessage() for record in caplog.records] == [f"{path}: 3, 0.5, text"]


@pytest.mark.parametrize(
    "failing",
    [(subprocess, "Popen", BlockingIOError(11, "Resource temporarily unavailable")),
     (threading.Timer, "start", RuntimeError("can't start new thread"))],
)  # fmt: skip
def test_a_child_that_cannot_be_started_is_not_blamed_on_the_file(path, monkeypatch, failing):
    owner, name, error = failing

    def fail(*arguments, **options):
        raise error

    reader_process.CHILD.stop()
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(VolumeError) as caught:
            read_grid(path)
    assert f"cannot be started ({error}); the file is not the reason" in str(caught.value)
    assert "damaged" not in str(caught.value)
    np.testing.assert_array_equal(read_image([path]).array[0], VOXELS)
