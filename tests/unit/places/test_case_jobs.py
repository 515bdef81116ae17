"""Cases in jobs of Slurm: the jobs themselves run in this process, and what Slurm says of them is prepared."""

import os
import shutil
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from builders.fake_slurm import prepend_to_path, write_fake_slurm

from autoseg.errors import OptionError, PlanError, WorkerError
from autoseg.files.temporary_files import ABANDONED_SECONDS
from autoseg.places import open_place
from autoseg.places.case_worker import describe_caller, run_case
from autoseg.places.place import Resources, TaskState
from autoseg.places.slurm import case_jobs
from autoseg.places.slurm import place as slurm_place
from autoseg.places.slurm.case_jobs import CaseWork, build_tasks, iterate_cases, open_case_folder, run_command, run_part
from autoseg.places.slurm.jobs import read_jobs
from autoseg.processes.case_pool import CaseSize, Failure, gather_outcome
from autoseg.processes.progress import SilentProgress
from autoseg.remote.cache_folder import find_cache

NAMES = ("a", "b", "c", "d", "e")
FINISHED = TaskState(phase="finished")


@pytest.fixture(autouse=True)
def slurm(tmp_path, monkeypatch):
    fake = write_fake_slurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", prepend_to_path(fake.folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(slurm_place, "SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(case_jobs, "SECONDS_BETWEEN_LOOKS", 0.01)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    return fake


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "x.autoseg"
    folder.mkdir()
    return folder


def count_letters(text: str, *, log: Path | None = None) -> int:
    """The work: fails for some cases."""
    if log is not None:
        with log.open("a") as lines:
            lines.write(f"{text}\n")
    if text == "refused":
        msg = "this case cannot be read; correct it"
        raise PlanError(msg)
    return len(text)


@pytest.fixture
def given(root):
    with describe_caller(root) as caller:
        jobs = tuple(zip(NAMES, ("", "x", "refused", "xxx", "xxxx"), strict=True))
        yield CaseWork(work=count_letters, jobs=jobs, caller=caller, runs_networks=True, sizes={})


def gather(folder, given, steps, tasks):
    return gather_outcome(iterate_cases(folder, given, tasks, steps))


def test_the_jobs_divide_the_cases_and_results_arrive_in_their_order(root, given):
    with open_case_folder(root) as folder:
        tasks = build_tasks(folder, given, label="Measuring", count=2)
        seen = []

        def run_jobs():
            for part in (1, 0):
                run_part(folder, part, 2)
                seen.append({path.stem for path in folder.glob("*.result")})
                yield {task.name: FINISHED for task in tasks}

        outcome = gather(folder, given, run_jobs(), tasks)
    assert seen == [{"1", "3"}, {"0", "1", "2", "3", "4"}]
    assert outcome.results == (0, 1, 3, 4)
    assert [failure.describe() for failure in outcome.failures] == [("case c: this case cannot be read; correct it",)]
    assert not folder.exists()
    assert [task.name for task in tasks] == ["Measuring, part 1 of 2", "Measuring, part 2 of 2"]


def test_a_job_that_is_queued_again_goes_on_where_it_was(root, given, tmp_path):
    log = tmp_path / "log"
    again = CaseWork(
        work=partial(count_letters, log=log), jobs=given.jobs, caller=given.caller, runs_networks=True, sizes={}
    )
    with open_case_folder(root) as folder:
        build_tasks(folder, again, label="Measuring", count=1)
        run_part(folder, 0, 1)
        (folder / "3.result").unlink()
        run_part(folder, 0, 1)
    assert log.read_text().splitlines() == ["", "x", "refused", "xxx", "xxxx", "xxx"]


def remove_folder_at(text: str, *, log: Path, folder: Path) -> None:
    """The work: while it does the second case, the command ends and removes its folder."""
    with log.open("a") as lines:
        lines.write(f"{text}\n")
    if text == "x":
        shutil.rmtree(folder)


