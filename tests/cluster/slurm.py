"""Starts a Slurm of this computer alone: a controller and two nodes with GPUs that are none, in a folder of its own."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from builders.debian import install_packages

NODES = ("n1", "n2")
GPUS_PER_NODE = 2
SYSTEM_CONFIGURATION = Path("/etc/slurm/slurm.conf")
PACKAGES = ("slurm-wlm", "munge")
DAEMONS = ("munged", "slurmctld", "slurmd")
SECONDS_TO_START = 60.0
SECONDS_TO_END = 15.0
NULL_DEVICE = os.makedev(1, 3)

CONFIGURATION = """
ClusterName=autoseg
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=10
KillWait=3
MinJobAge=3600
JobRequeue=1
GresTypes=gpu
SlurmdParameters=config_overrides
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=4000 Gres=gpu:2"


def find_reason_to_skip() -> str | None:
    """Finds why no Slurm can be started here; installs the packages of Debian where they are missing."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "a Slurm of its own needs Linux and the superuser"
    running = [process.info for process in psutil.process_iter(["name", "status"])]
    names = {info["name"] for info in running if info["status"] != psutil.STATUS_ZOMBIE}
    if SYSTEM_CONFIGURATION.exists() or names & {"slurmctld", "slurmd"}:
        return "this computer has a Slurm, which is not disturbed"
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    if not missing:
        return None
    problem = install_packages(PACKAGES)
    return None if problem is None else f"{', '.join(missing)} are not installed: {problem}"


def run(*command: str) -> str:
    """Runs a command of Slurm to its end."""
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            msg = f"this did not happen in {seconds:.0f} s: {what}"
            raise TimeoutError(msg)
        time.sleep(0.2)


def kill_tree(pid: int) -> None:
    """Kills a process and all that it has started, like a node that loses its power."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                each.kill()


@dataclass
class Cluster:
    """A running Slurm.

    Attributes:
        folder: Its files.
        daemons: Processes by name: "munged", "slurmctld", and those of the nodes by the names of these.
    """

    folder: Path
    daemons: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str]) -> None:
        """Starts a daemon in the foreground, in a session of its own."""
        with (self.folder / f"{name}.out").open("ab") as output:
            self.daemons[name] = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def start_node(self, name: str) -> None:
        """Starts a node."""
        self.start(name, ["slurmd", "-D", "-c", "-N", name])

    def kill_node(self, name: str) -> None:
        """Kills a node with its jobs, at once."""
        jobs = list_processes_of_node(name)
        daemon = self.daemons.pop(name)
        for pid in (daemon.pid, *jobs):
            kill_tree(pid)
        daemon.wait(timeout=SECONDS_TO_END)

    def hasten(self) -> None:
        """Lets jobs that were queued again begin, for which Slurm waits two minutes."""
        for line in run("squeue", "--array", "--noheader", "--states=PENDING", "--format=%i|%r").splitlines():
            job_id, reason = line.strip().split("|")
            if reason == "BeginTime":
                subprocess.run(["scontrol", "update", f"JobId={job_id}", "StartTime=now"], timeout=30, check=False)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Begins no job in the block."""
        run("scontrol", "update", "PartitionName=main", "State=DOWN")
        try:
            yield
        finally:
            run("scontrol", "update", "PartitionName=main", "State=UP")

    def end_soon(self, job_id: str) -> None:
        """Shortens the time limit of a running job, so that one or two minutes are left to it."""
        elapsed = run("squeue", "--noheader", f"--jobs={job_id}", "--format=%M").strip()
        self.limit(job_id, minutes=int(elapsed.split(":")[-2]) + 2)

    def limit(self, job_id: str, *, minutes: int) -> None:
        """Sets the time limit of a job."""
        run("scontrol", "update", f"JobId={job_id}", f"TimeLimit={minutes}")

    def is_ready(self) -> bool:
        """Whether both nodes are idle."""
        done = subprocess.run(["sinfo", "--noheader", "--format=%t %D"], capture_output=True, text=True, timeout=30)
        return done.stdout.split() == ["idle", str(len(NODES))]

    def stop(self) -> None:
        """Cancels all jobs and ends the processes that were started here."""
        with suppress(subprocess.SubprocessError):
            subprocess.run(["scancel", "--user=root"], timeout=30, check=False)
            wait_until(lambda: not run("squeue", "--noheader").strip(), seconds=SECONDS_TO_END, what="no job is left")
        for daemon in reversed(self.daemons.values()):
            daemon.send_signal(signal.SIGTERM)
        for daemon in reversed(self.daemons.values()):
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(timeout=SECONDS_TO_END)
            kill_tree(daemon.pid)


def list_processes_of_node(name: str) -> list[int]:
    """Lists the processes of all jobs on a node, those that Slurm has started for them first."""
    found: dict[int, None] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("SLURMD_NODENAME") == name:
                steps = [parent.pid for parent in process.parents() if parent.name() == "slurmstepd"]
                found |= dict.fromkeys([*steps, process.pid])
    return list(found)


@contextmanager
def start_cluster(folder: Path) -> Iterator[Cluster]:
    """Runs a Slurm within the block; its commands find it by SLURM_CONF."""
    host = socket.gethostname().partition(".")[0]
    controller_port, *ports = find_free_ports(1 + len(NODES))
    nodes = [NODE.format(name=name, host=host, port=port) for name, port in zip(NODES, ports, strict=True)]
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(host=host, folder=folder, controller_port=controller_port, nodes="\n".join(nodes))
    )
    write_gpus(folder)
    for name in ("controller", *NODES):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing may be left of it
    cluster = Cluster(folder=folder)
    try:
        cluster.start("munged", ["munged", "--foreground", "--force", *list_munge_options(folder)])
        wait_until((folder / "munge.socket").exists, seconds=SECONDS_TO_START, what="munged listens")
        cluster.start("slurmctld", ["slurmctld", "-D", "-c"])
        for name in NODES:
            cluster.start_node(name)
        wait_until(cluster.is_ready, seconds=SECONDS_TO_START, what=f"nodes are idle (logs in {folder})")
        yield cluster
    finally:
        cluster.stop()
        del os.environ["SLURM_CONF"]


def list_munge_options(folder: Path) -> list[str]:
    """Lists options that keep all files of munged in the folder."""
    names = {"socket": "munge.socket", "key-file": "munge.key", "log-file": "munged.log", "seed-file": "munged.seed"}
    return [f"--{option}={folder / name}" for option, name in {**names, "pid-file": "munged.pid"}.items()]


def write_gpus(folder: Path) -> None:
    """Makes devices that stand for GPUs; they are only counted."""
    lines = []
    for index, name in enumerate(NODES):
        first = index * GPUS_PER_NODE
        for number in range(first, first + GPUS_PER_NODE):
            os.mknod(folder / f"gpu{number}", 0o20666, NULL_DEVICE)
        lines.append(f"NodeName={name} Name=gpu File={folder}/gpu[{first}-{first + GPUS_PER_NODE - 1}]")
    (folder / "gres.conf").write_text("\n".join(lines) + "\n")


def find_free_ports(count: int) -> list[int]:
    """Finds ports on which nothing listens."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        with closing(each):
            pass
    return ports
