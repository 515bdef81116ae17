import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import torch
from torch.utils.data import Dataset

from autoseg.processes.parent_watch import WATCHES_INPUT, stop_with_parent
from autoseg.training.data.batches import stream_batches
from autoseg.training.data.randomness import BatchKey

PARENT = """
import sys, time
from pathlib import Path
from autoseg.processes.case_pool import run_over_cases
from autoseg.processes.child_process import start_child
from autoseg.processes.progress import SilentProgress

CHILD = '''
import sys, time
from pathlib import Path
from autoseg.processes.parent_watch import stop_with_parent
from autoseg.processes.signals import StopRequest
stop_with_parent()
try:
    with StopRequest().handle_signals():
        assert sys.stdin.read() == ""
        Path(sys.argv[1]).touch()
        time.sleep(100)
finally:
    print("saved", flush=True)
'''

def work(job):
    job.touch()
    time.sleep(100)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    child = start_child([sys.executable, "-c", CHILD, str(folder / "child")], log=folder / "log", environment={})
    run_over_cases(work, [(name, folder / name) for name in "ab"], workers=2, label="", progress=SilentProgress())
"""


def wait_for(files: list[Path], process: subprocess.Popen[bytes]) -> None:
    while not all(path.exists() for path in files):
        assert process.poll() is None
        threading.Event().wait(0.05)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_when_a_process_is_killed_none_of_its_processes_is_left_and_a_training_saves(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], start_new_session=True)
    wait_for([tmp_path / name for name in ("a", "b", "child")], parent)
    processes = psutil.Process(parent.pid).children(recursive=True)
    assert len(processes) == (5 if sys.platform == "linux" else 4)  # child, workers, their tracker and fork server
    parent.kill()
    parent.wait(10)
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []
    assert (tmp_path / "log").read_text().startswith("saved")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_worker_whose_parent_died_before_it_watches_ends_too(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from autoseg.processes.fork_server import prepare_worker_context\n"
        "from autoseg.processes.parent_watch import exit_with_parent\n"
        "def work(folder):\n"
        "    (folder / 'late').write_text(str(os.getpid()))\n"
        "    while not (folder / 'go').exists():\n"
        "        time.sleep(0.05)\n"
        "    exit_with_parent()\n"
        "    time.sleep(100)\n"
        "if __name__ == '__main__':\n"
        "    process = prepare_worker_context().Process(target=work, args=(Path(sys.argv[1]),))\n"
        "    process.start()\n"
        "    process.join()\n"
    )
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    wait_for([tmp_path / "late"], parent)
    processes = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait(10)
    (tmp_path / "go").touch()
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []


def test_a_command_that_was_not_started_by_autoseg_keeps_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WATCHES_INPUT, raising=False)
    threads = threading.active_count()
    stop_with_parent()
    assert threading.active_count() == threads


KEY = BatchKey(stream="training", epoch=0, iteration=0)


class ThreadNames(Dataset):
    def __getitem__(self, key: BatchKey) -> list[str]:
        return [thread.name for thread in threading.enumerate()]


def test_workers_that_prepare_patches_watch_their_parent() -> None:
    (names,) = stream_batches(ThreadNames(), [KEY], workers=1, device=torch.device("cpu"))
    assert "parent watch" in names
