"""Slurm as a place that runs tasks, and cases in jobs of many."""

import logging
import shlex
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from autoseg.errors import OptionError, WorkerError, quote_path, shorten_names
from autoseg.places.case_worker import describe_caller, find_present_folder
from autoseg.places.place import Job, Result, States, Task
from autoseg.places.slurm.case_jobs import (
    CaseWork,
    build_tasks,
    find_resources,
    iterate_cases,
    list_tasks,
    open_case_folder,
)
from autoseg.places.slurm.jobs import ACTIVE, JobRecord, find_jobs_folder, read_jobs, read_task_states
from autoseg.places.slurm.programs import find_time_limit, run_slurm
from autoseg.places.slurm.settings import SlurmSettings, find_settings
from autoseg.places.slurm.submission import build_parameters, build_script, describe_after, group_tasks, submit_wave
from autoseg.processes.case_pool import CaseSize, PoolOutcome, gather_outcome
from autoseg.processes.fold_lock import wait_for_lock
from autoseg.processes.progress import Progress

SECONDS_BETWEEN_LOOKS: Final = 1.0
MOST_SECONDS_BETWEEN_LOOKS: Final = 15.0  # administrators ask not to ask squeue more often
GROWTH: Final = 1.2
SECONDS_FOR_OTHERS: Final = 300.0  # another command may submit hundreds of jobs
PAUSES_SECONDS: Final = (15.0, 30.0, 60.0, 120.0, 240.0)
"""Pauses after which squeue is asked again: a controller may be busy, or is started again."""
AFTER_SILENCE_OF_CASES: Final = (
    "jobs that were submitted end after their present case; what is written stays, and the same command continues"
)

