import subprocess
import sys

import pytest

from autoseg.fork_server import START_METHOD

SCRIPT = """
import signal
from autoseg.fork_server import prepare_workers

def show(connection):
    connection.send(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)

if __name__ == "__main__":
    before = signal.getsignal(signal.SIGINT)
    context = prepare_workers(["json"])
    assert signal.getsignal(signal.SIGINT) == before
    mine, its = context.Pipe()
    context.Process(target=show, args=(its,)).start()
    print(mine.recv())
"""


# A test may run where Ctrl-C is ignored, as in the background of a shell, which programs inherit.
AS_USUAL = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"
)


@pytest.mark.skipif(START_METHOD != "forkserver", reason="this system has no fork server")
def test_workers_ignore_ctrl_c_and_the_main_process_does_not(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-c", AS_USUAL, sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")