def test_a_job_whose_command_has_ended_begins_no_further_case(root, given, tmp_path):
    log = tmp_path / "log"
    with open_case_folder(root) as folder:
        build_tasks(folder, replace(given, work=partial(remove_folder_at, log=log, folder=folder)), label="M", count=1)
        with pytest.raises(WorkerError, match="the command that has submitted this job has ended"):
            run_part(folder, 0, 1)
        assert log.read_text().splitlines() == ["", "x"]
        assert not folder.exists()


def test_a_slurm_that_stays_away_ends_the_command_with_its_reason(given, slurm, monkeypatch, caplog):
    root = given.caller.mark.parent
    monkeypatch.setattr(slurm_place, "PAUSES_SECONDS", ())
    slurm.show_queue("1|PENDING||Priority")
    with open_place("slurm", root) as place:
        read = slurm_place.read_task_states

        def fail_later(folder):
            if read_jobs(folder):
                slurm.fail("squeue", "Unable to contact slurm controller")
            return read(folder)

        monkeypatch.setattr(slurm_place, "read_task_states", fail_later)
        with pytest.raises(WorkerError, match="controller; jobs that were submitted end after their present case"):
            place.run_over_cases(count_letters, given.jobs, workers=1, label="Measuring", progress=SilentProgress())
    assert "jobs could not be cancelled, and end after their present case" in caplog.text
    assert not list(root.glob(".jobs-*"))


def test_the_mark_stays_young_while_jobs_wait(root, given):
    with open_case_folder(root) as folder:
        tasks = build_tasks(folder, given, label="Measuring", count=1)
        ages = []

        def run_jobs():
            for _ in range(2):
                os.utime(given.caller.mark, (0, 0))
                yield {tasks[0].name: TaskState(phase="queued")}
                ages.append(time.time() - given.caller.mark.stat().st_mtime)
            run_part(folder, 0, 1)
            yield {tasks[0].name: FINISHED}

        gather(folder, given, run_jobs(), tasks)
    assert max(ages) < ABANDONED_SECONDS / 2


def test_cases_of_a_job_that_was_lost_are_failures_with_what_slurm_says(root, given, slurm):
    with open_case_folder(root) as folder:
        tasks = build_tasks(folder, given, label="Measuring", count=2)

        def run_jobs():
            run_part(folder, 0, 2)
            lost = TaskState(phase="lost", reason="job 1_1 ended without a word (Slurm: NODE_FAIL, None)")
            yield dict(zip((task.name for task in tasks), (FINISHED, lost), strict=True))

        begin = time.monotonic()
        outcome = gather(folder, given, run_jobs(), tasks)
    assert time.monotonic() - begin < case_jobs.SECONDS_FOR_FILES
    assert outcome.results == (0, 4)
    texts = [failure.describe()[0] for failure in outcome.failures if failure.case in "bd"]
    assert len(texts) == 2
    assert all("part 2 of 2) ended as lost: job 1_1 ended without a word (Slurm: NODE_FAIL" in text for text in texts)


def test_results_that_a_network_drive_shows_late_are_waited_for(root, given):
    with open_case_folder(root) as folder:
        tasks = build_tasks(folder, given, label="Measuring", count=1)
        run_part(folder, 0, 1)
        (folder / "3.result").rename(folder / "late")
        events = iterate_cases(folder, given, tasks, iter([{tasks[0].name: FINISHED}]))
        first = [next(events).index for _ in range(4)]
        (folder / "late").rename(folder / "3.result")
        assert (*first, next(events).index) == (0, 1, 2, 4, 3)
        assert list(events) == []


