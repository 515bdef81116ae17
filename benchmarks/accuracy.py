"""Dice against minutes, and what each tool of the lite plan contributes: `python -m benchmarks.accuracy curve|tools`.

    python -m benchmarks.accuracy curve --minutes 8 30    lite and default plans by `--budget`; nnU-Net where installed
    python -m benchmarks.accuracy tools --iterations 800  the lite plan with one thing changed at a time

All train fold 0 on the CPU and are scored on its held-out cases: whole volumes, with the plan's mirroring. The
minutes of autoseg hold everything from the raw files to the validated model. nnU-Net has no budget: it gets as many
iterations as fill the minutes less its validation, by the pace of its own trainer (`--peer-seconds`), and a schedule of
that length. Results depend on iterations, not on the clock; so with `--jobs 2` trainings of a fixed number of
iterations may share the machine, each with one thread.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from autoseg.run_folder import RunFolder
from autoseg.training.checkpoint import read_description
from benchmarks.machine import describe_machine
from benchmarks.peer import Peer
from benchmarks.preprocessing import DEFAULT_DATA, DEFAULT_PEER, run_checked

DEFAULT_DATASET: Final = DEFAULT_DATA / "Dataset004_Hippocampus"
DEFAULT_CONFIGURATION: Final = "3d_fullres"
FOLD: Final = "0"
PEER_SCRIPT: Final = Path(__file__).with_name("peer_accuracy.py")
PEER_EPOCHS: Final = 20
SECONDS_PER_MINUTE: Final = 60.0
TOOLS_BUDGET: Final = "8m"
TOOLS_EPOCHS: Final = 40

Change = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Of the held-out cases.

    Attributes:
        iterations: Of training.
        minutes: Of training and validation, or of everything from the raw files.
    """

    iterations: int
    minutes: float
    dice: float
    dice_per_class: Sequence[float]

    def format_row(self, label: str) -> str:
        """A row of the table."""
        classes = ", ".join(f"{value:.3f}" for value in self.dice_per_class)
        return f"| {label} | {self.minutes:.1f} | {self.iterations} | {classes} | {self.dice:.4f} |"


HEADING: Final = "| | minutes | iterations | Dice of the classes | mean |\n|---|---|---|---|---|"


