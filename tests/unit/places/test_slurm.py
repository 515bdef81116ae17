import json
import os
import re
import signal
import sys
import threading
import time
from dataclasses import replace

import pytest
from builders.fake_slurm import prepend_to_path, write_fake_slurm

from autoseg.document import read_document, write_document
from autoseg.errors import DocumentError, OptionError, WorkerError
from autoseg.places import open_place
from autoseg.places.place import Resources, Task, check_workers
from autoseg.places.slurm import job as slurm_job
from autoseg.places.slurm import place as slurm_place
from autoseg.places.slurm.job import JobCommand
from autoseg.places.slurm.jobs import (
    JobMark,
    JobRecord,
    add_jobs,
    cancel_jobs,
    find_jobs_folder,
    find_mark,
    find_state,
    read_jobs,
    read_task_states,
)
from autoseg.places.slurm.programs import QueueEntry, find_time_limit, query_queue, run_slurm
from autoseg.places.slurm.settings import GpuKind, SlurmSettings, count_gpus, find_settings
from autoseg.places.slurm.submission import build_job, build_parameters, group_tasks

NEEDED = Resources(gpu_bytes=8 * 10**9, cores=13, ram_bytes=5_200_000_000)


@pytest.fixture(autouse=True)
def slurm(tmp_path, monkeypatch):
    fake = write_fake_slurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", prepend_to_path(fake.folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(slurm_place, "SECONDS_BETWEEN_LOOKS", 0.0)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    return fake


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "x.autoseg"
    folder.mkdir()
    return folder


def make_task(root, name, *, needs=(), resources=NEEDED, code="pass"):
    log = root / "logs" / f"{name}.log"
    return Task(name=name, command=(sys.executable, "-S", "-c", code), log=log, needs=needs, resources=resources)


def make_cascade(root):
    first = [make_task(root, f"3d_lowres, fold {fold}") for fold in range(2)]
    second = make_task(root, "3d_cascade_fullres, fold 0", needs=tuple(task.name for task in first))
    return [*first, second]


def run_tasks(root, tasks, settings=()):
    with open_place("slurm", root, settings) as place:
        return place.run_tasks(tasks)


def find_lines(script, *options):
    return [line.removeprefix("#SBATCH --") for line in script.splitlines() if line[10:].split("=")[0] in options]


def test_every_wave_is_one_array_after_the_arrays_that_it_needs(slurm, root):
    slurm.show_queue("1_0|RUNNING|n1|None", "1_1|PENDING||Priority", "2|PENDING||Dependency")
    states = next(run_tasks(root, make_cascade(root), ["partition=long"]))
    first, second = slurm.read_scripts()
    assert find_lines(first, "array", "dependency", "partition") == ["array=0-1%2", "partition=long"]
    assert find_lines(second, "array", "dependency", "kill-on-invalid-dep") == [
        "dependency=afterok:1_0:1_1",
        "kill-on-invalid-dep=yes",
    ]
    assert [(job.task, job.job_id) for job in read_jobs(find_jobs_folder(root))] == [
        ("3d_lowres, fold 0", "1_0"),
        ("3d_lowres, fold 1", "1_1"),
        ("3d_cascade_fullres, fold 0", "2"),
    ]
    assert [(state.phase, state.where, state.reason) for state in states.values()] == [
        ("running", "n1", None),
        ("queued", None, "job 1_1 waits (Priority)"),
        ("queued", None, "job 2 waits (Dependency)"),
    ]


def test_what_is_in_the_queue_is_not_submitted_again(slurm, root):
    slurm.show_queue("1_0|RUNNING|n1|None", "1_1|FAILED|n1|NonZeroExitCode", "2|PENDING||Dependency")
    next(run_tasks(root, make_cascade(root)))
    next(run_tasks(root, make_cascade(root)))
    third, fourth = slurm.read_scripts()[2:]
    assert find_lines(third, "job-name", "array") == ["job-name=autoseg-3d_lowres"]
    assert find_lines(fourth, "dependency") == ["dependency=afterok:1_0:3"]  # the failed one would never let it begin
    slurm.show_queue("1_0|RUNNING|n1|None", "3|RUNNING|n1|None", "4|PENDING||Dependency")
    next(run_tasks(root, make_cascade(root)))
    assert len(slurm.read_scripts()) == 4


