"""Submits tasks through submitit: one array for all tasks that need the same, after the arrays that they wait for."""

import math
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from autoseg.errors import OptionError, WorkerError
from autoseg.places.place import Resources, Task
from autoseg.places.slurm.job import JobCommand
from autoseg.places.slurm.jobs import JobRecord, add_jobs, find_mark
from autoseg.places.slurm.settings import SlurmSettings, count_gpus
from autoseg.processes.fork_server import defer_interruptions
from autoseg.run_folder import make_folder

if TYPE_CHECKING:
    from submitit import SlurmExecutor

MARGIN_MINUTES: Final = 15  # guess: the start of a container, reading from a network drive, the first compilation
DEFAULT_MINUTES: Final = 24 * 60  # guess: what most sites allow
MOST_AT_ONCE: Final = 256
UNLIMITED_TIMEOUTS: Final = 1_000_000  # submitit ends a job that has reached its time limit more often
GIGABYTE: Final = 10**9
Wave = tuple[Task, ...]
"""Tasks that are submitted as one array."""


def group_tasks(tasks: Sequence[Task]) -> tuple[Wave, ...]:
    """Groups tasks that wait for the same ones and need the same resources, in their order."""
    waves: dict[object, list[Task]] = {}
    for task in tasks:
        waves.setdefault((_name_kind(task), task.needs, task.resources), []).append(task)
    return tuple(map(tuple, waves.values()))


def build_parameters(
    wave: Wave, settings: SlurmSettings, *, after: Sequence[str], most_minutes: int | None = None
) -> dict[str, Any]:
    """Builds the options of sbatch for an array, as submitit names them.

    Args:
        wave: Tasks of the array.
        settings: Settings of the site.
        after: Jobs that must succeed first.
        most_minutes: Time limit of the partition; None for none.

    Raises:
        OptionError: No GPU of the site has enough memory, or processes would share a fold that cannot be divided so.
    """
    needed = wave[0].resources
    gres = settings.choose_gres(needed.gpu_bytes)
    processes = needed.count_processes(count_gpus(gres))
    check_processes(wave[0], gres=gres, processes=processes)
    cores = settings.cpus or needed.cores
    memory_gb = settings.memory_gb or math.ceil(needed.ram_bytes * processes / GIGABYTE)
    further = {"requeue": True, "kill-on-invalid-dep": "yes", **settings.options}
    given = {
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "gres": gres or None,
        "dependency": f"afterok:{':'.join(after)}" if after else None,
        "setup": list(settings.setup) or None,
        "mem": f"{memory_gb * 1000:.0f}M" if memory_gb else None,
    }
    return {
        "job_name": f"autoseg-{_name_kind(wave[0])}",
        "nodes": needed.nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": cores * processes,
        "time": settings.time_minutes or _compute_minutes(needed, most_minutes),
        "signal_delay_s": settings.signal_seconds,
        "array_parallelism": settings.most_at_once or MOST_AT_ONCE,
        "wckey": "autoseg",
        # since Slurm 22.05 a step does not inherit the cores of its job
        "srun_args": [f"--cpus-per-task={cores * processes}", "--kill-on-bad-exit=1"],
        "additional_parameters": further,
        **{name: value for name, value in given.items() if value is not None},
    }


def check_processes(task: Task, *, gres: str, processes: int) -> None:
    """Checks that a task that processes share has several, and something to do for each of them.

    Raises:
        OptionError: It has not.
    """
    needed = task.resources
    count, most = needed.nodes * processes, needed.most_processes
    if not needed.is_parallel:
        return
    found = f"{task.name}: --nodes {needed.nodes} with {gres or 'no GPUs'} of each makes {count} process"
    if count == 1:
        msg = f"{found}, and --parallel needs several; give --slurm gres=gpu:2 or --nodes 2, or leave out --parallel"
        raise OptionError(msg)
    if most is not None and count > most:
        msg = (
            f"{found}es, and a batch of {most} cannot be divided among them; ask for at most {most} (--nodes, --slurm "
            f"gres=gpu:N), or raise training.batch_size in plan.json"
        )
        raise OptionError(msg)


