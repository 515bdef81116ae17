import errno
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from autoseg.errors import DatasetError, Problem, WorkerError
from autoseg.processes import case_pool
from autoseg.processes.case_pool import (
    CaseSize,
    Failure,
    PoolOutcome,
    build_failure,
    compute_worker_count,
    find_largest,
    list_problems,
    run_over_cases,
    write_failure_log,
)
from autoseg.processes.progress import SilentProgress
from autoseg.processes.signals import StopRequest, StopSignal
from autoseg.run_folder import write_atomically

SIZES = {name: CaseSize(voxels=25_000_000, estimated_bytes=3 * 2**30) for name in ("a", "b", "c")}


def work(job: tuple[str, Path]) -> str:
    """Kills its process when it finds a file for it, and uses the file up."""
    name, folder = job
    if name == "wrong":
        raise DatasetError(name, [Problem(text="has no label map")])
    if name == "defect":
        raise ZeroDivisionError(name)
    for deadly in sorted(folder.glob(f"{name}.*")):
        deadly.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return name.upper()


def run(names: str, folder: Path, *, workers: int = 2) -> PoolOutcome[str]:
    jobs = [(name, (name, folder)) for name in names.split()]
    return run_over_cases(work, jobs, workers=workers, label="Working", progress=SilentProgress(), sizes=SIZES)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_jobs_and_failures_by_name(tmp_path: Path, workers: int) -> None:
    outcome = run("a wrong b defect c", tmp_path, workers=workers)

    assert outcome.results == ("A", "B", "C")
    assert [failure.case for failure in outcome.failures] == ["wrong", "defect"]
    assert list_problems(outcome.failures) == (
        Problem(text="has no label map", cases=("wrong",)),
        Problem(text="unexpected ZeroDivisionError: defect", cases=("defect",)),
    )
    log = tmp_path / "logs" / "log.txt"
    (line,) = write_failure_log(log, outcome.failures)
    assert line.text == f"tracebacks of unexpected errors are in {log}"
    assert "raise ZeroDivisionError" in log.read_text()
    assert write_failure_log(tmp_path / "none.txt", outcome.failures[:1]) == ()
    (tmp_path / "file").touch()
    (line,) = write_failure_log(tmp_path / "file" / "log.txt", outcome.failures)
    assert "cannot be written" in line.text


def test_the_case_of_a_killed_worker_is_tried_again_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "b.1").touch()

    outcome = run("a b c", tmp_path)

    assert outcome.results == ("A", "B", "C")
    assert outcome.failures == ()
    assert "b (25 million voxels, about 3 GiB of memory) is tried again alone" in caplog.text


def test_a_case_that_kills_its_worker_twice_is_named_with_its_size_and_the_others_are_finished(tmp_path: Path) -> None:
    (tmp_path / "b.1").touch()
    (tmp_path / "b.2").touch()

    outcome = run("a b c", tmp_path)

    assert outcome.results == ("A", "C")
    (problem,) = list_problems(outcome.failures)
    line = problem.describe()
    assert line.startswith("case b: the worker process was killed twice")
    assert "25 million voxels, about 3 GiB" in line
    assert "too little memory" in line


def test_a_pool_knows_few_cases_at_a_time_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[int] = []
    wait = case_pool.wait

    def count_and_wait(futures, **options):
        known.append(len(futures))
        return wait(futures, **options)

    monkeypatch.setattr(case_pool, "wait", count_and_wait)
    names = [f"c{index}" for index in range(60)]
    assert run(" ".join(names), tmp_path).results == tuple(name.upper() for name in names)
    assert max(known) == 2 * case_pool.CASES_PER_WORKER


def test_of_many_cases_only_those_that_a_broken_pool_had_begun_are_tried_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c1.1").touch()
    monkeypatch.setattr(case_pool, "CASES_PER_WORKER", 1)
    pools, open_pool = [], case_pool._open_pool

    def count_and_open(workers: int, work: Callable[..., object]) -> ProcessPoolExecutor:
        pools.append(workers)
        return open_pool(workers, work)

    monkeypatch.setattr(case_pool, "_open_pool", count_and_open)
    names = [f"c{index}" for index in range(40)]
    assert run(" ".join(names), tmp_path).results == tuple(name.upper() for name in names)
    assert pools[0] == 2
    assert (
        len(pools) <= 3 + 3
    )  # two that were running, one that the pool refused; the check that workers start, the rest


