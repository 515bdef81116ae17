"""Every architecture at equal minutes on the CPU: `python -m benchmarks.families --minutes 8 --results FOLDER`.

All are planned by the planner `timed` with the same budget, then their training steps are timed, one network after
another in several rounds, the fastest round counts. Each trains fold 0 for as many iterations as the minutes hold at
that pace, and is scored on the held-out cases: other programs change how long the comparison takes, but not its result.
The folder of results keeps plans, paces and scores; what is there is not repeated, so a run may be interrupted and
continued, and more minutes or data sets may be added. The table holds all that is there; a second one compares the Dice
of each network with that of the plain U-Net.
"""

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from autoseg.document import read_document, write_document
from autoseg.networks.throughput import measure_host
from autoseg.plan import Plan
from autoseg.run_folder import RunFolder, write_text
from autoseg.runtime.cpu_time import count_usable_cpus
from autoseg.runtime.measurement_cache import find_measurement_cache
from autoseg.runtime.precision import find_dtype
from autoseg.training.budget.pace import EPOCHS_OF_A_BUDGET, FEWEST_ITERATIONS_PER_EPOCH
from autoseg.training.network_timing import time_network
from autoseg.workflows.plan.host_speed import find_host_speed
from autoseg.workflows.plan.planning import find_network_cost
from benchmarks.machine import describe_machine
from benchmarks.preprocessing import DEFAULT_DATA
from benchmarks.process_tree import Measurement, measure_command
from planners import ARCHITECTURES

