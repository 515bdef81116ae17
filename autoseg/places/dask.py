"""Workers of Dask, of a cluster that runs already or of one that is started on this computer for a command.

Only the work on cases runs there. A worker that dies costs the case that it worked on, which another one does again.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NoReturn

from autoseg.errors import OptionError, WorkerError
from autoseg.files.temporary_files import make_temporary_folder
from autoseg.places.case_worker import Caller, describe_caller
from autoseg.places.dask_queue import CaseQueue, DaskClient
from autoseg.places.place import Job, Result, States, Task, refuse_to_describe
from autoseg.processes.case_pool import CaseSize, PoolOutcome, gather_outcome
from autoseg.processes.fork_server import defer_interruptions
from autoseg.processes.library_output import silence_libraries
from autoseg.processes.progress import Progress
from autoseg.runtime.cpu_time import count_usable_cpus

SECONDS_TO_CONNECT: Final = 20.0
SECONDS_TO_CLOSE: Final = 30.0
DEATHS_OF_A_CASE: Final = 1  # as on this computer without Dask: a case is tried twice
VISIBLE_GPUS: Final = "CUDA_VISIBLE_DEVICES"
ONLY_CASES: Final = (
    "--on dask is for work on single cases (plan, preprocess, predict, evaluate); train here or --on slurm"
)
PROTOCOL_PACKAGES: Final = ("dask", "distributed")

SETTINGS: Final = {
    "distributed.nanny.pre-spawn-environ": {},
    "distributed.deploy.lost-worker-timeout": "1h",  # a busy computer needs more than 15 s to start a process again
}

NAME_OF_PROCESSES: Final = "Dask Worker"

ProvideClient = Callable[[int, bool], DaskClient]
"""Returns the connection to workers; to so many, if they are to be started, and whether they run networks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaskCluster:
    """The place of cases.

    Attributes:
        provide_client: Returns the connection to the scheduler.
        caller: Description of this process, with which the workers must agree.
    """

    provide_client: ProvideClient
    caller: Caller

    @property
    def is_detached(self) -> bool:
        """Returns False: cases that are not yet worked on are cancelled with the command."""
        return False

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
        """Calls `work(job)` for every case, one case at a time in each worker.

        Raises:
            WorkerError: Workers cannot work on the cases, or they or the scheduler are gone.
        """
        del uses_gpu  # the work names its device, and workers are there already
        if not jobs:
            return PoolOutcome(results=(), failures=())
        queue = CaseQueue(
            client=self.provide_client(workers, runs_networks),
            work=work,
            jobs=jobs,
            caller=self.caller,
            label=label,
            runs_networks=runs_networks,
            sizes=sizes or {},
            note=progress.note,
        )
        return gather_outcome(
            progress.track(queue.iterate(), label=label, total=len(jobs), unit="case"), collect=collect
        )

    def run_tasks(self, tasks: Sequence[Task]) -> Generator[States, None, None]:
        """Refuses commands.

        Raises:
            OptionError: Always.
        """
        del tasks
        raise OptionError(ONLY_CASES)

    def describe_tasks(self, tasks: Sequence[Task]) -> str:
        """Refuses commands.

        Raises:
            OptionError: Always.
        """
        del tasks
        raise OptionError(ONLY_CASES)

    def describe_cases(self, jobs: Sequence[tuple[str, Job]], **described: Any) -> NoReturn:
        """Refuses to describe work on cases, for which there is no script.

        Raises:
            OptionError: Always.
        """
        refuse_to_describe()


@contextmanager
def open_dask(address: str, run_root: Path, settings: Sequence[str]) -> Iterator[DaskCluster]:
    """Opens a cluster: the one of the scheduler at an address, or without one, processes of this computer.

    Raises:
        OptionError: Dask is not installed, the address is none, or there are settings.
        WorkerError: No scheduler answers there, or it has another version.
    """
    if settings:
        msg = f"--on dask takes no settings, found {settings[0]!r}"
        raise OptionError(msg)
    if find_spec("distributed") is None:
        msg = "--on dask needs Dask, which is not installed: pip install 'autoseg[dask]'"
        raise OptionError(msg)
    with ExitStack() as opened:
        client = opened.enter_context(_connect(address)) if address else None
        caller = opened.enter_context(describe_caller(run_root))
        if client is not None:
            yield DaskCluster(provide_client=lambda count, runs_networks: client, caller=caller)
        else:
            yield DaskCluster(provide_client=opened.enter_context(_open_local()).provide, caller=caller)