def test_a_job_that_would_not_wait_for_further_tasks_is_submitted_anew(slurm, root):
    first, second = (make_task(root, f"{name}, fold 0") for name in ("2d", "3d_fullres"))
    slurm.show_queue("1|RUNNING|n1|None", "2|PENDING||Dependency", "3|PENDING||Priority", "4|PENDING||Dependency")
    next(run_tasks(root, [first, make_task(root, "select", needs=("2d, fold 0",))]))
    both = make_task(root, "select", needs=("2d, fold 0", "3d_fullres, fold 0"))
    next(run_tasks(root, [first, second, both]))
    assert slurm.read("cancelled") == ["2"]
    assert find_lines(slurm.read_scripts()[-1], "job-name", "dependency") == [
        "dependency=afterok:1:3",
        "job-name=autoseg-select",
    ]
    next(run_tasks(root, [make_task(root, "select", needs=("3d_fullres, fold 0",))]))  # the other one has ended
    assert len(slurm.read_scripts()) == 4


def test_it_is_said_which_tasks_are_in_the_queue_already(slurm, root, caplog):
    slurm.show_queue("1|RUNNING|n1|None")
    next(run_tasks(root, [make_task(root, "2d, fold 0")]))
    assert caplog.messages == []
    next(run_tasks(root, [make_task(root, "2d, fold 0")]))
    assert caplog.messages == ["in the queue already, and left as they were submitted: 2d, fold 0"]


def test_an_exact_task_is_not_answered_by_a_job_with_other_options(slurm, root):
    plain, other = (
        replace(make_task(root, "select", code=code), is_exact=True) for code in ("pass", "'--no-variants'")
    )
    slurm.show_queue("1|RUNNING|n1|None")
    waiting = run_tasks(root, [plain])
    next(waiting)
    next(run_tasks(root, [plain]))
    with pytest.raises(
        WorkerError, match=r"select: job 1 was .* by `.*pass`, and not by `.*--no-variants.*autoseg cancel"
    ):
        next(run_tasks(root, [other]))
    assert len(slurm.read_scripts()) == 1
    # one that waits for further tasks takes its place: its own command does not wait for that result
    slurm.show_queue("1|RUNNING|n1|None", "2|PENDING||Priority", "3|PENDING||Dependency")
    next(run_tasks(root, [make_task(root, "2d, fold 0"), make_task(root, "select", needs=("2d, fold 0",), code="0")]))
    with pytest.raises(WorkerError, match="select: job 3 was submitted with other options"):
        next(waiting)


def test_a_list_of_jobs_without_commands_can_be_read(slurm, root):
    add_jobs(find_jobs_folder(root), [JobRecord(task="select", job_id="7")])
    slurm.show_queue("7|RUNNING|n1|None")
    assert next(run_tasks(root, [replace(make_task(root, "select"), is_exact=True)]))["select"].phase == "running"


def test_a_scheduler_that_is_away_for_a_while_is_asked_again(slurm, root, monkeypatch, caplog):
    monkeypatch.setattr(slurm_place, "PAUSES_SECONDS", (0.0, 0.0))
    slurm.show_queue("1|RUNNING|n1|None")
    snapshots = run_tasks(root, [make_task(root, "2d, fold 0")])
    next(snapshots)
    squeue = slurm.folder / "squeue"
    squeue.write_text(squeue.read_text().replace("exit 1", f"rm {slurm.folder / 'error'}; exit 1"))
    slurm.fail("squeue", "Unable to contact slurm controller")
    assert next(snapshots)["2d, fold 0"].phase == "running"
    assert caplog.messages == ["squeue --array failed: Unable to contact slurm controller; asked again in 0 s"]


def test_a_scheduler_that_stays_away_ends_the_command_and_no_job(slurm, root, monkeypatch):
    monkeypatch.setattr(slurm_place, "PAUSES_SECONDS", (0.0,))
    slurm.show_queue("1|RUNNING|n1|None")
    snapshots = run_tasks(root, [make_task(root, "2d, fold 0")])
    next(snapshots)
    slurm.fail("squeue", "Unable to contact slurm controller")
    with pytest.raises(WorkerError, match="controller; the jobs that were submitted continue"):
        next(snapshots)


def test_ctrl_c_while_jobs_are_submitted_leaves_none_that_is_unknown(slurm, root):
    text = (slurm.folder / "sbatch").read_text()
    (slurm.folder / "sbatch").write_text(
        text.replace("exit 1; fi", f"exit 1; fi; kill -INT {os.getpid()}; sleep 0.2", 1)
    )
    with pytest.raises(KeyboardInterrupt):
        next(run_tasks(root, make_cascade(root)))
    assert len(slurm.read_scripts()) == 1
    assert [job.job_id for job in read_jobs(find_jobs_folder(root))] == ["1_0", "1_1"]


