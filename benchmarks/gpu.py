"""Training on a GPU, against nnU-Net on the same plan where it is installed: `python -m benchmarks.gpu [DATASET]`.

Both train a few short epochs on all cases; the first one, in which workers start and kernels are chosen, does not
count. Waiting is the time in which the training loop has no batch; what the GPU itself waits for shows in its use.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Final

import torch

from autoseg.run_folder import ALL_CASES, RunFolder
from autoseg.workflows.synthetic import write_synthetic_dataset
from benchmarks.gpu_use import measure_gpu_use
from benchmarks.machine import describe_machine
from benchmarks.peer import Peer
from benchmarks.preprocessing import DEFAULT_DATA, DEFAULT_PEER, run_checked

DEFAULT_DATASET: Final = DEFAULT_DATA / "Dataset004_Hippocampus"
SAMPLING_SECONDS: Final = 0.1
PEER_SCRIPT: Final = Path(__file__).with_name("peer_training.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is trained, where, and for how long."""

    dataset: Path
    configuration: str
    device: str
    epochs: int
    iterations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Means over all epochs but the first.

    Attributes:
        waiting_fraction: Share of the time in which the training loop waited for a batch.
        gpu_use_percent: Share of the time in which the GPU had work; None where it could not be measured.
    """

    iterations_per_second: float
    waiting_fraction: float
    gpu_use_percent: float | None

    def format_row(self, name: str) -> str:
        """A row of the table."""
        use = "not measured" if self.gpu_use_percent is None else f"{self.gpu_use_percent:.0f} %"
        return f"| {name} | {self.iterations_per_second:.2f} | {use} | {self.waiting_fraction:.1%} |"


def main() -> None:
    """Measures and prints a table in Markdown."""
    options = parse_options()
    if not torch.cuda.is_available():
        print("PyTorch finds no CUDA device: there is nothing to measure")
        return
    with tempfile.TemporaryDirectory(prefix="autoseg-bench-") as folder:
        work = Path(folder)
        task = Task(
            dataset=find_dataset(options.dataset, work),
            configuration=options.configuration,
            device="cuda",
            epochs=options.epochs,
            iterations=options.iterations,
        )
        print(f"{torch.cuda.get_device_name()}, {describe_machine()}\n{task.dataset.name}, {task.configuration}\n")
        print("| | iterations per second | GPU in use | waiting for batches |\n|---|---|---|---|")
        ours = measure_ours(task, work)
        print(ours.format_row("autoseg"), flush=True)
        if not (options.peer / "bin" / "nnUNetv2_train").is_file():
            print(f"\n{options.peer} holds no nnU-Net; the comparison is left out (choose another folder with --peer)")
            return
        theirs = measure_peer(task, Peer(installed=options.peer, root=work / "peer"), work)
        print(theirs.format_row("nnU-Net"))
    print(f"\nautoseg makes {ours.iterations_per_second / theirs.iterations_per_second:.2f} times as many iterations")


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", nargs="?", type=Path, default=DEFAULT_DATASET)
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--epochs", type=int, default=3, choices=range(2, 100), metavar="N", help="2 or more")
    parser.add_argument("--iterations", type=int, default=250, help="in each epoch")
    parser.add_argument("--peer", type=Path, default=DEFAULT_PEER, help="where nnU-Net is installed")
    return parser.parse_args()


def find_dataset(dataset: Path, work: Path) -> Path:
    """The dataset, or a synthetic one in its place."""
    if dataset.is_dir():
        return dataset.resolve()
    print(f"{dataset} is absent; measuring on a synthetic dataset instead")
    write_synthetic_dataset(work / "Dataset900_Synthetic", training_cases=20, test_cases=0, seed=0)
    return work / "Dataset900_Synthetic"


def measure_ours(task: Task, work: Path) -> Speed:
    """Plans, shortens the plan, trains."""
    run, log = RunFolder(work / "run"), work / "autoseg.log"
    run_checked([sys.executable, "-m", "autoseg", "plan", str(task.dataset), "--run", str(run.root)], log)
    plan = json.loads(run.plan.read_text())
    plan["configurations"][task.configuration]["training"] |= {
        "epochs": task.epochs,
        "iterations_per_epoch": task.iterations,
        "validation_iterations_per_epoch": 1,
    }
    run.plan.write_text(json.dumps(plan))
    command = [sys.executable, "-m", "autoseg", "train", str(run.root), "--configuration", task.configuration]
    history = run.fold(task.configuration, ALL_CASES).training_log
    return watch_training([*command, "--fold", ALL_CASES, "--device", task.device], history, log)


def measure_peer(task: Task, peer: Peer, work: Path) -> Speed:
    """The same with nnU-Net's planner and trainer."""
    dataset, log, history = peer.raw / task.dataset.name, work / "peer.log", work / "peer.jsonl"
    peer.raw.mkdir(parents=True)
    dataset.symlink_to(task.dataset)
    run_checked(peer.list_plan_command(dataset), log, peer.make_environment())
    preprocessed = peer.root / "preprocessed" / dataset.name
    arguments = [preprocessed, task.configuration, task.device, task.epochs, task.iterations, history]
    command = [str(peer.installed / "bin" / "python"), str(PEER_SCRIPT), *map(str, arguments)]
    return watch_training(command, history, log, peer.make_environment())


def watch_training(command: list[str], history: Path, log: Path, environment: dict[str, str] | None = None) -> Speed:
    """Runs a training and reads how busy the GPU is from the end of the first epoch to that of the last."""
    use: list[tuple[int, float | None]] = []
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        while process.poll() is None:
            use.append((len(read_history(history)), measure_gpu_use()))
            time.sleep(SAMPLING_SECONDS)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    epochs = read_history(history)
    measured = [percent for done, percent in use if 1 <= done < len(epochs) and percent is not None]
    return summarize(epochs[1:], measured)


def summarize(epochs: list[dict[str, Any]], gpu_use_percent: Iterable[float]) -> Speed:
    """Means over epochs and over readings of the GPU."""
    percents = list(gpu_use_percent)
    return Speed(
        iterations_per_second=1 / mean(epoch["seconds_per_iteration"] for epoch in epochs),
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
