"""Work that goes wrong in a worker of Dask; in a module of its own, which workers import."""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from autoseg.places.dask import DaskCluster
from autoseg.processes.case_pool import CaseSize, PoolOutcome
from autoseg.processes.progress import Progress
from autoseg.workflows.plan import preprocessing

BEFORE, AFTER = "before", "after"


def preprocess_in_dying_worker(job: Any, *, work: Callable[[Any], Any], deaths: Path) -> Any:
    """Preprocesses a case; of the first two workers one dies before the arrays are written, one just after."""
    moment = next((name for name in (BEFORE, AFTER) if _claim(deaths / name)), None)
    write = preprocessing.write_case
    if moment is not None:
        preprocessing.write_case = lambda *arguments, **options: _write_and_die(write, moment, arguments, options)
    return work(job)


def _claim(mark: Path) -> bool:
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _write_and_die(
    write: Callable[..., None], moment: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    if moment == AFTER:
        write(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)


def end_process(job: int) -> int:
    """Ends the process of the worker for odd numbers."""
    if job % 2:
        os._exit(1)
    return job


@dataclass(frozen=True, slots=True, kw_only=True)
class DyingCluster:
    """Workers of Dask, of which two die while they preprocess."""

    cluster: DaskCluster
    deaths: Path

    @property
    def is_detached(self) -> bool:
        """Returns False."""
        return False

    def run_over_cases(
        self,
        work: Callable[[Any], Any],
        jobs: Sequence[tuple[str, Any]],
        *,
        workers: int,
        label: str,
        progress: Progress,
        sizes: Mapping[str, CaseSize] | None = None,
        collect: Callable[[int, Any], None] | None = None,
        runs_networks: bool = False,
        uses_gpu: bool = True,
    ) -> PoolOutcome[Any]:
        """Calls `work(job)` for every case."""
        if label == "Preprocessing":
            work = partial(preprocess_in_dying_worker, work=work, deaths=self.deaths)
        return self.cluster.run_over_cases(
            work,
            jobs,
            workers=workers,
            label=label,
            progress=progress,
            sizes=sizes,
            collect=collect,
            runs_networks=runs_networks,
            uses_gpu=uses_gpu,
        )

    def run_tasks(self, tasks: Any) -> Any:
        """Refuses."""
        return self.cluster.run_tasks(tasks)

    def describe_tasks(self, tasks: Any) -> str:
        """Refuses."""
        return self.cluster.describe_tasks(tasks)

    def describe_cases(self, jobs: Any, **described: Any) -> str:
        """Refuses."""
        return self.cluster.describe_cases(jobs, **described)