def test_the_states_are_shown_until_all_tasks_have_ended(slurm, root):
    slurm.show_queue("1|RUNNING|n1|None")
    snapshots = run_tasks(root, [make_task(root, "2d, fold 0")])
    assert next(snapshots)["2d, fold 0"].phase == "running"
    slurm.show_queue("1|COMPLETED|n1|None")
    assert [states["2d, fold 0"].phase for states in snapshots] == ["finished"]


def test_a_script_that_sbatch_refuses_is_reported_with_its_reason(slurm, root):
    slurm.fail("sbatch", "sbatch: error: invalid partition specified: lon")
    with pytest.raises(WorkerError, match=r"(?s)sbatch refused the jobs: .*invalid partition.*slurm\.json"):
        next(run_tasks(root, [make_task(root, "2d, fold 0")]))
    assert read_jobs(find_jobs_folder(root)) == ()


def test_a_dry_run_shows_the_scripts_and_submits_nothing(slurm, root):
    with open_place("slurm", root, ["time_minutes=90"]) as place:
        text = place.describe_tasks(make_cascade(root))
    assert text.count("#!/bin/bash") == 2
    assert text.count("#SBATCH --time=90") == 2
    assert "#SBATCH --dependency=afterok:3d_lowres" in text
    assert f"# 3d_lowres, fold 1: {sys.executable} -S -c pass" in text
    assert slurm.read_scripts() == []
    assert list(root.iterdir()) == []


JOB = JobRecord(task="2d, fold 0", job_id="7_0")


def build_mark(phase, **changes):
    return JobMark.model_validate({"job_id": "7_0", "phase": phase, "node": "n2", **changes})


@pytest.mark.parametrize(
    ("entry", "mark", "phase", "reason"),
    [
        ("PENDING Resources", None, "queued", "job 7_0 waits (Resources)"),
        ("PENDING BeginTime", build_mark("saved", restarts=1), "queued", "job 7_0 waits after 2 starts (BeginTime)"),
        ("PENDING DependencyNeverSatisfied", None, "failed", "it needs another task, which failed"),
        ("RUNNING None", build_mark("running"), "running", None),
        ("COMPLETING None", build_mark("running"), "running", None),
        ("COMPLETED None", None, "finished", None),
        (None, build_mark("finished"), "finished", None),
        (None, build_mark("failed", reason="the disk is full"), "failed", "the disk is full"),
        ("FAILED NonZeroExitCode", build_mark("failed", reason="no GPU"), "failed", "no GPU"),
        ("CANCELLED None", build_mark("running"), "stopped", "job 7_0 was cancelled"),
        (
            "OUT_OF_MEMORY OutOfMemory",
            build_mark("running"),
            "lost",
            "job 7_0 ended without a word on n2 (Slurm: OUT_OF_MEMORY, OutOfMemory); repeat the command with more: "
            "--slurm memory_gb=N",
        ),
        (None, build_mark("running"), "lost", "job 7_0 ended without a word on n2 (Slurm no longer knows it)"),
        (None, None, "lost", "job 7_0 ended without a word (Slurm no longer knows it)"),
        (None, build_mark("saved"), "stopped", "job 7_0 was asked to end, and saved (Slurm no longer knows it)"),
        (
            "FAILED NonZeroExitCode",
            build_mark("saved", reason="logs: a_rank_*.log"),
            "failed",
            "job 7_0 failed on another of its computers (Slurm: FAILED, NonZeroExitCode); logs: a_rank_*.log",
        ),
    ],
)
def test_the_state_follows_from_squeue_and_the_mark_of_the_job(entry, mark, phase, reason):
    shown = None
    if entry is not None:
        state, why = entry.split()
        shown = QueueEntry(state=state, reason=why, nodes="n1")
    found = find_state(JOB, shown, mark)
    assert (found.phase, found.reason) == (phase, reason)


@pytest.mark.parametrize(
    ("entry", "advice"),
    [
        ("PENDING PartitionTimeLimit", r"\(PartitionTimeLimit\); the partition allows less.* --slurm time_minutes=N"),
        ("PENDING AssocGrpGRES", r"\(AssocGrpGRES\); a limit of the account.* --slurm account="),
        ("PENDING BadConstraints", r"\(BadConstraints\); no node has what it asks for.* --slurm gres="),
        ("TIMEOUT TimeLimit", r"\(Slurm: TIMEOUT, TimeLimit\); repeat the command with more: --slurm time_minutes=N"),
        ("PENDING Priority", r"\(Priority\)$"),
    ],
)
def test_the_state_says_what_to_do_where_something_can_be_done(entry, advice):
    state, why = entry.split()
    assert re.search(advice, find_state(JOB, QueueEntry(state=state, reason=why, nodes=""), None).reason)