def test_a_computer_with_other_versions_is_refused_for_all_cases(root, given):
    versions = (("Python", "2.7"), *given.caller.versions[1:])
    other = replace(given.caller, versions=versions)
    refused = CaseWork(work=count_letters, jobs=given.jobs, caller=other, runs_networks=True, sizes={})
    with open_case_folder(root) as folder:
        tasks = build_tasks(folder, refused, label="Measuring", count=1)
        run_part(folder, 0, 1)
        with pytest.raises(
            WorkerError, match=r"the worker on .* cannot work on this run: it has Python 3\.\d+ instead"
        ):
            gather(folder, refused, iter([{tasks[0].name: FINISHED}]), tasks)


def name_cache(text: str) -> str:
    """The work: tells where files by URL are looked for."""
    return str(find_cache())


def test_a_job_finds_files_by_url_in_the_cache_of_the_command(given, tmp_path, monkeypatch):
    caller = replace(given.caller, cache=tmp_path / "shared")
    monkeypatch.delenv("AUTOSEG_REMOTE_CACHE", raising=False)
    for own in (None, tmp_path / "own"):
        if own is not None:
            monkeypatch.setenv("AUTOSEG_REMOTE_CACHE", str(own))
        before = find_cache()
        assert run_case(name_cache, "a", "", caller, runs_networks=False) == str(tmp_path / "shared")
        assert find_cache() == before


def kill_own_process(text: str) -> None:
    """The work: dies like a process that takes too much memory."""
    if text == "refused":
        os.kill(os.getpid(), 9)


def test_a_case_that_kills_its_process_costs_no_other_one(root, given, monkeypatch):
    monkeypatch.setattr(case_jobs, "compute_worker_count", lambda **sizes: 2)
    sizes = {"c": CaseSize(voxels=8 * 10**6, estimated_bytes=2**30)}
    work = CaseWork(work=kill_own_process, jobs=given.jobs, caller=given.caller, runs_networks=False, sizes=sizes)
    with open_case_folder(root) as folder:
        tasks = build_tasks(folder, work, label="Measuring", count=1)
        run_part(folder, 0, 1)
        outcome = gather(folder, work, iter([{tasks[0].name: FINISHED}]), tasks)
    assert outcome.results == (None,) * 4
    ((text,),) = [failure.describe() for failure in outcome.failures]
    assert text.startswith("case c: the worker process was killed twice")
    assert "8 million voxels" in text


