import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from autoseg.processes.fork_server import START_METHOD, defer_interruptions

SCRIPT = """
import signal
from autoseg.processes.fork_server import prepare_worker_context

def show(connection):
    connection.send(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)

if __name__ == "__main__":
    before = signal.getsignal(signal.SIGINT)
    context = prepare_worker_context(["json"])
    assert signal.getsignal(signal.SIGINT) == before
    mine, its = context.Pipe()
    context.Process(target=show, args=(its,)).start()
    print(mine.recv())
"""


# A test may run where Ctrl-C is ignored, as in the background of a shell, which programs inherit.
AS_USUAL = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"
)


# Interrupted while the fork server still loads, when workers are asked for and none can be there.
INTERRUPTED = """
import os, signal, threading
from autoseg.processes.fork_server import prepare_worker_context

{use}

if __name__ == "__main__":
    prepare_worker_context(["loads_slowly"])
    timer = threading.Timer(1, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    try:
        use()
    except KeyboardInterrupt:
        print("interrupted")
"""
LOADER = """
import torch
from autoseg.training.data.batches import stream_batches

def use():
    next(stream_batches([1, 2, 3], [0, 1, 2], workers=1, device=torch.device("cpu")))
"""
POOL = """
from autoseg.processes.progress import SilentProgress
from autoseg.processes.case_pool import run_over_cases

def use():
    run_over_cases(str, [("a", 1), ("b", 2)], workers=2, label="", progress=SilentProgress())
"""


def run_script(script: Path, text: str) -> "subprocess.CompletedProcess[str]":
    script.write_text(text)
    command = [sys.executable, "-c", AS_USUAL, sys.executable, str(script)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(script.parent), *sys.path])}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


@pytest.mark.skipif(START_METHOD != "forkserver", reason="this system has no fork server")
def test_workers_ignore_ctrl_c_and_the_main_process_does_not(tmp_path):
    done = run_script(tmp_path / "script.py", SCRIPT)
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.skipif(START_METHOD != "forkserver", reason="this system has no fork server")
@pytest.mark.parametrize("use", [LOADER, POOL], ids=["loader", "pool"])
def test_an_interruption_while_workers_are_started_leaves_no_traceback(tmp_path, use):
    (tmp_path / "loads_slowly.py").write_text("import time; time.sleep(4)")
    done = run_script(tmp_path / "script.py", INTERRUPTED.format(use=use))
    assert (done.stdout, "Traceback" in done.stderr) == ("interrupted\n", False), done.stderr


@pytest.fixture
def answered_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("answered_ctrl_c")
def test_requests_to_end_wait_until_workers_have_started():
    passed = []

    def start_workers() -> None:
        with defer_interruptions():
            signal.raise_signal(signal.SIGINT)
            passed.append("held")
        passed.append("went on")

    with pytest.raises(KeyboardInterrupt):
        start_workers()
    assert passed == ["held"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_outside_the_main_thread_nothing_is_held():
    handlers = []

    def hold() -> None:
        with defer_interruptions():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]