def test_why_a_job_ended_is_known_when_squeue_has_forgotten_it(slurm, root):
    folder = find_jobs_folder(root)
    add_jobs(folder, [JOB, JobRecord(task="2d, fold 1", job_id="7_1")])
    slurm.show_queue("7_0|OUT_OF_MEMORY|n1|OutOfMemory", "7_1|CANCELLED|n1|None")
    seen = read_task_states(folder)
    slurm.show_queue()
    assert read_task_states(folder) == seen
    assert [state.phase for state in seen.values()] == ["lost", "stopped"]
    assert "OUT_OF_MEMORY" in seen[JOB.task].reason
    slurm.show_queue("8|COMPLETED|n1|None")
    add_jobs(folder, [JobRecord(task=JOB.task, job_id="8")])  # the end of an earlier job counts for nothing
    assert read_task_states(folder)[JOB.task].phase == "finished"


def test_a_job_that_is_queued_again_has_not_ended(slurm, root):
    folder = find_jobs_folder(root)
    add_jobs(folder, [JOB])
    for line, phase in (("NODE_FAIL|n1|NodeDown", "lost"), ("PENDING||BeginTime", "queued")):
        slurm.show_queue(f"7_0|{line}")
        assert read_task_states(folder)[JOB.task].phase == phase
    slurm.show_queue()
    assert "Slurm no longer knows it" in read_task_states(folder)[JOB.task].reason


def test_a_job_that_was_cancelled_says_so_when_squeue_has_forgotten_it(slurm, root):
    folder = find_jobs_folder(root)
    add_jobs(folder, [JOB])
    write_document(find_mark(folder, JOB.task), build_mark("saved"))
    slurm.show_queue("7_0|RUNNING|n1|None")
    cancel_jobs(folder)
    slurm.show_queue("7_0|COMPLETING|n1|None")
    assert read_task_states(folder)[JOB.task].phase == "running"
    slurm.show_queue()
    assert read_task_states(folder)[JOB.task].reason == "job 7_0 was cancelled"


def test_what_squeue_does_not_know_the_accounts_may_know(slurm, root):
    folder = find_jobs_folder(root)
    add_jobs(folder, [JobRecord(task=f"2d, fold {fold}", job_id=f"7_{fold}") for fold in range(4)])
    slurm.show_queue("7_3|RUNNING|n1|None")
    slurm.show_ends("7_0|OUT_OF_MEMORY|0:125|n1", "7_1|CANCELLED by 1000|0:0|n1", "7_2|RUNNING|0:0|n1")
    states = list(read_task_states(folder).values())
    assert [state.phase for state in states] == ["lost", "stopped", "lost", "running"]
    assert "(Slurm: OUT_OF_MEMORY, exit code 0:125); " in states[0].reason
    assert "Slurm no longer knows it" in states[2].reason
    read_task_states(folder)
    assert [line.partition("--jobs=")[2] for line in slurm.read("accounting")] == ["7_0,7_1,7_2", "7_2"]


def test_a_run_that_cannot_be_written_is_shown(slurm, root):
    folder = find_jobs_folder(root)
    add_jobs(folder, [JOB])
    slurm.show_queue("7_0|TIMEOUT|n1|TimeLimit")
    find_mark(folder, JOB.task).with_suffix(".end.json").mkdir()
    assert read_task_states(folder)[JOB.task].phase == "lost"


@pytest.mark.parametrize(
    ("partition", "minutes"),
    [("short", 30), ("long", 2880), ("open", None), (None, 720), ("long,short", 30), ("strange", None)],
)
def test_the_time_limit_of_a_partition_is_known(slurm, partition, minutes):
    slurm.show_partitions("short|30:00", "long|2-00:00:00", "open|infinite", "usual*|12:00:00")
    assert find_time_limit(partition) == minutes