def main() -> None:
    """Measures and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["curve", "tools"])
    parser.add_argument("--dataset", type=Path, default=DEFAULT_DATASET)
    parser.add_argument("--configuration", default=DEFAULT_CONFIGURATION)
    parser.add_argument("--minutes", type=float, nargs="+", default=[8.0, 30.0])
    parser.add_argument("--only", nargs="*", help="lite, default, nnU-Net; or names of tools")
    parser.add_argument("--peer", type=Path, default=DEFAULT_PEER, help="where nnU-Net is installed")
    parser.add_argument("--peer-seconds", type=float, default=4.5, help="of nnU-Net's iteration on this machine")
    parser.add_argument("--peer-validation-seconds", type=float, default=100.0)
    parser.add_argument("--iterations", type=int, default=800, help="of each training of `tools`")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once (one thread each, if several)")
    parser.add_argument("--keep", type=Path, help="folder for runs and logs, kept")
    options = parser.parse_args()
    if not options.dataset.is_dir():
        sys.exit(f"{options.dataset} is absent; name a dataset with --dataset")
    print(
        f"{describe_machine()}\n{options.dataset.name}, fold {FOLD}, {options.configuration}\n\n{HEADING}", flush=True
    )
    with tempfile.TemporaryDirectory(prefix="autoseg-bench-") as temporary:
        work = options.keep or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        jobs = list_curve_jobs(options, work) if options.what == "curve" else list_tool_jobs(options, work)
        with ThreadPoolExecutor(max_workers=options.jobs) as pool:
            for label, scores in pool.map(lambda job: (job[0], job[1]()), jobs):
                print(scores.format_row(label), flush=True)


def list_curve_jobs(options: argparse.Namespace, work: Path) -> list[tuple[str, Callable[[], Scores]]]:
    """One training for each planner and number of minutes."""
    jobs: list[tuple[str, Callable[[], Scores]]] = []
    for planner in ("lite", "default"):
        jobs += [
            (
                f"{planner}, {minutes:g} minutes",
                lambda planner=planner, minutes=minutes: train_ours(  # type: ignore[misc]
                    options, work, planner=planner, minutes=minutes
                ),
            )
            for minutes in options.minutes
            if planner in (options.only or planner)
        ]
    if "nnU-Net" not in (options.only or ["nnU-Net"]):
        return jobs
    if not (options.peer / "bin" / "nnUNetv2_train").is_file():
        print(f"{options.peer} holds no nnU-Net, which is left out (choose another folder with --peer)")
        return jobs
    peer = prepare_peer(options, work)
    return jobs + [
        (f"nnU-Net, {minutes:g} minutes", lambda minutes=minutes: train_peer(options, peer, work, minutes=minutes))  # type: ignore[misc]
        for minutes in options.minutes
    ]


def train_ours(options: argparse.Namespace, work: Path, *, planner: str, minutes: float) -> Scores:
    """With public commands, from the raw files to validated label maps."""
    run, log = RunFolder(work / f"{planner}_{minutes:g}"), work / f"{planner}_{minutes:g}.log"
    shutil.rmtree(run.root, ignore_errors=True)
    began = time.perf_counter()
    plan = ["plan", str(options.dataset), "--run", str(run.root), "--planner", planner]
    train = ["train", str(run.root), "--configuration", options.configuration, "--fold", FOLD]
    budget = f"{round(minutes * SECONDS_PER_MINUTE)}s"
    if planner == "lite":
        plan += ["--budget", budget]
    else:
        train += ["--budget", budget]
    for arguments in (plan, train):
        run_checked([sys.executable, "-m", "autoseg", *arguments], log, adapt_thread_count(options))
    return read_scores(run, options.configuration, seconds=time.perf_counter() - began)


def read_scores(run: RunFolder, configuration: str, *, seconds: float) -> Scores:
    """Of a finished fold."""
    fold = run.fold(configuration, FOLD)
    summary = json.loads(fold.summary.read_text())
    checkpoint = read_description(fold.final_checkpoint)
    return Scores(
        iterations=len(checkpoint.history) * checkpoint.schedule.iterations_per_epoch,
        minutes=seconds / SECONDS_PER_MINUTE,
        dice=summary["foreground_mean"]["Dice"],
        dice_per_class=[scores["Dice"] for scores in summary["mean"].values()],
    )


def prepare_peer(options: argparse.Namespace, work: Path) -> Peer:
    """nnU-Net's plan and arrays."""
    peer = Peer(installed=options.peer, root=work / "peer")
    dataset = peer.raw / options.dataset.name
    if not dataset.exists():
        peer.raw.mkdir(parents=True)
        dataset.symlink_to(options.dataset.resolve())
        run_checked(peer.list_plan_command(dataset), work / "peer.log", peer.make_environment())
    return peer


def train_peer(options: argparse.Namespace, peer: Peer, work: Path, *, minutes: float) -> Scores:
    """nnU-Net's trainer for as many iterations as fit."""
    seconds = minutes * SECONDS_PER_MINUTE - options.peer_validation_seconds
    iterations = PEER_EPOCHS * max(1, round(seconds / options.peer_seconds / PEER_EPOCHS))
    result = work / f"peer_{minutes:g}.json"
    folder = peer.root / "preprocessed" / options.dataset.name
    arguments = [folder, options.configuration, iterations, PEER_EPOCHS, result]
    command = [str(peer.installed / "bin" / "python"), str(PEER_SCRIPT), *map(str, arguments)]
    environment = (
        peer.make_environment() | adapt_thread_count(options) | {"nnUNet_results": str(work / f"peer_{minutes:g}")}
    )
    run_checked(command, work / f"peer_{minutes:g}.log", environment | {"nnUNet_compile": "f", "nnUNet_n_proc_DA": "1"})
    found = json.loads(result.read_text())
    return Scores(
        iterations=found["iterations"],
        minutes=(found["iterations"] * options.peer_seconds + options.peer_validation_seconds) / SECONDS_PER_MINUTE,
        dice=found["dice"],
        dice_per_class=list(found["dice_per_class"].values()),
    )


