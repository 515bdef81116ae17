"""Training steps against nnU-Net's, on the same network, patch and batch: `python -m benchmarks.training_step`.

The two train alternately, in rounds of a few short epochs on all cases; the first epoch of a round, in which workers
start and kernels are chosen, does not count. Waiting is the time in which the training loop has no batch; what a GPU
itself waits for shows in its use.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any, Final

import torch

from autoseg.run_folder import ALL_CASES, RunFolder
from autoseg.runtime.device_use import measure_device_use
from autoseg.workflows.synthetic import write_synthetic_dataset
from benchmarks.machine import describe_machine
from benchmarks.peer import PLANS_NAME, Peer
from benchmarks.preprocessing import DEFAULT_DATA, DEFAULT_PEER, run_checked

DEFAULT_DATASET: Final = DEFAULT_DATA / "Dataset004_Hippocampus"
SAMPLING_SECONDS: Final = 0.1
# Compiles the network before it is trained, where that is faster, as in trainings that take longer than these, which
# compile beside their first epochs: these would end before, and be delayed meanwhile. nnU-Net always compiles.
COMPILING_PROGRAM: Final = """
from autoseg.__main__ import main
from autoseg.training import execution_choice
from autoseg.training.compiling_beside import CompilingBeside
execution_choice.COMPILING_PAYS_SECONDS = 0.0
CompilingBeside.has_room = lambda self: False
main()
"""
PEER_SCRIPT: Final = Path(__file__).with_name("peer_training.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is trained to be timed."""

    rounds: int
    epochs: int
    iterations: int