def build_script(
    wave: Wave, settings: SlurmSettings, folder: Path, *, after: Sequence[str], most_minutes: int | None = None
) -> str:
    """Builds the script that submitit gives to sbatch; the jobs to wait for have no number yet, so they are named.

    Args:
        wave: Tasks of the array.
        settings: Settings of the site.
        folder: Folder of the run for its jobs.
        after: Names of what must succeed first.
        most_minutes: Time limit of the partition; None for none.

    Raises:
        OptionError: submitit is not installed, or no GPU of the site has enough memory.
    """
    check_submitit()
    from submitit.slurm.slurm import _make_sbatch_string

    count = len(wave) if len(wave) > 1 else None
    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder.resolve()))}"
    parameters = build_parameters(wave, settings, after=after, most_minutes=most_minutes)
    script: str = _make_sbatch_string(command=command, folder=folder, map_count=count, **parameters)
    return script


def submit_wave(
    wave: Wave,
    settings: SlurmSettings,
    folder: Path,
    *,
    known: Mapping[str, JobRecord],
    most_minutes: int | None = None,
) -> tuple[JobRecord, ...]:
    """Submits an array and adds it to the list of jobs.

    Args:
        wave: Tasks of the array.
        settings: Settings of the site.
        folder: Folder of the run for its jobs.
        known: Jobs of the tasks that these may need, by task.
        most_minutes: Time limit of the partition; None for none.

    Raises:
        WorkerError: sbatch refuses the job.
        OptionError: submitit is not installed.
    """
    waited = [known[name].job_id for name in wave[0].needs if name in known]
    executor = _open_executor(folder)
    executor.update_parameters(**build_parameters(wave, settings, after=waited, most_minutes=most_minutes))
    commands = [build_job(task, settings, folder) for task in wave]
    for command in commands:
        command.mark.unlink(missing_ok=True)
    with defer_interruptions():  # otherwise a job might be in the queue that no command knows
        job_ids = _call_sbatch(lambda: _submit(executor, commands))
        pairs = zip(wave, job_ids, strict=True)
        records = tuple(
            JobRecord(task=task.name, job_id=job_id, needs=task.needs, command=task.command) for task, job_id in pairs
        )
        add_jobs(folder, records)
    return records


def build_job(task: Task, settings: SlurmSettings, folder: Path) -> JobCommand:
    """Builds what the job of a task runs."""
    needed = task.resources
    return JobCommand(
        task=task,
        mark=find_mark(folder.resolve(), task.name),
        processes=needed.count_processes(count_gpus(settings.choose_gres(needed.gpu_bytes))),
        seconds_to_save=settings.signal_seconds,
        container=settings.container,
    )


def check_submitit() -> None:
    """Checks that submitit is installed.

    Raises:
        OptionError: It is not.
    """
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        msg = "--on slurm needs submitit, which is not installed: pip install 'autoseg[slurm]'"
        raise OptionError(msg) from error


def _open_executor(folder: Path) -> "SlurmExecutor":
    check_submitit()
    from submitit import SlurmExecutor

    make_folder(folder)
    try:
        return SlurmExecutor(folder.resolve(), max_num_timeout=UNLIMITED_TIMEOUTS, python=shlex.quote(sys.executable))
    except RuntimeError as error:  # there is no srun
        msg = "there is no Slurm on this computer (no srun); give the command on a login node of the cluster"
        raise WorkerError(msg) from error


def _submit(executor: "SlurmExecutor", commands: Sequence[JobCommand]) -> list[str]:
    with executor.batch():
        jobs = [executor.submit(command) for command in commands]
    return [str(job.job_id) for job in jobs]


def _call_sbatch(submit: Callable[[], list[str]]) -> list[str]:
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        return submit()
    except (FailedJobError, FailedSubmissionError) as error:
        msg = f"sbatch refused the jobs: {str(error).strip()}; change the settings of the site (slurm.json, --slurm)"
        raise WorkerError(msg) from error


def _compute_minutes(needed: Resources, most_minutes: int | None) -> int:
    minutes = DEFAULT_MINUTES if needed.seconds is None else math.ceil(needed.seconds / 60) + MARGIN_MINUTES
    return minutes if most_minutes is None or not needed.may_be_cut else min(minutes, most_minutes)


def _name_kind(task: Task) -> str:
    """Returns the name without the fold."""
    return task.name.partition(",")[0]


def describe_after(wave: Wave) -> list[str]:
    """Names the arrays that an array waits for, before they have numbers."""
    return list(dict.fromkeys(name.partition(",")[0] for name in wave[0].needs))
