import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from builders.cpu_readings import build_cpu_reading

from autoseg.runtime import cpu_time
from autoseg.runtime.cpu_time import CpuClock, compare_readings, count_usable_cpus, list_cores, read_quota

START = build_cpu_reading(waiting={1: 5.0, 2: 7.0})


def compare(**later):
    return compare_readings(START, build_cpu_reading(1.0, **later))


def test_threads_on_an_idle_machine_miss_nothing():
    use = compare(own=1.95, unused=0.05, waiting={1: 5.0, 2: 7.01})
    assert (use.received, use.unused, use.foreign) == pytest.approx((1.95, 0.05, 0.0))
    assert use.missed == pytest.approx(0.01)


def test_what_another_program_takes_is_missing():
    use = compare(own=1.3, waiting={1: 5.3, 2: 7.4})
    assert (use.received, use.missed, use.foreign, use.unused) == pytest.approx((1.3, 0.7, 0.7, 0.0))


def test_what_the_own_children_take_is_not_missing():
    use = compare(own=1.5, children=0.5, waiting={1: 5.3, 2: 7.2})
    assert (use.missed, use.foreign) == pytest.approx((0.0, 0.0))


def test_a_single_thread_beside_another_program_misses_nothing_and_finds_no_core_to_spare():
    use = compare(own=1.0, waiting={1: 5.0, 2: 7.0})
    assert (use.missed, use.unused, use.foreign) == pytest.approx((0.0, 0.0, 1.0))


def test_cores_beyond_what_a_container_grants_are_not_to_be_had():
    earlier = build_cpu_reading(cores=2, granted=1.5, waiting={1: 0.0})
    use = compare_readings(earlier, build_cpu_reading(1.0, cores=2, granted=1.5, own=1.0, unused=1.0, waiting={1: 0.0}))
    assert use.unused == pytest.approx(0.5)


def test_threads_that_have_started_since_count_from_their_beginning_and_those_that_ended_do_not():
    use = compare(own=0.5, waiting={2: 7.1, 3: 0.2})
    assert use.missed == pytest.approx(0.3)


def test_where_the_system_does_not_tell_who_waits_what_others_take_is_missing():
    use = compare_readings(build_cpu_reading(), build_cpu_reading(1.0, own=1.2))
    assert use.missed == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("files", "own", "quota"),
    [
        ({"cpu.max": "100000 100000"}, "0::/", 1.0),
        ({"cpu.max": "50000 100000"}, "0::/elsewhere/on/the/host", 0.5),
        ({"job/cpu.max": "150000 100000", "cpu.max": "max 100000"}, "0::/job/step", 1.5),
        ({"job/cpu.max": "300000 100000", "job/step/cpu.max": "max 100000"}, "0::/job/step", 3.0),
        (
            {"cpu,cpuacct/c/cpu.cfs_quota_us": "200000", "cpu,cpuacct/c/cpu.cfs_period_us": "100000"},
            "4:cpu,cpuacct:/c",
            2,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/", None),
        ({"unified/c/cpu.max": "70000 100000"}, "0::/c", 0.7),
        ({"memory/cpu.max": "70000 100000"}, "5:memory:/", None),
        ({"cpu.max": "max 100000"}, "0::/", None),
        ({"cpu.max": ""}, "0::/", None),
        ({}, "0::/", None),
        ({}, None, None),
    ],
)
def test_the_smallest_quota_of_the_groups_around_a_process_holds(tmp_path, files, own, quota):
    groups, listing = tmp_path / "cgroup", tmp_path / "own"
    for name, content in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(content)
    if own is not None:
        listing.write_text(own + "\n")
    assert read_quota(groups, listing) == quota


@pytest.mark.parametrize(("quota", "cores"), [(1.0, 1), (0.5, 1), (1.5, 2), (None, 8), (12.0, 8)])
def test_a_container_s_share_of_the_cpu_limits_the_cores(monkeypatch, quota, cores):
    monkeypatch.setattr(cpu_time, "list_cores", lambda: list(range(8)))
    monkeypatch.setattr(cpu_time, "read_quota", lambda: quota)
    assert count_usable_cpus() == cores


def test_the_clock_counts_what_this_process_computes():
    clock = CpuClock()
    earlier = clock.read()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    use = compare_readings(earlier, clock.read())
    assert 0 < use.received <= len(list_cores()) + 0.1
    assert 0 <= use.missed <= use.cores
    assert 0 <= use.unused <= use.cores


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="only Linux tells who waits")
def test_the_clock_sees_threads_wait_and_says_so_where_the_system_does_not_tell(monkeypatch, tmp_path):
    assert os.getpid() in (CpuClock().read().waiting_seconds or {})
    monkeypatch.setattr(cpu_time, "THREADS_OF_THIS_PROCESS", tmp_path / "absent")
    assert CpuClock().read().waiting_seconds is None


WORKER_THAT_ENDS_BESIDE_ITS_PARENT = r"""
import subprocess, sys, time
burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
subprocess.run([sys.executable, "-c", burn], check=True)
print("ended", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what the ended children of a child took")
def test_what_ended_workers_of_a_child_took_still_counts():
    command = [sys.executable, "-c", WORKER_THAT_ENDS_BESIDE_ITS_PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        clock = CpuClock()
        earlier = clock.read()
        assert child.stdout is not None
        child.stdout.readline()
        later = clock.read()
        child.communicate()
    assert later.children_seconds - earlier.children_seconds > 0.29


def make_core(**seconds):
    return SimpleNamespace(**{"idle": 0.0, "iowait": 0.0, "nice": 0.0} | seconds)


@pytest.mark.parametrize(
    ("cores", "unused"),
    [((0, 1), 3.0), ((2,), 4.0), ((0, 2, 4), 7.0), ((40, 41), 7.0)],  # some are off; a container's own numbers
)
def test_unused_time_is_that_of_the_cores_which_may_be_used(monkeypatch, cores, unused):
    monkeypatch.setattr(cpu_time.psutil, "cpu_times", lambda percpu: [make_core(idle=2.0**core) for core in range(3)])
    assert cpu_time._read_unused_seconds(cores) == unused


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="no priorities as Unix has them")
@pytest.mark.parametrize(("priority", "unused"), [(0, 5.0), (-5, 5.0), (10, 2.0)])
def test_what_programs_of_low_priority_take_is_unused_unless_this_is_one_of_them(monkeypatch, priority, unused):
    monkeypatch.setattr(cpu_time.psutil, "cpu_times", lambda percpu: [make_core(idle=2.0, nice=3.0)])
    monkeypatch.setattr(cpu_time.os, "getpriority", lambda which, who: priority)
    assert cpu_time._read_unused_seconds((0,)) == unused