def dask_setup(worker: object) -> None:
    """Prepares a worker that was started for one command; Dask calls it in processes that preload this module.

    Ctrl-C, which reaches all processes of a terminal, is left to the main process.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence_libraries()


@contextmanager
def _connect(address: str) -> Iterator[Any]:
    """Connects to a scheduler.

    Raises:
        OptionError: That is no address.
        WorkerError: No scheduler answers there, or it or a worker has other versions.
    """
    from distributed import Client

    if not address.rpartition(":")[2].isdigit():
        msg = f"--on: expected the address of a scheduler such as dask://10.0.0.1:8786, found dask://{address}"
        raise OptionError(msg)
    url = address if "://" in address else f"tcp://{address}"
    _silence_dask()
    try:
        asyncio.run(_greet(url))
        client = Client(url, timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        msg = (
            f"no scheduler of Dask answers at {url} within {SECONDS_TO_CONNECT:.0f} seconds ({error}); start one with "
            f"`dask scheduler`, or correct the address"
        )
        raise WorkerError(msg) from error
    try:
        with suppress(TimeoutError):  # of a worker that hangs; cases go to the others
            check_versions(client.sync(client._get_versions, callback_timeout=SECONDS_TO_CONNECT))
        yield client
    finally:
        client.close(SECONDS_TO_CLOSE)


async def _greet(url: str) -> None:
    """Checks that Dask answers at an address; a client would wait for ever for a program that accepts connections.

    Raises:
        OSError, TimeoutError: Nothing is there, or something else.
    """
    from distributed.comm import connect

    connection = await asyncio.wait_for(connect(url, timeout=SECONDS_TO_CONNECT), SECONDS_TO_CONNECT)
    connection.abort()


def check_versions(found: Mapping[str, Any]) -> None:
    """Checks that scheduler and workers have the Python and the Dask of this process, by Dask's own report.

    Raises:
        WorkerError: They have not.
    """
    expected = _find_protocol(found["client"])
    others = {"the scheduler": found["scheduler"]} | {f"the worker {url}": one for url, one in found["workers"].items()}
    for where, one in others.items():
        if _find_protocol(one) != expected:
            msg = (
                f"{where} has {_find_protocol(one)}, and this process {expected}; install the same versions everywhere"
            )
            raise WorkerError(msg)


def _find_protocol(versions: Mapping[str, Any]) -> str:
    python = ".".join(str(versions["host"]["python"]).split(".")[:2])
    packages = (f"{name} {versions['packages'].get(name)}" for name in PROTOCOL_PACKAGES)
    return ", ".join([f"Python {python}", *packages])


@dataclass(slots=True, kw_only=True)
class _LocalWorkers:
    """Processes of this computer that work for one command.

    They are started when cases are there, as many as fit into memory, or one for each GPU, and kept for more cases that
    need as many.

    Attributes:
        scratch: Folder for temporary files.
        cluster: Ends the processes.
    """

    scratch: Path
    cluster: ExitStack = field(default_factory=ExitStack)
    client: Any = None
    environments: tuple[Mapping[str, str], ...] = ()

    def provide(self, count: int, runs_networks: bool) -> DaskClient:
        """Returns the connection to so many processes."""
        environments = list_environments(count, gpus=_list_gpus() if runs_networks else ())
        if environments != self.environments:
            self.cluster.close()
            self.client = self.cluster.enter_context(_start_workers(environments, self.scratch))
            self.environments = environments
        client: DaskClient = self.client
        return client


@contextmanager
def _open_local() -> Iterator[_LocalWorkers]:
    with make_temporary_folder() as scratch:
        local = _LocalWorkers(scratch=scratch)
        with local.cluster:
            yield local


def list_environments(count: int, *, gpus: Sequence[str]) -> tuple[Mapping[str, str], ...]:
    """Lists environment variables, one mapping for each process: its GPU, or its share of the cores."""
    if gpus:
        return tuple({VISIBLE_GPUS: gpu} for gpu in gpus)
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, count_usable_cpus() // count)))
    return ({"OMP_NUM_THREADS": threads},) * count


def _list_gpus() -> tuple[str, ...]:
    import torch

    visible = os.environ.get(VISIBLE_GPUS)
    if not torch.cuda.is_available():
        return ()
    return tuple(visible.split(",")) if visible else tuple(map(str, range(torch.cuda.device_count())))


@contextmanager
def _start_workers(environments: Sequence[Mapping[str, str]], scratch: Path) -> Iterator[Any]:
    """Starts a scheduler in this process and a worker in a process of its own for each environment.

    Workers have no limit of memory of Dask's: at one, it would move results to disk, pause, and at last kill workers
    in the middle of a large case. The number of workers follows from the sizes of the cases.

    Raises:
        WorkerError: They do not start.
    """
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster

    common = {
        "host": "127.0.0.1",
        "nthreads": 1,
        "memory_limit": 0,
        "dashboard": False,
        "local_directory": str(scratch),
        "preload": [__name__],
        "silence_logs": logging.CRITICAL,
    }
    specifications = {
        index: {"cls": Nanny, "options": common | {"env": dict(environment)}}
        for index, environment in enumerate(environments)
    }
    scheduler = {
        "cls": Scheduler,
        "options": {"host": "127.0.0.1", "port": 0, "dashboard": False, "allowed_failures": DEATHS_OF_A_CASE},
    }
    _silence_dask()
    with ExitStack() as opened:
        opened.enter_context(_unchanged_environment())
        opened.enter_context(dask.config.set(SETTINGS))
        try:
            with defer_interruptions():
                cluster = SpecCluster(workers=specifications, scheduler=scheduler, silence_logs=logging.CRITICAL)
                opened.callback(_close, cluster)
                client = Client(cluster, timeout=SECONDS_TO_CONNECT, set_as_default=False)
                opened.callback(client.close, SECONDS_TO_CLOSE)
        except (OSError, RuntimeError, TimeoutError) as error:
            msg = f"the workers of Dask cannot be started on this computer ({error})"
            raise WorkerError(msg) from error
        yield client


def _close(cluster: Any) -> None:
    """Ends scheduler and workers; those that take too long, as on a busy computer, are killed."""
    try:
        cluster.close(timeout=SECONDS_TO_CLOSE)
    except TimeoutError:
        for process in multiprocessing.active_children():
            if process.name.startswith(NAME_OF_PROCESSES):
                process.kill()


@contextmanager
def _unchanged_environment() -> Iterator[None]:
    """Undoes what Dask changes in this process's environment for its workers."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _silence_dask() -> None:
    """Keeps messages of Dask from the terminal; what matters of them is reported here."""
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
