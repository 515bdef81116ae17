import os
import subprocess
import sys
import textwrap
import threading

import psutil
import pytest
import SimpleITK
import torch
from builders.cpu_readings import build_cpu_reading
from threadpoolctl import ThreadpoolController

from autoseg.runtime import cpu_threads
from autoseg.runtime.cpu_threads import (
    CpuThreads,
    LibraryThreads,
    adapt_thread_count,
    adapt_threads,
    adaptive_cpu_threads,
    compute_initial_thread_count,
)
from autoseg.runtime.cpu_time import CpuUsage


def make_use(cores, *, received=0.0, missed=0.0, unused=0.0, foreign=0.0):
    return CpuUsage(cores=cores, received=received, missed=missed, unused=unused, foreign=foreign)


@pytest.mark.parametrize(
    ("use", "threads", "chosen"),
    [
        (make_use(2, received=1.95, missed=0.05), 2, 2),  # idle but for the system itself
        (make_use(2, received=1.5, unused=0.5), 2, 2),  # threads with nothing to do: nobody misses anything
        (make_use(2, received=1.33, missed=0.67, foreign=0.67), 2, 1),  # beside one other
        (make_use(2, received=1.0, missed=1.0, foreign=1.0), 2, 1),
        (make_use(2, received=1.0, foreign=1.0), 1, 1),
        (make_use(2, received=0.67, missed=0.33, foreign=1.33), 1, 1),  # never fewer than one
        (make_use(2, received=1.0, unused=0.95), 1, 2),  # the other has ended
        (make_use(2, received=1.0, unused=0.6, foreign=0.4), 1, 1),
        (make_use(16, received=12.8, missed=3.2, foreign=3.2), 16, 13),
        (make_use(16, received=12.1, missed=0.9, foreign=3.9), 13, 12),
        (make_use(16, received=4.0, unused=11.9), 4, 16),
        (make_use(16, received=4.0, unused=5.0, foreign=7.0), 4, 9),
    ],
)
def test_threads_are_as_many_as_there_are_cores_for(use, threads, chosen):
    assert adapt_thread_count(use, threads=threads, most=use.cores) == chosen


@pytest.mark.parametrize(
    ("use", "most", "first"),
    [
        (make_use(2, received=0.9, unused=1.1), 2, 2),
        (make_use(2, received=0.9, unused=0.1, foreign=1.0), 2, 1),
        (make_use(2, received=0.6, missed=0.4, foreign=1.4), 2, 1),
        (make_use(2, received=0.1, missed=0.9, foreign=1.9), 2, 1),
        (make_use(16, received=1.0, unused=11.0, foreign=4.0), 16, 12),
        (make_use(16, received=1.0, unused=15.0), 8, 8),
    ],
)
def test_a_process_begins_with_the_cores_that_others_left_before(use, most, first):
    assert compute_initial_thread_count(use, most=most) == first


class Machine:
    """Two cores; `others` programs that never rest, and this process, which computes with all its threads."""

    def __init__(self, others=0):
        self.others, self.seconds, self.own, self.unused, self.waited = others, 0.0, 0.0, 0.0, 0.0
        self.threads = CpuThreads(
            most=2, read=self.read, since=self.read(), now=lambda: self.seconds, sleep=lambda s: self.run(s, threads=0)
        )

    def read(self):
        return build_cpu_reading(self.seconds, unused=self.unused, own=self.own, waiting={1: self.waited})

    def run(self, seconds, threads=None):
        ready = self.threads.threads if threads is None else threads
        share = min(1.0, 2 / max(1, ready + self.others))
        self.seconds += seconds
        self.own += ready * share * seconds
        self.unused += max(0, 2 - ready - self.others) * seconds
        self.waited += ready * (1 - share) * seconds

    def compute(self, seconds):
        """Passes of a tenth of a second; the numbers of threads at their ends."""
        numbers = []
        for _ in range(round(seconds * 10)):
            self.run(0.1)
            self.threads.look()
            numbers.append(self.threads.threads)
        return numbers