def test_the_command_of_a_job_ends_with_the_reason_where_it_cannot_write(root, given, monkeypatch, capsys):
    with open_case_folder(root) as folder:
        task, *_ = build_tasks(folder, given, label="Measuring", count=1)
        assert task.command[:2] == (sys.executable, "-c")
        assert task.command[2] == "from autoseg.places.slurm.case_jobs import run_command; run_command()"
        monkeypatch.setattr(sys, "argv", ["-c", *task.command[3:]])
        (folder / "0.result").mkdir()
        (folder / "0.result" / "x").touch()
        run_command()
        assert {path.name for path in folder.glob("*.result")} == {f"{index}.result" for index in range(5)}
        monkeypatch.setattr(case_jobs, "run_part", lambda *arguments: (_ for _ in ()).throw(PlanError("no place")))
        with pytest.raises(SystemExit, match="autoseg: error: no place"):
            run_command()
        monkeypatch.setattr(case_jobs, "run_part", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(SystemExit) as end:
            run_command()
    assert end.value.code == 130


def test_jobs_ask_for_a_gpu_where_networks_run_and_for_memory_by_the_largest_case(given):
    assert given.find_resources().gpu_bytes > 0
    assert given.find_resources().ram_bytes == case_jobs.NETWORK_BYTES
    sizes = {"a": CaseSize(voxels=1, estimated_bytes=10**9), "b": CaseSize(voxels=1, estimated_bytes=2 * 10**9)}
    on_cpu = replace(given, sizes=sizes, uses_gpu=False).find_resources()  # which holds the networks, too
    assert on_cpu == Resources(cores=case_jobs.CORES, ram_bytes=2 * 10**9)
    work = CaseWork(work=len, jobs=given.jobs, caller=given.caller, runs_networks=False, sizes=sizes)
    assert work.find_resources().gpu_bytes == 0
    assert work.find_resources().ram_bytes > work.find_resources().cores * 2 * 10**9
    unknown = CaseWork(work=len, jobs=given.jobs, caller=given.caller, runs_networks=False, sizes={})
    assert unknown.find_resources() == Resources(cores=case_jobs.CORES)


def test_a_command_submits_one_array_and_tells_why_its_jobs_leave_cases(root, slurm):
    slurm.show_queue("1_0|OUT_OF_MEMORY|n1|OutOfMemory", "1_1|COMPLETED|n1|None")
    jobs = [("a", "x"), ("b", "xx"), ("c", "xxx")]
    options = {"workers": 1, "label": "Predicting", "progress": SilentProgress()}
    options |= {"runs_networks": True, "uses_gpu": False}
    with pytest.MonkeyPatch.context() as patch, open_place("slurm", root, ["case_jobs=2", "memory_gb=3"]) as place:
        patch.setattr(case_jobs, "SECONDS_FOR_FILES", 0.0)
        outcome = place.run_over_cases(count_letters, jobs, **options)
        assert place.run_over_cases(count_letters, [], **options).results == ()
    (script,) = slurm.read_scripts()
    assert "#SBATCH --array=0-1%" in script
    assert "#SBATCH --mem=3000M" in script
    assert "--gres" not in script
    assert outcome.results == ()
    assert all(isinstance(failure, Failure) for failure in outcome.failures)
    assert "part 1 of 2) ended as lost: job 1_0 ended" in outcome.failures[0].describe()[0]
    assert "OUT_OF_MEMORY, OutOfMemory); repeat the command with more: --slurm memory_gb=N" in str(outcome.failures[0])
    assert "part 2 of 2) ended as finished: it has written no result" in outcome.failures[1].describe()[0]
    assert list(root.iterdir()) == []


def test_jobs_are_cancelled_with_the_command(root, given, slurm):
    slurm.show_queue("1_0|RUNNING|n1|None", "1_1|PENDING||Priority")
    options = {"workers": 1, "label": "Measuring", "progress": SilentProgress()}

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, open_place("slurm", root, ["case_jobs=2"]) as place:
        patch.setattr(slurm_place, "time", SimpleNamespace(sleep=stop))
        with pytest.raises(KeyboardInterrupt):
            place.run_over_cases(count_letters, given.jobs, **options)
    assert slurm.read("cancelled") == ["1_0 1_1"]


def test_a_dry_run_shows_the_script_of_the_array_and_writes_nothing(root, slurm):
    sizes = {"a": CaseSize(voxels=1, estimated_bytes=2 * 10**9)}
    jobs = [("a", "x"), ("b", "xx"), ("c", "xxx")]
    with open_place("slurm", root, ["case_jobs=2", "partition=long"]) as place:
        text = place.describe_cases(jobs, label="Measuring", sizes=sizes)
        assert place.describe_cases([], label="Measuring") == "# Measuring: nothing to do"
    assert text.startswith("# Measuring: 3 cases\n# Measuring, part 1 of 2: ")
    assert text.count("#!/bin/bash") == 1
    assert {"#SBATCH --array=0-1%2", "#SBATCH --partition=long", "#SBATCH --cpus-per-task=4"} <= {*text.splitlines()}
    assert "#SBATCH --mem=10000M" in text  # for four of the largest case and their processes
    assert "--gres" not in text
    assert slurm.read_scripts() == []
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("name", ["here", "dask"])
def test_a_place_without_scripts_refuses_to_show_them(root, name):
    pytest.importorskip("dask")
    with open_place(name, root) as place, pytest.raises(OptionError, match=r"--dry-run .* give --on slurm, too"):
        place.describe_cases([("a", "x")], label="Measuring")