DATASETS: Final = ("Dataset004_Hippocampus", "Dataset006_RetinaVessels", "Dataset007_Nuclei")
FOLD: Final = "0"
PLAIN: Final = "plain_unet"
ROUNDS: Final = 3
SECONDS_OF_BUDGET: Final = 100  # a minute of it; the planner `timed` gives 0.6 of a budget to training steps
HEADING: Final = (
    "| data set | architecture | parameters (M) | iterations | s per iteration | peak memory (GiB) | Dice | HD95 |\n"
    "|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Trains what is not trained yet, then prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="of training steps")
    parser.add_argument("--results", type=Path, required=True, help="folder for runs, logs and results, kept")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--dataset", nargs="+", default=list(DATASETS))
    parser.add_argument("--only", nargs="+", default=list(ARCHITECTURES), metavar="ARCHITECTURE")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, which share the cores")
    options = parser.parse_args()
    print(f"{describe_machine()}, {options.minutes:g} minutes each", flush=True)
    options.results.mkdir(parents=True, exist_ok=True)
    for dataset in options.dataset:
        if not (options.data / dataset).is_dir():
            sys.exit(f"{options.data / dataset} is absent; name the folder of the data sets with --data")
    check_host_speed()
    trainings = [
        Training(options.results, options.data / dataset, architecture, options.minutes)
        for dataset in options.dataset
        for architecture in options.only
    ]
    planned = [training for training in trainings if training.prepare()]
    measure_paces([training for training in planned if not training.pace.exists()])
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda training: training.train(threads=count_usable_cpus() // options.jobs), planned))
    print(f"\n{HEADING}")
    rows = list(list_results(options.results, options.minutes))
    for row in rows:
        print(format_row(row))
    print(f"\nDice less that of {PLAIN}, best first:\n")
    for line in compare_dice(rows):
        print(line)


@dataclass(frozen=True, slots=True)
class Training:
    """Fold 0 of one architecture on one data set."""

    results: Path
    dataset: Path
    architecture: str
    minutes: float

    @property
    def name(self) -> str:
        """Stem of all its files."""
        return f"{self.dataset.name}_{self.architecture}_{self.minutes:g}"

    @property
    def run(self) -> RunFolder:
        """Its run, which is deleted after the training."""
        return RunFolder(self.results / self.name)

    @property
    def pace(self) -> Path:
        """File of the seconds of a training step."""
        return self.results / f"{self.name}.pace"

    @property
    def result(self) -> Path:
        """File of the scores."""
        return self.results / f"{self.name}.json"

    def prepare(self) -> bool:
        """Plans it, for a fixed number of iterations; returns whether it is still to be trained."""
        if self.result.exists():
            return False
        if self.run.plan.exists() and self.pace.exists():
            return True
        shutil.rmtree(self.run.root, ignore_errors=True)
        budget = f"{round(self.minutes * SECONDS_OF_BUDGET)}s"
        arguments = ["plan", str(self.dataset), "--run", str(self.run.root), "--planner", "timed", "--budget", budget]
        return self._call([*arguments, "--architecture", self.architecture], {}).exit_code == 0

    def time_step(self) -> float:
        """Returns the seconds of a training step."""
        plan = read_document(self.run.plan, Plan)
        ((_, configuration),) = plan.configurations.items()
        device = torch.device("cpu")
        cost = time_network(configuration, plan.labels, device=device, dtype=find_dtype(device, "auto"))
        return cost.iteration_seconds

    def train(self, *, threads: int) -> None:
        """Trains it at the measured pace, and writes its scores."""
        ((name, _),) = read_document(self.run.plan, Plan).configurations.items()
        set_iterations(self.run, name, int(self.minutes * 60 / float(self.pace.read_text(encoding="utf-8"))))
        command = ["train", str(self.run.root), "--fold", FOLD]
        measured = self._call(command, {"OMP_NUM_THREADS": str(threads)})
        if measured.exit_code:
            return
        row = {"dataset": self.dataset.name, "architecture": self.architecture, **self._read_scores(measured)}
        write_text(self.result, json.dumps(row, indent=2))
        print(format_row(row), flush=True)
        shutil.rmtree(self.run.root)

    def _call(self, arguments: list[str], environment: dict[str, str]) -> Measurement:
        log = self.results / f"{self.name}.log"
        measured = measure_command([sys.executable, "-m", "autoseg", *arguments], log, {**os.environ, **environment})
        if measured.exit_code:
            print(f"{self.dataset.name}, {self.architecture}: autoseg {arguments[0]} failed, see {log}", flush=True)
        return measured

    def _read_scores(self, measured: Measurement) -> dict[str, Any]:
        plan = read_document(self.run.plan, Plan)
        ((name, configuration),) = plan.configurations.items()
        summary = json.loads(self.run.fold(name, FOLD).summary.read_text(encoding="utf-8"))
        training = configuration.training
        cost = find_network_cost(configuration.network, configuration.patch_voxels, training.batch_size)
        return {
            "configuration": name,
            "parameters": cost.parameter_count,
            "iterations": training.epochs * training.iterations_per_epoch,
            "iteration_seconds": float(self.pace.read_text(encoding="utf-8")),
            "peak_gib": measured.peak_gib,
            "dice": summary["foreground_mean"]["Dice"],
            "hd95": summary["foreground_mean"].get("HD95"),
        }


def set_iterations(run: RunFolder, name: str, iterations: int) -> None:
    """Plans a fixed number of iterations for a configuration, in as many epochs as a budget has."""
    plan = read_document(run.plan, Plan)
    configuration = plan.configurations[name]
    length = max(FEWEST_ITERATIONS_PER_EPOCH, iterations // EPOCHS_OF_A_BUDGET)
    changes = {"epochs": max(1, iterations // length), "iterations_per_epoch": length, "budget_seconds": None}
    changed = configuration.model_copy(update={"training": configuration.training.model_copy(update=changes)})
    write_document(run.plan, plan.model_copy(update={"configurations": {**plan.configurations, name: changed}}))


def check_host_speed() -> None:
    """Ends the program if the CPU was measured beside others, as each network would be planned for another speed."""
    host = find_host_speed(find_measurement_cache("host_speed"), measure=measure_host)
    if not host.is_undisturbed:
        sys.exit(
            f"the CPU's speed was measured with {host.received_share:.0%} of its time; begin while nothing else runs"
        )


def measure_paces(trainings: Sequence[Training]) -> None:
    """Times the steps of all, in rounds, so that a disturbance does not fall on one network alone."""
    paces = [
        min(times) for times in zip(*([each.time_step() for each in trainings] for _ in range(ROUNDS)), strict=True)
    ]
    for training, seconds in zip(trainings, paces, strict=False):
        write_text(training.pace, f"{seconds:.5f}\n")


def list_results(folder: Path, minutes: float) -> Iterator[Mapping[str, Any]]:
    """Lists what is in the folder, data set by data set, best first."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"*_{minutes:g}.json"))]
    yield from sorted(found, key=lambda row: (row["dataset"], -row["dice"]))


def format_row(row: Mapping[str, Any]) -> str:
    """Formats a row of the table."""
    seconds = "" if row["iteration_seconds"] is None else f"{row['iteration_seconds']:.3f}"
    distance = "" if row["hd95"] is None else f"{row['hd95']:.2f}"
    cells = [
        row["dataset"].partition("_")[2],
        row["architecture"],
        f"{row['parameters'] / 1e6:.2f}",
        row["iterations"],
        seconds,
        f"{row['peak_gib']:.1f}",
        f"{row['dice']:.4f}",
        distance,
    ]
    return f"| {' | '.join(map(str, cells))} |"


def compare_dice(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yields the lines of a table of differences in Dice from the plain U-Net, a column for each of its data sets."""
    dice = {(row["dataset"], row["architecture"]): float(row["dice"]) for row in rows}
    datasets = sorted(dataset for dataset, architecture in dice if architecture == PLAIN)
    gains = {
        architecture: [_compare(dice.get((dataset, architecture)), dice[dataset, PLAIN]) for dataset in datasets]
        for architecture in sorted({architecture for _, architecture in dice} - {PLAIN})
    }
    yield f"| architecture | {' | '.join(dataset.partition('_')[2] for dataset in datasets)} | mean |"
    yield f"|---|{'---|' * len(datasets)}---|"
    for architecture in sorted(gains, key=lambda name: -_average(gains[name])):
        cells = [*gains[architecture], _average(gains[architecture])]
        yield f"| {architecture} | {' | '.join('' if math.isnan(cell) else f'{cell:+.3f}' for cell in cells)} |"


def _compare(dice: float | None, reference: float) -> float:
    return math.nan if dice is None else dice - reference


def _average(gains: Sequence[float]) -> float:
    known = [gain for gain in gains if not math.isnan(gain)]
    return sum(known) / len(known) if known else -math.inf


if __name__ == "__main__":
    main()