def test_no_job_asks_for_more_time_than_its_partition_allows(slurm, root):
    slurm.show_partitions("short*|6:00:00")
    slurm.show_queue("1|PENDING||Priority")
    budget = replace(NEEDED, seconds=8 * 3600.0, may_be_cut=False)  # it would get the whole budget again
    for resources, settings, minutes in (
        (NEEDED, [], 360),
        (replace(NEEDED, seconds=600.0), [], 25),
        (NEEDED, ["time_minutes=900"], 900),
        (budget, [], 495),
    ):
        text = open_and_describe(root, [make_task(root, "2d, fold 0", resources=resources)], settings)
        assert find_lines(text, "time") == [f"time={minutes}"]
    next(run_tasks(root, [make_task(root, "2d, fold 0")]))
    assert find_lines(slurm.read_scripts()[-1], "time") == ["time=360"]


def test_a_task_says_which_one_it_needed_failed(slurm, root):
    folder = find_jobs_folder(root)
    add_jobs(folder, [JOB, JobRecord(task="select", job_id="8", needs=("2d, fold 0",))])
    write_document(find_mark(folder, JOB.task), build_mark("failed", reason="the disk is full"))
    slurm.show_queue("8|CANCELLED||Dependency")
    assert read_task_states(folder)["select"].reason == "it needs 2d, fold 0, which failed"


def test_squeue_is_asked_for_no_job_that_has_ended(slurm, root):
    folder = find_jobs_folder(root)
    add_jobs(folder, [JOB])
    write_document(find_mark(folder, JOB.task), build_mark("finished"))
    assert read_task_states(folder)[JOB.task].phase == "finished"
    assert slurm.read("asked") == []


def test_the_mark_of_an_earlier_job_counts_for_nothing(slurm, root):
    folder = find_jobs_folder(root)
    add_jobs(folder, [JOB])
    write_document(find_mark(folder, JOB.task), build_mark("finished", job_id="3_0"))
    slurm.show_queue("7_0|RUNNING|n1|None")
    assert read_task_states(folder)[JOB.task].phase == "running"


def test_the_names_of_other_jobs_in_another_encoding_are_no_error():
    assert run_slurm([sys.executable, "-c", "import sys; sys.stdout.buffer.write(b'M\\xfcller')"]) == "M\ufffdller"


def test_jobs_that_squeue_has_forgotten_are_no_error(slurm):
    slurm.fail("squeue", "slurm_load_jobs error: Invalid job id specified")
    assert query_queue(["7_0", "7_1", "12"]) == {}
    assert "--jobs=7,12" in slurm.read("asked")[0]


def test_a_queue_that_cannot_be_asked_is_reported(slurm, monkeypatch):
    slurm.fail("squeue", "Unable to contact slurm controller")
    with pytest.raises(WorkerError, match="squeue --array failed: Unable to contact slurm controller"):
        query_queue(["7"])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(WorkerError, match="there is no squeue on this computer"):
        query_queue(["7"])


def test_jobs_that_are_queued_or_running_are_cancelled(slurm, root):
    folder = find_jobs_folder(root)
    add_jobs(folder, [JobRecord(task=f"2d, fold {fold}", job_id=f"7_{fold}") for fold in range(3)])
    slurm.show_queue("7_0|COMPLETED|n1|None", "7_1|RUNNING|n1|None", "7_2|PENDING||Priority")
    assert [job.job_id for job in cancel_jobs(folder, tasks=["2d, fold 2"])] == ["7_2"]
    assert [job.job_id for job in cancel_jobs(folder)] == ["7_1", "7_2"]
    assert slurm.read("cancelled") == ["7_2", "7_1 7_2"]


# Settings


def write_settings(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema_version": 1, **content}))


def test_settings_of_the_run_come_before_those_of_the_user_and_flags_before_both(root, tmp_path):
    assert find_settings(root, []) == SlurmSettings()
    write_settings(tmp_path / "config" / "autoseg" / "slurm.json", partition="user", account="me")
    assert find_settings(root, []).partition == "user"
    write_settings(root / "slurm.json", partition="run", options={"mail-type": "END"})
    settings = find_settings(root, ["partition=flag", "time_minutes=90"])
    assert (settings.partition, settings.account, settings.time_minutes) == ("flag", None, 90)
    assert settings.options == {"mail-type": "END"}


def test_a_key_that_does_not_exist_is_refused(root):
    write_settings(root / "slurm.json", partion="long")
    with pytest.raises(DocumentError, match=r"slurm\.json: partion: unknown key \(did you mean 'partition'\?\)"):
        find_settings(root, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partion=long", r"--slurm: partion: unknown key \(did you mean 'partition'\?\)"),
        ("cpus=many", r"--slurm: cpus: input should be a valid integer.*got 'many'"),
        ("cpus", r"takes KEY=VALUE with one of the keys partition, .*found 'cpus'"),
        ("setup=module load cuda", r"setup, gpus, options are given in slurm\.json"),
    ],
)
def test_a_setting_that_cannot_be_read_is_refused(root, text, message):
    with pytest.raises(OptionError, match=message):
        find_settings(root, [text])