# A step takes seconds on a CPU and a fraction of one on a GPU, whose clock, in turn, is steadier.
EFFORTS: Final = {
    "cpu": Effort(rounds=3, epochs=2, iterations=20),
    "cuda": Effort(rounds=1, epochs=3, iterations=250),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is trained, where, and for how long."""

    dataset: Path
    configuration: str
    device: str
    precision: str
    effort: Effort
    compiles: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Means over all epochs of a round but the first.

    Attributes:
        waiting_fraction: Share of the time in which the training loop waited for a batch.
        gpu_use_percent: Share of the time in which the GPU had work; None where it was not measured.
    """

    seconds_per_iteration: float
    waiting_fraction: float
    gpu_use_percent: float | None

    def list_cells(self, device: str) -> list[str]:
        """Of a row of the table."""
        cells = [f"{self.seconds_per_iteration:.3g}", f"{1 / self.seconds_per_iteration:.3g}"]
        if device == "cuda":
            cells.append("not measured" if self.gpu_use_percent is None else f"{self.gpu_use_percent:.0f} %")
        return [*cells, f"{self.waiting_fraction:.1%}"]


def main() -> None:
    """Measures and prints a table in Markdown."""
    options = parse_options()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch finds no CUDA device: there is nothing to measure")
        return
    with tempfile.TemporaryDirectory(prefix="autoseg-bench-") as folder:
        work = Path(folder)
        task = build_task(options, work)
        peer = Peer(installed=options.peer, root=work / "peer")
        has_peer = (options.peer / "bin" / "nnUNetv2_train").is_file()
        ours, theirs = measure_rounds(task, peer if has_peer else None, work)
    if has_peer:
        print_comparison(ours, theirs)
    else:
        print(f"\n{options.peer} holds no nnU-Net; the comparison is left out (choose another folder with --peer)")


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", nargs="?", type=Path, default=DEFAULT_DATASET)
    parser.add_argument("--device", choices=tuple(EFFORTS), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--precision", default="auto", help="of autoseg; nnU-Net decides itself")
    parser.add_argument("--rounds", type=int, choices=range(1, 100), metavar="N", help="of both, in turn")
    parser.add_argument("--epochs", type=int, choices=range(2, 100), metavar="N", help="in each round, 2 or more")
    parser.add_argument("--iterations", type=int, help="in each epoch")
    parser.add_argument(
        "--compile", action="store_true", default=True, help="on a GPU, both compile their networks first (default)"
    )
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="neither does")
    parser.add_argument("--peer", type=Path, default=DEFAULT_PEER, help="where nnU-Net is installed")
    return parser.parse_args()


def build_task(options: argparse.Namespace, work: Path) -> Task:
    """What is asked for; what is not, as suits the device."""
    usual = EFFORTS[options.device]
    return Task(
        dataset=find_dataset(options.dataset, work),
        configuration=options.configuration,
        device=options.device,
        precision=options.precision,
        effort=Effort(
            rounds=options.rounds or usual.rounds,
            epochs=options.epochs or usual.epochs,
            iterations=options.iterations or usual.iterations,
        ),
        compiles=options.compile,
    )


def find_dataset(dataset: Path, work: Path) -> Path:
    """The dataset, or a synthetic one in its place."""
    if dataset.is_dir():
        return dataset.resolve()
    print(f"{dataset} is absent; measuring on a synthetic dataset instead")
    write_synthetic_dataset(work / "Dataset900_Synthetic", training_cases=20, test_cases=0, seed=0)
    return work / "Dataset900_Synthetic"


def measure_rounds(task: Task, peer: Peer | None, work: Path) -> tuple[list[Speed], list[Speed]]:
    """Trains with both in turn, and prints a row for each time; the second list is empty without a peer."""
    run = RunFolder(work / "run")
    plan_ours(task, run, work / "autoseg.log")
    if peer is not None:
        plan_theirs(task, peer, work / "peer.log")
        check_equal_plans(run, peer, task)
    print_heading(task, run)
    ours, theirs = [], []
    for number in range(1, task.effort.rounds + 1):
        ours.append(time_ours(task, run, work / "autoseg.log"))
        print_row([f"autoseg, round {number}", *ours[-1].list_cells(task.device)])
        if peer is not None:
            theirs.append(time_theirs(task, peer, work / "peer.log", work / f"peer_{number}.jsonl"))
            print_row([f"nnU-Net, round {number}", *theirs[-1].list_cells(task.device)])
    return ours, theirs


def print_heading(task: Task, run: RunFolder) -> None:
    """What the figures depend on."""
    configuration = json.loads(run.plan.read_text())["configurations"][task.configuration]
    device = torch.cuda.get_device_name() if task.device == "cuda" else f"{torch.get_num_threads()} threads"
    patch = " x ".join(map(str, configuration["patch_voxels"]))
    print(f"{device}, {describe_machine()}")
    batch = configuration["training"]["batch_size"]
    compiled = ", nothing is compiled" if task.device == "cuda" and not task.compiles else ""
    print(f"{task.dataset.name}, {task.configuration}: patch {patch}, batch {batch}{compiled}\n")
    columns = ["", "seconds per iteration", "iterations per second"]
    columns += ["GPU in use"] if task.device == "cuda" else []
    columns.append("waiting for batches")
    print_row(columns)
    print(f"|{'---|' * len(columns)}", flush=True)


def print_row(cells: Sequence[str]) -> None:
    """Of a table in Markdown."""
    print(f"| {' | '.join(cells)} |", flush=True)


def print_comparison(ours: Sequence[Speed], theirs: Sequence[Speed]) -> None:
    """Medians over the rounds."""
    mine, other = (median(speed.seconds_per_iteration for speed in speeds) for speeds in (ours, theirs))
    print(
        f"\nautoseg takes {mine / other:.2f} of nnU-Net's time per iteration (medians: {mine:.3g} s and {other:.3g} s) "
        f"and makes {other / mine:.2f} times as many iterations"
    )


def plan_ours(task: Task, run: RunFolder, log: Path) -> None:
    """Plans, preprocesses and shortens the plan."""
    run_checked([sys.executable, "-m", "autoseg", "plan", str(task.dataset), "--run", str(run.root)], log)
    plan = json.loads(run.plan.read_text())
    plan["configurations"][task.configuration]["training"] |= {
        "epochs": task.effort.epochs,
        "iterations_per_epoch": task.effort.iterations,
        "validation_iterations_per_epoch": 1,
    }
    run.plan.write_text(json.dumps(plan))


def plan_theirs(task: Task, peer: Peer, log: Path) -> None:
    """The same with nnU-Net's planner."""
    dataset = peer.raw / task.dataset.name
    peer.raw.mkdir(parents=True)
    dataset.symlink_to(task.dataset)
    run_checked(peer.list_plan_command(dataset), log, peer.make_environment())


def check_equal_plans(run: RunFolder, peer: Peer, task: Task) -> None:
    """Only equal networks, patches and batches are worth a comparison."""
    mine = json.loads(run.plan.read_text())["configurations"][task.configuration]
    path = peer.root / "preprocessed" / task.dataset.name / f"{PLANS_NAME}.json"
    other = json.loads(path.read_text())["configurations"][task.configuration]
    network, architecture = mine["network"], other["architecture"]["arch_kwargs"]
    pairs = {
        "patch": (mine["patch_voxels"], other["patch_size"]),
        "batch": (mine["training"]["batch_size"], other["batch_size"]),
        "features": (network["features_per_stage"], architecture["features_per_stage"]),
        "kernels": (network["kernel_sizes"], architecture["kernel_sizes"]),
        "strides": (network["strides"], architecture["strides"]),
    }
    for name, (found, expected) in pairs.items():
        if found != expected:
            sys.exit(f"{task.configuration}: another {name} was planned: {found}, and by nnU-Net {expected}")


def time_ours(task: Task, run: RunFolder, log: Path) -> Speed:
    """Trains from the beginning."""
    program = ["-c", COMPILING_PROGRAM] if task.device == "cuda" and task.compiles else ["-m", "autoseg"]
    command = [sys.executable, *program, "train", str(run.root), "--configuration", task.configuration]
    options = ["--fold", ALL_CASES, "--device", task.device, "--precision", task.precision, "--restart"]
    history = run.fold(task.configuration, ALL_CASES).training_log
    history.unlink(missing_ok=True)
    return watch_training([*command, *options], history, log, device=task.device)


def time_theirs(task: Task, peer: Peer, log: Path, history: Path) -> Speed:
    """The same with nnU-Net's trainer."""
    preprocessed = peer.root / "preprocessed" / task.dataset.name
    effort = task.effort
    arguments = [preprocessed, task.configuration, task.device, effort.epochs, effort.iterations, history]
    command = [str(peer.installed / "bin" / "python"), str(PEER_SCRIPT), *map(str, arguments)]
    environment = peer.make_environment() | ({} if task.compiles else {"nnUNet_compile": "false"})
    return watch_training(command, history, log, device=task.device, environment=environment)


def watch_training(
    command: list[str], history: Path, log: Path, *, device: str, environment: dict[str, str] | None = None
) -> Speed:
    """Runs a training; on a GPU, reads how busy it is from the end of the first epoch to that of the last."""
    use: list[tuple[int, float | None]] = []
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        while device == "cuda" and process.poll() is None:
            use.append((len(read_history(history)), measure_device_use()))
            time.sleep(SAMPLING_SECONDS)
    if process.wait() != 0:
        sys.exit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    epochs = read_history(history)
    measured = [100 * share for done, share in use if 1 <= done < len(epochs) and share is not None]
    return summarize(epochs[1:], measured)


def summarize(epochs: list[dict[str, Any]], gpu_use_percent: Iterable[float]) -> Speed:
    """Means over epochs and over readings of the GPU."""
    percents = list(gpu_use_percent)
    return Speed(
        seconds_per_iteration=mean(epoch["seconds_per_iteration"] for epoch in epochs),
        waiting_fraction=sum(epoch["data_wait_seconds"] for epoch in epochs)
        / sum(epoch["seconds"] for epoch in epochs),
        gpu_use_percent=mean(percents) if percents else None,
    )


def read_history(path: Path) -> list[dict[str, Any]]:
    """The finished lines of a log of epochs."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


if __name__ == "__main__":
    main()