def adapt_thread_count(options: argparse.Namespace) -> dict[str, str]:
    """One for each training, if there are several at once."""
    return {**os.environ, "OMP_NUM_THREADS": "1"} if options.jobs > 1 else dict(os.environ)


def list_tool_jobs(options: argparse.Namespace, work: Path) -> list[tuple[str, Callable[[], Scores]]]:
    """One training for each change of the plan."""
    base = work / "lite"
    if not base.exists():
        command = ["plan", str(options.dataset), "--run", str(base), "--planner", "lite", "--budget", TOOLS_BUDGET]
        run_checked([sys.executable, "-m", "autoseg", *command], work / "plan.log", dict(os.environ))
    return [
        (label, lambda label=label, change=change: train_changed(options, work, label=label, change=change))  # type: ignore[misc]
        for label, change in TOOLS.items()
        if label in (options.only or label)
    ]


def train_changed(options: argparse.Namespace, work: Path, *, label: str, change: Change) -> Scores:
    """The lite plan with one thing changed, for a fixed number of iterations."""
    name = "".join(letter if letter.isalnum() else "_" for letter in label)
    run = RunFolder(work / name)
    shutil.rmtree(run.root, ignore_errors=True)
    shutil.copytree(work / "lite", run.root)
    plan = json.loads(run.plan.read_text())
    part = plan["configurations"][options.configuration]
    part["training"] |= {
        "budget_seconds": None,
        "epochs": TOOLS_EPOCHS,
        "iterations_per_epoch": options.iterations // TOOLS_EPOCHS,
        "validation_iterations_per_epoch": 1,
    }
    change(part)
    run.plan.write_text(json.dumps(plan))
    began = time.perf_counter()
    command = ["train", str(run.root), "--configuration", options.configuration, "--fold", FOLD, "--device", "cpu"]
    run_checked([sys.executable, "-m", "autoseg", *command], work / f"{name}.log", adapt_thread_count(options))
    return read_scores(run, options.configuration, seconds=time.perf_counter() - began)


def change_training(values: Mapping[str, Any]) -> Change:
    """Sets fields of the training."""
    return lambda part: part["training"].update(values)


def add_mirroring(part: dict[str, Any]) -> None:
    """Flips all axes."""
    part["training"]["transforms"].append({"name": "mirror", "axes": [0, 1, 2]})


def keep_mirroring_alone(part: dict[str, Any]) -> None:
    """Takes all other transforms away."""
    transforms = part["training"]["transforms"]
    part["training"]["transforms"] = [transform for transform in transforms if transform["name"] == "mirror"]


def remove_supervision(part: dict[str, Any]) -> None:
    """The loss sees the full resolution alone."""
    part["network"]["deep_supervision"] = False


def change_batch(size: int) -> Change:
    """Another batch, with as many patches in all; the moving average reaches back over as many patches too."""

    def change(part: dict[str, Any]) -> None:
        training = part["training"]
        factor = size / training["batch_size"]
        training |= {
            "batch_size": size,
            "iterations_per_epoch": round(training["iterations_per_epoch"] / factor),
            "weight_average_decay": training["weight_average_decay"] ** factor,
        }

    return change


REFERENCE_OPTIMIZER: Final = {
    "optimizer": "sgd_nesterov",
    "initial_learning_rate": 0.01,
    "momentum": 0.99,
    "weight_decay": 3e-5,
    "schedule": {"name": "polynomial", "exponent": 0.9},
    "warmup_iterations": 0,
}
TOOLS: Final[Mapping[str, Change]] = {
    "as planned": change_training({}),
    "without the moving average of the weights": change_training({"weight_average_decay": 0.0}),
    "the reference's optimizer and schedule": change_training(REFERENCE_OPTIMIZER),
    "without warm-up": change_training({"warmup_iterations": 0}),
    "with mirroring": add_mirroring,
    "without augmentation": keep_mirroring_alone,
    "without deep supervision": remove_supervision,
    "foreground anywhere in the patch": change_training({"foreground_placement": "uniform"}),
    "batch of 1, as many patches": change_batch(1),
    "batch of 2, as many patches": change_batch(2),
    "batch of 4, as many patches": change_batch(4),
    "batch of 8, as many patches": change_batch(8),
}


if __name__ == "__main__":
    main()