KINDS = (GpuKind(gres="gpu:a100:1", memory_gb=80), GpuKind(gres="gpu:t4:1", memory_gb=16))


@pytest.mark.parametrize(
    ("settings", "gigabytes", "gres"),
    [
        (SlurmSettings(), 8, "gpu:1"),
        (SlurmSettings(), 0, ""),
        (SlurmSettings(gres="gpu:v100:2", gpus=KINDS), 40, "gpu:v100:2"),
        (SlurmSettings(gres=""), 8, ""),
        (SlurmSettings(gpus=KINDS), 8, "gpu:t4:1"),
        (SlurmSettings(gpus=KINDS), 24, "gpu:a100:1"),
    ],
)
def test_a_task_gets_the_smallest_gpu_that_is_enough(settings, gigabytes, gres):
    assert settings.choose_gres(gigabytes * 10**9) == gres


def test_a_plan_for_larger_gpus_than_the_site_has_is_refused():
    with pytest.raises(OptionError, match=r"needs GPUs of 100 GB, `gpus` has 80 GB at most.*--memory-gb 80"):
        SlurmSettings(gpus=KINDS).choose_gres(100 * 10**9)


@pytest.mark.parametrize(
    ("gres", "count"),
    [("", 0), ("gpu", 1), ("gpu:2", 2), ("gpu:a100:4(S:0)", 4), ("gpu:a100", 1), ("shard:2,gpu:1", 1)],
)
def test_the_gpus_of_a_request_are_counted(gres, count):
    assert count_gpus(gres) == count


@pytest.mark.parametrize(
    ("needed", "settings", "parameters"),
    [
        (NEEDED, SlurmSettings(), {"cpus_per_task": 13, "mem": "6000M", "time": 24 * 60, "gres": "gpu:1", "nodes": 1}),
        (
            Resources(gpu_bytes=1, cores=4, ram_bytes=2 * 10**9, seconds=3600.0, nodes=2, is_parallel=True),
            SlurmSettings(gres="gpu:2"),
            {"cpus_per_task": 8, "mem": "4000M", "time": 75, "gres": "gpu:2", "nodes": 2, "ntasks_per_node": 1},
        ),
        (
            NEEDED,
            SlurmSettings(cpus=2, memory_gb=1.5, time_minutes=5, signal_seconds=30, setup=("module load x",)),
            {"cpus_per_task": 2, "mem": "1500M", "time": 5, "signal_delay_s": 30, "setup": ["module load x"]},
        ),
    ],
)
def test_resources_follow_from_the_task_and_settings_replace_them(root, needed, settings, parameters):
    built = build_parameters((make_task(root, "2d, fold 0", resources=needed),), settings, after=())
    assert {name: built[name] for name in parameters} == parameters


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (2, "gpu:4"),
            "--nodes 2 with gpu:4 of each makes 8 processes, and a batch of 2 cannot be divided.* at most 2",
        ),
        ((1, "gpu:a100:3"), "--nodes 1 with gpu:a100:3 of each makes 3 processes, and a batch of 2 cannot be divided"),
        ((1, "gpu:1"), "--nodes 1 with gpu:1 of each makes 1 process, and --parallel needs several; .*gres=gpu:2"),
    ],
)
def test_processes_that_have_nothing_to_share_are_refused_before_anything_is_submitted(slurm, root, shape, message):
    nodes, gres = shape
    shared = Resources(gpu_bytes=1, nodes=nodes, is_parallel=True, most_processes=2)
    tasks = [make_task(root, "2d, fold 0"), make_task(root, "3d_fullres, fold 0", resources=shared)]
    for work in (open_and_describe, run_first):
        with pytest.raises(OptionError, match=f"3d_fullres, fold 0: {message}"):
            work(root, tasks, [f"gres={gres}"])
    assert slurm.read_scripts() == []


def open_and_describe(root, tasks, settings):
    with open_place("slurm", root, settings) as place:
        return place.describe_tasks(tasks)


def run_first(root, tasks, settings):
    return next(run_tasks(root, tasks, settings))