FOLDER_IN_SCRIPTS: Final = "JOBS_OF_THE_COMMAND"
"""Stands for the folder of a command in the scripts of a dry run: it is made with the jobs."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slurm:
    """The place that submits jobs.

    Attributes:
        run_root: Run folder.
        folder: Folder for its jobs.
        settings: Settings of the site.
        after_silence: Fate of jobs that were submitted, in words, for when Slurm stops answering.
    """

    run_root: Path
    folder: Path
    settings: SlurmSettings
    after_silence: str = "the jobs that were submitted continue, and the same command shows them again"

    @property
    def is_detached(self) -> bool:
        """Returns True: jobs continue when the command that has submitted them ends."""
        return True

    def run_over_cases(
        self,
        work: Callable[[Job], Result],
        jobs: Sequence[tuple[str, Job]],
        *,
        workers: int,
        label: str,
        progress: Progress,
        sizes: Mapping[str, CaseSize] | None = None,
        collect: Callable[[int, Result], None] | None = None,
        runs_networks: bool = False,
        uses_gpu: bool = True,
    ) -> PoolOutcome[Result]:
        """Calls `work(job)` for every case, divided among jobs, which are cancelled with the command.

        Raises:
            WorkerError: Slurm does not answer for minutes, or refuses the jobs, or a job cannot work on the cases.
            RunError: The run cannot be written.
        """
        del workers
        if not jobs:
            return PoolOutcome(results=(), failures=())
        with describe_caller(self.run_root) as caller, open_case_folder(self.run_root) as folder:
            given = CaseWork(
                work=work, jobs=jobs, caller=caller, runs_networks=runs_networks, sizes=sizes or {}, uses_gpu=uses_gpu
            )
            tasks = build_tasks(folder, given, label=label, count=min(self.settings.case_jobs, len(jobs)))
            steps = replace(self, folder=folder, after_silence=AFTER_SILENCE_OF_CASES).run_tasks(tasks)
            events = iterate_cases(folder, given, tasks, steps)
            return gather_outcome(progress.track(events, label=label, total=len(jobs), unit="case"), collect=collect)

    def run_tasks(self, tasks: Sequence[Task]) -> Generator[States, None, None]:
        """Submits all tasks that are not in the queue yet; yields their states until all have ended.

        When it is closed early, the jobs continue.

        Raises:
            WorkerError: Slurm does not answer for minutes, or refuses the jobs, or a task that is exact is in the queue
                with other options.
        """
        self._submit_missing(tasks)
        names = {task.name for task in tasks}
        seconds = SECONDS_BETWEEN_LOOKS
        while True:
            states = {name: state for name, state in self._read_states().items() if name in names}
            _check_commands(read_jobs(self.folder), tasks, self.run_root)
            yield states
            if not any(state.phase in ACTIVE for state in states.values()):
                return
            time.sleep(seconds)
            seconds = min(MOST_SECONDS_BETWEEN_LOOKS, GROWTH * seconds)

    def describe_tasks(self, tasks: Sequence[Task]) -> str:
        """Returns the scripts that would be given to sbatch, and what each task runs.

        Raises:
            OptionError: submitit is not installed, no GPU of the site has enough memory, or processes cannot share a
                task.
        """
        texts, most_minutes = [], self._find_time_limit()
        for wave in group_tasks(tasks):
            texts += [f"# {task.name}: {shlex.join(task.command)}" for task in wave]
            origin = wave[0].resources.time_origin
            if origin is not None and self.settings.time_minutes is None:
                texts.append(f"# its time limit comes from {origin}")
            texts.append(
                build_script(wave, self.settings, self.folder, after=describe_after(wave), most_minutes=most_minutes)
            )
        return "\n".join(texts)

    def describe_cases(
        self,
        jobs: Sequence[tuple[str, Job]],
        *,
        label: str,
        sizes: Mapping[str, CaseSize] | None = None,
        runs_networks: bool = False,
        uses_gpu: bool = True,
    ) -> str:
        """Returns the script of the array among whose jobs the cases would be divided; nothing is written.

        Raises:
            OptionError: submitit is not installed, or no GPU of the site has enough memory.
        """
        if not jobs:
            return f"# {label}: nothing to do"
        needed = find_resources(sizes or {}, runs_networks=runs_networks, uses_gpu=uses_gpu)
        count = min(self.settings.case_jobs, len(jobs))
        folder = find_jobs_folder(find_present_folder(self.run_root)).with_name(FOLDER_IN_SCRIPTS)
        tasks = list_tasks(folder, needed, label=label, count=count)
        return f"# {label}: {len(jobs)} cases\n{replace(self, folder=folder).describe_tasks(tasks)}"

    def _find_time_limit(self) -> int | None:
        """Finds the time limit that no job may exceed, unless the user gives one: jobs continue after it anyway."""
        return None if self.settings.time_minutes else find_time_limit(self.settings.partition)

    def _read_states(self) -> States:
        """Reads the states, again after a while where Slurm does not answer: the jobs continue meanwhile.

        Raises:
            WorkerError: It did not answer any time.
        """
        for seconds in PAUSES_SECONDS:
            try:
                return read_task_states(self.folder)
            except WorkerError as error:
                logger.warning("%s; asked again in %.0f s", error, seconds)
                time.sleep(seconds)
        try:
            return read_task_states(self.folder)
        except WorkerError as error:
            msg = f"{error}; {self.after_silence}"
            raise WorkerError(msg) from error

    def _submit_missing(self, tasks: Sequence[Task]) -> None:
        lock = self.folder / ".submitting.lock"
        with wait_for_lock(lock, on_wait=lambda: None, longest_seconds=SECONDS_FOR_OTHERS):
            states = read_task_states(self.folder)
            active = [job for job in read_jobs(self.folder) if states[job.task].phase in ACTIVE]
            known = {job.task: job for job in _cancel_early_jobs(active, tasks)}
            _check_commands(known.values(), tasks, self.run_root)
            left = [task.name for task in tasks if task.name in known]
            if left:
                logger.warning("in the queue already, and left as they were submitted: %s", shorten_names(left))
            waves = group_tasks([task for task in tasks if task.name not in known])
            for wave in waves:  # what is refused is refused before anything is submitted
                build_parameters(wave, self.settings, after=())
            most_minutes = self._find_time_limit() if waves else None
            for wave in waves:
                records = submit_wave(wave, self.settings, self.folder, known=known, most_minutes=most_minutes)
                known |= {record.task: record for record in records}


def _cancel_early_jobs(active: Sequence[JobRecord], tasks: Sequence[Task]) -> list[JobRecord]:
    """Cancels jobs that would not wait for all that their tasks need by now; returns the other ones.

    Such is the selection that was submitted for one configuration, when a further one is to be trained.

    Raises:
        WorkerError: Slurm refuses.
    """
    needs = {task.name: set(task.needs) for task in tasks}
    early = [job for job in active if not needs.get(job.task, set()) <= set(job.needs)]
    if early:
        logger.warning("submitted anew, to wait for more tasks: %s", shorten_names([job.task for job in early]))
        run_slurm(["scancel", *(job.job_id for job in early)])
    return [job for job in active if job not in early]


def _check_commands(jobs: Iterable[JobRecord], tasks: Sequence[Task], run_root: Path) -> None:
    """Checks that jobs of exact tasks run the same commands: otherwise the result of other options would be taken.

    Raises:
        WorkerError: One does not.
    """
    expected = {task.name: task.command for task in tasks if task.is_exact}
    for job in jobs:
        if job.command and job.command != expected.get(job.task, job.command):
            msg = (
                f"{job.task}: job {job.job_id} was submitted with other options, by `{shlex.join(job.command)}`, and "
                f"not by `{shlex.join(expected[job.task])}`; wait until it has ended, or end it with "
                f"`autoseg cancel {quote_path(run_root)}`, and repeat the command"
            )
            raise WorkerError(msg)


@contextmanager
def open_slurm(address: str, run_root: Path, settings: Sequence[str]) -> Iterator[Slurm]:
    """Opens the Slurm of this computer.

    Raises:
        OptionError: There is an address, a setting that does not exist, or a % in the path of the run.
        DocumentError: The file of settings breaks the schema.
    """
    if address:
        msg = f"--on slurm takes no address, found {address!r}; give settings with --slurm KEY=VALUE"
        raise OptionError(msg)
    if "%" in str(run_root.absolute()):
        msg = f"--on slurm: Slurm replaces what follows % in the names of logs, found {run_root.absolute()}; rename it"
        raise OptionError(msg)
    yield Slurm(run_root=run_root, folder=find_jobs_folder(run_root), settings=find_settings(run_root, settings))