LOADING = """
import sys
from functools import partial
from autoseg.processes.progress import SilentProgress
from autoseg.processes.case_pool import run_over_cases

def find_loaded(job, names):
    return [name in sys.modules for name in names]

if __name__ == "__main__":
    names = ["scipy.ndimage", "cc3d"]
    work = partial(find_loaded, names=names)
    pools = [run_over_cases(work, [("a", 0)], workers=2, label="", progress=SilentProgress()) for _ in range(2)]
    print([pool.results for pool in pools], [name in sys.modules for name in names])
"""


def test_what_cases_need_is_loaded_once_for_the_workers_of_all_pools(tmp_path: Path) -> None:
    """And not by the main process, which works on none."""
    script = tmp_path / "script.py"
    script.write_text(LOADING)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split("\n")[0] == "[([True, True],), ([True, True],)] [False, False]"


UNGUARDED = """
from autoseg.errors import Problem
from autoseg.processes.progress import SilentProgress
from autoseg.processes.case_pool import run_over_cases

jobs = [(name, name) for name in "abc"]
run_over_cases(str.upper, jobs, workers=2, label="Working", progress=SilentProgress())
"""


def test_a_script_without_a_guard_is_told_so_and_not_that_memory_is_short(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "WorkerError: worker processes end as soon as they are started" in last
    assert "below `if __name__ == '__main__':`" in last


def test_workers_are_as_many_as_cores_cases_and_the_memory_for_the_largest_case_allow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("autoseg.processes.case_pool.count_usable_cpus", lambda: 16)
    largest = find_largest([CaseSize(voxels=1, estimated_bytes=2**10), CaseSize(voxels=2, estimated_bytes=2**50)])

    assert largest == 2**50
    assert find_largest([]) == 0
    assert compute_worker_count(requested=None, case_count=3, bytes_per_case=0) == 3
    assert compute_worker_count(requested=None, case_count=100, bytes_per_case=0) == 16
    assert compute_worker_count(requested=None, case_count=100, bytes_per_case=largest) == 1
    assert compute_worker_count(requested=5, case_count=100, bytes_per_case=largest) == 5


def test_workers_fit_into_the_memory_that_a_container_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg.processes.case_pool.count_usable_cpus", lambda: 16)
    monkeypatch.setattr("autoseg.processes.case_pool.find_free_ram", lambda: 4 * 2**30)
    assert compute_worker_count(requested=None, case_count=100, bytes_per_case=2**30) == 2


def take_a_while(job: Path) -> None:
    time.sleep(0.2)
    job.touch()


def test_a_pool_that_is_interrupted_starts_no_further_case(tmp_path: Path) -> None:
    class Impatient(SilentProgress):
        def track(self, items, *, label, total, unit):
            yield next(iter(items))
            raise KeyboardInterrupt

    jobs = [(f"c{index}", tmp_path / f"c{index}") for index in range(30)]
    with pytest.raises(KeyboardInterrupt):
        run_over_cases(take_a_while, jobs, workers=2, label="Working", progress=Impatient())
    assert 1 <= len(list(tmp_path.iterdir())) <= 10


def make_failures(count: int) -> list[Failure]:
    names = [f"c{index}" for index in range(count)]
    return [Failure(case=name, problems=(Problem(text=f"{name}.nii is cut off", cases=(name,)),)) for name in names]


def test_cases_that_a_message_does_not_name_are_all_in_the_log(tmp_path: Path) -> None:
    assert write_failure_log(tmp_path / "log.txt", make_failures(3)) == ()
    assert write_failure_log(tmp_path / "log.txt", make_failures(5), lists_cases=False) == ()
    (line,) = write_failure_log(tmp_path / "log.txt", make_failures(5))
    assert line.text == f"all cases and their problems are in {tmp_path / 'log.txt'}"
    assert [line for line in (tmp_path / "log.txt").read_text().splitlines() if line] == [
        f"case c{index}: c{index}.nii is cut off" for index in range(5)
    ]
    (tmp_path / "file").touch()
    (line,) = write_failure_log(tmp_path / "file" / "log.txt", make_failures(5))
    assert "they are: c0, c1, c2, c3, c4" in line.text


def write_until_ended(job: Path) -> None:
    """Works with a temporary file until a signal comes."""
    with write_atomically(job):
        job.with_suffix(".begun").touch()
        while not job.with_suffix(".over").exists():
            time.sleep(0.02)


class Terminated(SilentProgress):
    """Gets SIGTERM as soon as both workers work."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def track(self, items, *, label, total, unit):
        thread = threading.Thread(target=self.wait_and_terminate)
        thread.start()
        yield from items

    def wait_and_terminate(self) -> None:
        while len(list(self.folder.glob("*.begun"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process instead")
def test_a_pool_that_is_terminated_ends_at_once_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    jobs = [(name, tmp_path / name) for name in "abc"]
    with pytest.raises(StopSignal), StopRequest().handle_signals(["SIGTERM"]):
        run_over_cases(write_until_ended, jobs, workers=2, label="", progress=Terminated(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.begun", "b.begun"]


def test_a_worker_that_dies_unnoticed_breaks_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that is killed while it sends a result, for the rest of which the pool waits."""
    monkeypatch.setattr(case_pool, "SECONDS_BETWEEN_LOOKS", 0.1)
    with case_pool._open_pool(2, os.getpid) as pool:
        pool.submit(os.getpid).result()
        pool._result_queue._writer._send(struct.pack("!i", 1000))  # the length of a result that does not come
        future = pool.submit(time.sleep, 100)
        os.kill(next(iter(pool._processes)), signal.SIGKILL)
        (finished,) = case_pool._iterate_finished([future], pool, iter(()))
        assert isinstance(finished.exception(), BrokenProcessPool)


class OutOfMemoryError(RuntimeError):
    """Has the name of torch's error; workers, which import this module, need not load torch."""


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 54 TiB"), OutOfMemoryError("54 TiB")])
def test_a_case_without_memory_is_named_without_a_traceback(error: Exception) -> None:
    failure = build_failure("a", error)
    assert failure.traceback is None
    assert failure.describe()[0].startswith("case a: too little memory (")
    assert "54 TiB" in failure.describe()[0]


def test_cases_are_worked_on_here_where_no_worker_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(workers: int, work: Callable[..., object]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(case_pool, "_open_pool", refuse)
    assert run("a b c", tmp_path).results == ("A", "B", "C")
    assert "No space left on device" in caplog.text
    assert "/dev/shm" in caplog.text


def test_cases_are_worked_on_here_where_only_some_workers_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started: list[BaseProcess] = []
    start = BaseProcess.start

    def start_once(process: BaseProcess) -> None:
        if started:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        start(process)
        started.append(process)

    monkeypatch.setattr(BaseProcess, "start", start_once)
    assert run("a b c", tmp_path, workers=3).results == ("A", "B", "C")
    assert "Resource temporarily unavailable" in caplog.text
    assert not started[0].is_alive()


def refuse_single_workers(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    pools, open_pool = [], case_pool._open_pool

    def open_or_refuse(workers: int, work: Callable[..., object]) -> ProcessPoolExecutor:
        pools.append(workers)
        if pools.count(1) > after:
            raise OSError(errno.EMFILE, "Too many open files")
        return open_pool(workers, work)

    monkeypatch.setattr(case_pool, "_open_pool", open_or_refuse)


def test_a_case_that_cannot_be_tried_again_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b.1").touch()
    refuse_single_workers(monkeypatch, after=1)
    outcome = run("b", tmp_path)
    (failure,) = outcome.failures
    assert failure.describe()[0].startswith("case b: its worker process was killed, and no further one can be started")
    assert failure.traceback is None


def test_where_workers_ended_and_no_further_one_can_be_started_the_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b.1").touch()
    refuse_single_workers(monkeypatch, after=0)
    with pytest.raises(WorkerError, match=r"no further one can be started .*Too many open files"):
        run("b", tmp_path)