@pytest.mark.parametrize(("nodes", "gres"), [(2, "gpu:1"), (1, "gpu:2")])
def test_as_many_processes_as_samples_are_submitted(root, nodes, gres):
    shared = Resources(gpu_bytes=1, nodes=nodes, is_parallel=True, most_processes=2)
    text = open_and_describe(root, [make_task(root, "2d, fold 0", resources=shared)], [f"gres={gres}"])
    assert f"#SBATCH --nodes={nodes}" in text
    free = Resources(gpu_bytes=1, most_processes=2)  # a process of its own uses one of its GPUs
    assert open_and_describe(root, [make_task(root, "2d, fold 0", resources=free)], ["gres=gpu:4"])


def test_tasks_of_one_wave_need_the_same(root):
    larger = make_task(root, "2d, fold 5", resources=Resources(ram_bytes=1))
    waves = group_tasks([*make_cascade(root), larger])
    assert [[task.name for task in wave] for wave in waves] == [
        ["3d_lowres, fold 0", "3d_lowres, fold 1"],
        ["3d_cascade_fullres, fold 0"],
        ["2d, fold 5"],
    ]


def test_an_option_of_sbatch_may_have_no_value(slurm, root):
    write_settings(root / "slurm.json", options={"exclusive": True, "mail-type": "END"})
    text = open_and_describe(root, [make_task(root, "2d, fold 0")], [])
    assert find_lines(text, "exclusive", "mail-type") == ["exclusive", "mail-type=END"]
    write_settings(root / "slurm.json", options={"exclusive": ""})
    with pytest.raises(DocumentError, match=r"options\.exclusive"):
        find_settings(root, [])


def test_the_number_of_processes_of_a_job_is_that_of_its_cores(root):
    with open_place("slurm", root) as place:
        check_workers(None, place)
        with pytest.raises(OptionError, match=r"--workers 3 counts processes of this computer.* --slurm cpus=3"):
            check_workers(3, place)
    with open_place("here", root) as place:
        check_workers(3, place)


# In a job


@pytest.fixture
def run_job(root, monkeypatch):
    monkeypatch.setattr(slurm_job, "SECONDS_BETWEEN_LOOKS", 0.02)
    monkeypatch.setattr(slurm_job, "SECONDS_TO_BE_KILLED", 0.0)
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")

    def make(code, **changes):
        mark = find_mark(root / "jobs", "2d, fold 0")
        return JobCommand(task=make_task(root, "2d, fold 0", code=code), mark=mark, **changes)

    return make


def read_mark(job):
    return read_document(job.mark, JobMark)


def test_a_job_that_succeeds_marks_its_end(run_job):
    job = run_job("print('done')")
    job()
    assert read_mark(job) == JobMark(job_id="9", phase="finished", node="n1")
    assert job.task.log.read_text() == "done\n"


def test_a_job_that_fails_marks_why(run_job):
    job = run_job("import sys; sys.exit('autoseg: error: the disk is full')")
    with pytest.raises(SystemExit) as end:
        job()
    assert end.value.code == 1
    assert (read_mark(job).phase, read_mark(job).reason) == ("failed", f"the disk is full; log: {job.task.log}")