def test_an_idle_machine_computes_with_all_threads_throughout():
    machine = Machine()
    machine.run(1.0, threads=1)
    machine.threads.begin()
    assert set(machine.compute(30.0)) == {2}


def test_a_process_that_begins_beside_another_computes_with_one_thread_from_its_first_pass():
    machine = Machine(others=1)
    machine.run(1.0, threads=1)
    machine.threads.begin()
    assert set(machine.compute(30.0)) == {1}


def test_the_first_look_waits_where_nothing_is_known_yet_and_where_what_is_known_is_old():
    machine = Machine(others=1)
    machine.threads.begin()
    assert (machine.threads.threads, machine.seconds) == (1, cpu_threads.SHORTEST_FIRST_LOOK_SECONDS)
    machine.others = 0
    machine.run(3600.0, threads=0)
    machine.others = 1
    machine.threads.begin()
    assert machine.threads.threads == 1


def test_threads_follow_within_a_second_when_another_program_comes_and_goes():
    machine = Machine()
    machine.run(1.0, threads=1)
    machine.threads.begin()
    machine.compute(10.0)
    machine.others = 1
    assert machine.compute(1.0)[-1] == 1
    assert set(machine.compute(20.0)) == {1}
    machine.others = 0
    assert machine.compute(1.1)[-1] == 2
    assert set(machine.compute(20.0)) == {2}


def test_attempts_to_add_threads_become_rare_while_they_are_in_vain(monkeypatch):
    machine = Machine(others=1)
    machine.run(1.0, threads=1)
    machine.threads.begin()
    real = machine.run

    def run_under_a_limit_that_nobody_shows(seconds, threads=None):
        real(seconds, threads)
        machine.unused += seconds * (1.0 if machine.threads.threads == 1 else 0.0)

    monkeypatch.setattr(machine, "run", run_under_a_limit_that_nobody_shows)
    first, later = machine.compute(60.0), machine.compute(600.0)[-1200:]
    assert first.count(2) > 0
    assert later.count(2) / len(later) < 0.03


@pytest.fixture
def free_to_choose(monkeypatch):
    for name in cpu_threads.SETTINGS_OF_THE_USER:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def build_library_threads(monkeypatch, machine):
    monkeypatch.setattr(cpu_threads, "count_usable_cpus", lambda: 2)
    library = LibraryThreads()
    library._chosen = machine.threads
    return library


@pytest.mark.usefixtures("free_to_choose")
def test_libraries_get_the_number_said_once_and_afterwards_what_they_had(monkeypatch):
    machine, notes = Machine(others=1), []
    machine.run(1.0, threads=1)
    library = build_library_threads(monkeypatch, machine)
    with library.hold(notes.append, is_fixed=False):
        assert torch.get_num_threads() == 1
        with library.hold(notes.append, is_fixed=False):
            machine.others = 0
            machine.run(1.0)
            library.adapt()
            assert torch.get_num_threads() == 2
        machine.others = 1
        machine.run(1.0)
        library.adapt()
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    assert notes == [
        "other programs use 1.0 of 2 cores: computing with 1 of 2 threads, and with more or fewer as that changes"
    ]


@pytest.mark.usefixtures("free_to_choose")
def test_what_the_user_set_in_the_environment_is_respected_and_said(monkeypatch):
    machine, notes = Machine(others=2), []
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    library = build_library_threads(monkeypatch, machine)
    with library.hold(notes.append, is_fixed=False):
        machine.run(5.0)
        library.adapt()
        assert torch.get_num_threads() == 2
    assert notes == ["computing with 2 threads, as OMP_NUM_THREADS says"]


