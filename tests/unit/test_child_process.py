"""Reasons of failures, as they are found in the logs of commands."""

import pytest

from autoseg.errors import RunError
from autoseg.processes.child_process import find_reason, start_child
from autoseg.run_folder import make_folder

END_OF_TORCHRUN = """\
Traceback (most recent call last):
  File "torch/distributed/run.py", line 1032, in <module>
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
autoseg FAILED
------------------------------------------------------------
  exitcode  : {code} (pid: 5022)
  traceback : {told}
============================================================
"""
FAILED = END_OF_TORCHRUN.format(code=1, told="To enable traceback see: https://pytorch.org")
ERROR = "autoseg: error: 2 cases failed:\n  case a: damaged\n  case b: damaged\n"


@pytest.mark.parametrize(
    "following",
    [
        "",
        "W1127 22:44:02.960000 4698 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 4859\n",
        "[rank1]: Traceback (most recent call last):\n",
        "[rank0]:[W1127 22:44:02 ProcessGroup.cpp:1] Warning: destroy_process_group() was not called\n",
        "/lib/multiprocessing/resource_tracker.py:254: UserWarning: leaked semaphores\n  warnings.warn(\n",
    ],
)
def test_the_reason_ends_where_lines_of_torchrun_begin(tmp_path, following):
    log = tmp_path / "log"
    log.write_text(f"epoch 1\n{ERROR}{following}{FAILED}")
    assert find_reason(log) == "2 cases failed:\n  case a: damaged\n  case b: damaged"


def test_a_process_of_torchrun_that_was_killed_is_the_reason(tmp_path):
    log = tmp_path / "log"
    killed = END_OF_TORCHRUN.format(code=-9, told="Signal 9 (SIGKILL) received by PID 5022")
    log.write_text(f"autoseg: error: a process of the group does not answer\n{killed}")
    assert find_reason(log) == "the process was killed (SIGKILL), often for lack of RAM"
    ended = END_OF_TORCHRUN.format(code=-15, told="Signal 15 (SIGTERM) received by PID 5021")  # by torchrun itself
    log.write_text(f"{ERROR}{ended}")
    assert find_reason(log).startswith("2 cases failed")


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(RunError, match=r"cannot write .*log: Is a directory; free space"):
        start_child(["true"], log=make_folder(tmp_path / "log"), environment={})