def test_a_job_whose_command_was_killed_says_which_setting_helps(run_job):
    job = run_job("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(SystemExit):
        job()
    assert read_mark(job).reason.startswith("the process was killed (SIGKILL), often for lack of RAM; log: ")
    assert read_mark(job).reason.endswith("; repeat the command with more: --slurm memory_gb=N")


def test_a_task_of_an_array_that_was_queued_again_keeps_its_log(run_job, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "8")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    run_job("print('first')")()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    job = run_job("print('second')")
    job()
    assert (read_mark(job).job_id, read_mark(job).restarts) == ("8_2", 1)
    assert job.task.log.read_text() == "first\nsecond\n"


SAVES = """
import os, signal, sys, time
def save(number, frame):
    print("saved", flush=True)
    sys.exit(128 + number)
signal.signal(signal.SIGINT, save)
signal.signal(signal.SIGTERM, save)
print("begun", flush=True)
time.sleep(30)
"""


def call_when_begun(job, action):
    """Calls a function as soon as the command of a job has begun."""

    def wait():
        while not (job.task.log.is_file() and "begun" in job.task.log.read_text()):
            time.sleep(0.02)
        action()

    threading.Thread(target=wait, daemon=True).start()


def test_the_warning_before_the_time_limit_lets_the_command_save(run_job):
    job = run_job(SAVES)
    repeated = []

    def requeue(number, frame):
        repeated.append(job.checkpoint())
        sys.exit(-1)

    before = signal.signal(signal.SIGUSR2, requeue)
    # Slurm sends it to all processes of the step; the command must not heed it.
    call_when_begun(job, lambda: (job.child.process.send_signal(signal.SIGUSR2), os.kill(os.getpid(), signal.SIGUSR2)))
    try:
        with pytest.raises(SystemExit) as end:
            job()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert end.value.code == -1
    assert job.task.log.read_text() == "begun\nsaved\n"
    assert repeated[0].function.child is None
    assert repeated[0].function.task == job.task


def test_a_job_that_is_ended_by_somebody_marks_that_it_has_saved(run_job):
    job = run_job(SAVES)
    call_when_begun(job, lambda: job.child.process.send_signal(signal.SIGTERM))
    with pytest.raises(SystemExit):
        job()
    assert read_mark(job).phase == "saved"


ENDS_WITH_AN_ERROR = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
print("begun", flush=True)
time.sleep(30)
"""


@pytest.mark.parametrize(("ended", "phase"), [(True, "saved"), (False, "failed")])
def test_torchrun_that_somebody_ended_has_saved_though_its_exit_code_is_one(run_job, monkeypatch, ended, phase):
    monkeypatch.setattr(JobCommand, "build_command", lambda self: list(self.task.command))
    job = run_job(ENDS_WITH_AN_ERROR, processes=2)
    job.task = replace(job.task, resources=Resources(nodes=2, is_parallel=True))

    def end():
        if ended:  # Slurm sends the signal to all processes of a step
            os.kill(os.getpid(), signal.SIGTERM)
        os.killpg(job.child.process.pid, signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    call_when_begun(job, end)
    with pytest.raises(SystemExit):
        job()
    assert read_mark(job).phase == phase
    assert f"{job.task.log.stem}_rank_*.log" in read_mark(job).reason or not ended
    assert signal.getsignal(signal.SIGTERM) is before


def test_several_computers_are_joined_by_torchrun(run_job, monkeypatch):
    monkeypatch.setenv("SLURM_LAUNCH_NODE_IPADDR", "10.0.0.1")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    job = run_job("pass", processes=4)
    job.task = make_task(job.mark.parent, "2d, fold 0", resources=Resources(nodes=2, is_parallel=True))
    words = job.build_command()
    assert words[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert words[-3:] == ["-S", "-c", "pass"]
    assert {"--nnodes=2", "--nproc-per-node=4", "--rdzv-endpoint=10.0.0.1:20009", "--rdzv-id=9.2"} <= set(words)
    assert "--max-restarts=3" in words
    assert any("join_timeout=" in word for word in words)
    monkeypatch.setattr(JobCommand, "build_command", lambda self: list(self.task.command))
    variable = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"  # without it, processes may wait for ever after a restart
    job.task = make_task(job.mark.parent, "2d, fold 0", code=f"import os; print(os.environ.get({variable!r}))")
    job()
    alone = run_job(job.task.command[-1])
    alone()
    assert (job.task.log.read_text(), alone.task.log.read_text()) == ("1\n", "None\n")


def test_a_container_holds_the_command_and_neither_the_job_nor_what_queues_it_again(slurm, root, run_job, monkeypatch):
    container = 'env IMAGE="$SLURMD_NODENAME.sif"'
    text = open_and_describe(root, [make_task(root, "2d, fold 0")], [f"container={container}"])
    assert f" {sys.executable} -u -m submitit" in text
    job = build_job(make_task(root, "2d, fold 0"), SlurmSettings(container=container), root / "jobs")
    assert job.build_command() == ["python3", "-S", "-c", "pass"]
    shown = run_job("import os; print(os.environ['IMAGE'])", container=container)
    monkeypatch.setattr(slurm_job, "PYTHON_OF_CONTAINER", sys.executable)
    shown()
    assert shown.task.log.read_text() == "n1.sif\n"


def test_one_process_is_the_command_itself(run_job):
    assert run_job("pass").build_command() == [sys.executable, "-S", "-c", "pass"]


@pytest.mark.parametrize(("given", "threads"), [(None, "4"), ("3", "3")])
def test_a_command_computes_with_the_cores_of_its_job(run_job, monkeypatch, given, threads):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    job = run_job("import os; print(os.environ['OMP_NUM_THREADS'])", processes=2)
    monkeypatch.setattr(JobCommand, "build_command", lambda self: list(self.task.command))
    job()
    assert job.task.log.read_text() == f"{threads}\n"


def test_only_the_first_computer_marks(run_job, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_NODEID", "1")
    job = run_job("pass")
    job()
    assert not job.mark.exists()
    assert job.task.find_log(1).is_file()