@pytest.mark.usefixtures("free_to_choose")
def test_a_number_that_was_set_in_python_is_not_exceeded(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(cpu_threads, "count_usable_cpus", lambda: 8)
    library = LibraryThreads()
    with library.hold(lambda text: None, is_fixed=False):
        assert library._chosen.most == 1


@pytest.mark.usefixtures("free_to_choose")
def test_a_number_that_must_not_change_is_kept_and_said(monkeypatch):
    machine, notes = Machine(others=2), []
    machine.run(1.0, threads=1)
    library = build_library_threads(monkeypatch, machine)
    with library.hold(notes.append, is_fixed=True):
        machine.run(5.0)
        library.adapt()
        assert torch.get_num_threads() == 2
    assert notes == ["computing with 2 threads throughout, whatever else runs"]


@pytest.mark.usefixtures("free_to_choose")
def test_every_thread_that_computes_follows_and_gets_its_own_number_back(monkeypatch):
    machine = Machine(others=1)
    machine.run(1.0, threads=1)
    library, numbers = build_library_threads(monkeypatch, machine), []
    entered, changed = threading.Event(), threading.Event()

    def compute():  # never computed before, so that PyTorch gives it the number of the moment
        with library.hold(lambda text: None, is_fixed=False):
            numbers.append(torch.get_num_threads())
            entered.set()
            changed.wait(10)
            library.adapt()
            numbers.append(torch.get_num_threads())
        numbers.append(torch.get_num_threads())

    with library.hold(lambda text: None, is_fixed=False):
        other = threading.Thread(target=compute)
        other.start()
        entered.wait(10)
        machine.others = 0
        machine.run(1.0)
        library.adapt()
        assert torch.get_num_threads() == 2
    changed.set()  # the other one goes on when this one has ended
    other.join()
    assert numbers == [1, 2, 2]


@pytest.mark.usefixtures("free_to_choose")
def test_blas_and_simpleitk_get_back_what_they_had(monkeypatch):
    machine = Machine(others=1)
    machine.run(1.0, threads=1)
    library, simpleitk = build_library_threads(monkeypatch, machine), SimpleITK.ProcessObject
    blas, before = ThreadpoolController().select(user_api="blas"), simpleitk.GetGlobalDefaultNumberOfThreads()
    simpleitk.SetGlobalDefaultNumberOfThreads(3)
    try:
        with blas.limit(limits=3):
            had = [entry["num_threads"] for entry in blas.info()]
            with library.hold(lambda text: None, is_fixed=False):
                assert simpleitk.GetGlobalDefaultNumberOfThreads() == 1
            assert simpleitk.GetGlobalDefaultNumberOfThreads() == 3
            assert [entry["num_threads"] for entry in blas.info()] == had != []
    finally:
        simpleitk.SetGlobalDefaultNumberOfThreads(before)


def test_other_devices_are_left_alone(monkeypatch):
    monkeypatch.setattr(cpu_threads, "_LIBRARY_THREADS", None)
    with adaptive_cpu_threads(torch.device("cuda")):
        pass


def test_adapting_outside_changes_nothing():
    before = torch.get_num_threads()
    adapt_threads()
    assert torch.get_num_threads() == before


BESIDE_BUSY_PROCESSES = """
    import time, torch
    from autoseg.runtime.cpu_threads import adapt_threads, adaptive_cpu_threads
    most = torch.get_num_threads()
    matrix, end = torch.ones(600, 600), time.monotonic() + 30
    with adaptive_cpu_threads(torch.device("cpu"), announce=print):
        while torch.get_num_threads() == most and time.monotonic() < end:
            matrix @ matrix
            adapt_threads()
        print(torch.get_num_threads())
    print(torch.get_num_threads(), most)
"""


@pytest.mark.slow
@pytest.mark.skipif(psutil.cpu_count() == 1, reason="one core: there is nothing to give up")
def test_a_process_beside_as_many_busy_ones_as_there_are_cores_gives_up_threads():
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(psutil.cpu_count())]
    try:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(BESIDE_BUSY_PROCESSES)],
            env={name: value for name, value in os.environ.items() if name not in cpu_threads.SETTINGS_OF_THE_USER},
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        for process in busy:
            process.kill()
            process.wait()
    note, within, outside = done.stdout.splitlines()
    afterwards, most = map(int, outside.split())
    assert note.startswith("other programs use ")
    assert int(within) < most == afterwards
