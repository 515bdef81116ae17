"""Stages, heads, losses and learned priors beside the plain network: `python -m benchmarks.variants --results FOLDER`.

All are planned by the planner `timed` with the same budget. The training steps of every configuration are timed, one
after another in several rounds, and each trains for as many iterations as the minutes hold at that pace: other programs
change how long the comparison takes, but not its result. A first stage trains five folds, as the stage after it learns
from predictions of cases that the first one did not see; of everything else fold 0 is trained, and scored on its
held-out cases. What a first stage or a label autoencoder takes beside the minutes is in the column of all CPU minutes.

The folder of results keeps runs and scores; what is there is not repeated.
"""

import argparse
import json
import os
import resource
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from autoseg.document import read_document
from autoseg.evaluation.gain import compute_gain
from autoseg.plan import Plan
from autoseg.run_folder import RunFolder, write_text
from autoseg.runtime.precision import find_dtype
from autoseg.training.network_timing import time_network
from benchmarks.families import FOLD, ROUNDS, SECONDS_OF_BUDGET, check_host_speed, set_iterations
from benchmarks.machine import describe_machine
from benchmarks.preprocessing import DEFAULT_DATA
from benchmarks.process_tree import measure_command

DATASET: Final = "Dataset004_Hippocampus"
PLAIN: Final = ("stages", "3d_fullres")
STAGES: Final = ("3d_fullres", "3d_roi", "detect_then_segment", "boundary_refinement")
RUNS: Final[Mapping[str, tuple[str, ...]]] = {
    "stages": tuple(argument for name in STAGES for argument in ("--configuration", name)),
    "point_rend": ("--head", "point_rend"),
    "shape_prior": ("--loss", "shape_prior"),
    "adversarial": ("--loss", "adversarial"),
    "latent_diffusion": ("--architecture", "latent_diffusion"),
    "diffusion_unet": ("--architecture", "diffusion_unet"),
}
"""Options of `autoseg plan` for each run."""
FIVE_FOLDS: Final = ("0", "1", "2", "3", "4")
IMAGES: Final = 10
"""Held-out images whose prediction is timed, at most."""
HEADING: Final = (
    "| run | configuration | iterations | s per step | CPU min in all | CPU s per image | Dice | gain | NSD | gain |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Trains what is not trained yet, then prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="of training steps of each fold")
    parser.add_argument("--results", type=Path, required=True, help="folder for runs, logs and results, kept")
    parser.add_argument("--dataset", type=Path, default=DEFAULT_DATA / DATASET)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="RUN")
    options = parser.parse_args()
    print(f"{describe_machine()}, {options.dataset.name}, {options.minutes:g} minutes each", flush=True)
    if not options.dataset.is_dir():
        sys.exit(f"{options.dataset} is absent; name the folder of the data set with --dataset")
    check_host_speed()
    options.results.mkdir(parents=True, exist_ok=True)
    names = dict.fromkeys((PLAIN[0], *options.only))
    trainings = [Training(options.results, options.dataset, name, options.minutes) for name in names]
    for training in trainings:
        training.plan()
    measure_paces(trainings)
    for training in trainings:
        training.train()
    print(f"\n{HEADING}")
    plain = json.loads(trainings[0].find_result(PLAIN[1]).read_text(encoding="utf-8"))
    for training in trainings:
        for row in training.read_results():
            print(format_row(row, plain), flush=True)


@dataclass(frozen=True, slots=True)
class Training:
    """All configurations of a run."""

    results: Path
    dataset: Path
    name: str
    minutes: float

    @property
    def stem(self) -> str:
        """Beginning of the names of all its files."""
        return f"{self.dataset.name}_{self.name}_{self.minutes:g}"

    @property
    def run(self) -> RunFolder:
        """The run."""
        return RunFolder(self.results / self.stem)

    @property
    def paces(self) -> Path:
        """File of the seconds of a training step of each configuration."""
        return self.results / f"{self.stem}.paces.json"

    def find_result(self, configuration: str) -> Path:
        """File of the scores of a configuration."""
        return self.results / f"{self.stem}.{configuration}.json"

    def plan(self) -> None:
        """Plans the run, unless it is planned and its steps were timed."""
        if self.paces.exists() and self.run.plan.exists():
            return
        shutil.rmtree(self.run.root, ignore_errors=True)
        budget = f"{round(self.minutes * SECONDS_OF_BUDGET)}s"
        arguments = ["plan", str(self.dataset), "--run", str(self.run.root), "--planner", "timed", "--budget", budget]
        self._call(*arguments, *RUNS[self.name])

    def time_steps(self) -> dict[str, float]:
        """Returns the seconds of a training step of each configuration."""
        plan = read_document(self.run.plan, Plan)
        device = torch.device("cpu")
        dtype = find_dtype(device, "auto")
        return {
            name: time_network(
                configuration, configuration.choose_network_labels(plan.labels), device=device, dtype=dtype
            ).iteration_seconds
            for name, configuration in plan.configurations.items()
        }

    def train(self) -> None:
        """Trains the configurations, first stages first, and writes the scores of each."""
        paces = json.loads(self.paces.read_text(encoding="utf-8"))
        plan = read_document(self.run.plan, Plan)
        previous = {configuration.previous_configuration for configuration in plan.configurations.values()}
        for name in sorted(plan.configurations, key=lambda name: len(plan.list_stages(name))):
            if self.find_result(name).exists():
                continue
            set_iterations(self.run, name, int(self.minutes * 60 / paces[name]))
            folds = FIVE_FOLDS if name in previous else (FOLD,)
            minutes = sum(self._call("train", str(self.run.root), *self._choose(name, fold)) for fold in folds) / 60
            row = {"run": self.name, "configuration": name, "pace": paces[name], "cpu_minutes": minutes}
            row |= self._read_scores(name) | {"image_seconds": self._time_prediction(name)}
            write_text(self.find_result(name), json.dumps(row, indent=2))
            print(f"{self.name}, {name}: {minutes:.1f} CPU minutes", flush=True)

    def read_results(self) -> Iterator[Mapping[str, Any]]:
        """Reads the scores of every configuration, in the order of the plan."""
        for name in read_document(self.run.plan, Plan).configurations:
            yield json.loads(self.find_result(name).read_text(encoding="utf-8"))

    def _choose(self, configuration: str, fold: str) -> list[str]:
        return ["--configuration", configuration, "--fold", fold]

    def _read_scores(self, name: str) -> dict[str, Any]:
        training = read_document(self.run.plan, Plan).configurations[name].training
        summary = json.loads(self.run.fold(name, FOLD).summary.read_text(encoding="utf-8"))
        scores = {
            score: [[values[score] for values in case["metrics"].values()] for case in summary["metric_per_case"]]
            for score in ("Dice", "NSD")
        }
        return {"iterations": training.epochs * training.iterations_per_epoch, "scores": scores}

    def _time_prediction(self, name: str) -> float:
        """Returns the CPU seconds of predicting a held-out image, without those of starting the command."""
        images, out = self.results / f"{self.stem}_images", self.results / f"{self.stem}_out"
        summary = json.loads(self.run.fold(name, FOLD).summary.read_text(encoding="utf-8"))
        cases, seconds = summary["metric_per_case"][: 1 + IMAGES], []
        for count in (1, len(cases)):
            for folder in (images, out):
                shutil.rmtree(folder, ignore_errors=True)
            images.mkdir()
            for case in cases[:count]:
                for path in (self.dataset / "imagesTr").glob(f"{case['case']}_*"):
                    shutil.copy(path, images)
            chosen = self._choose(name, FOLD)
            seconds.append(self._call("predict", str(self.run.root), str(images), str(out), *chosen))
        return (seconds[1] - seconds[0]) / (len(cases) - 1)

    def _call(self, *arguments: str) -> float:
        """Runs a command, and returns its CPU seconds; ends the program where it fails."""
        log, before = self.results / f"{self.stem}.log", read_cpu_seconds()
        if measure_command([sys.executable, "-m", "autoseg", *arguments], log, dict(os.environ)).exit_code:
            sys.exit(f"{self.name}: autoseg {arguments[0]} failed, see {log}")
        return read_cpu_seconds() - before


def read_cpu_seconds() -> float:
    """CPU seconds of all commands that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure_paces(trainings: list[Training]) -> None:
    """Times the steps of all, in rounds, so that a disturbance does not fall on one alone."""
    waiting = [training for training in trainings if not training.paces.exists()]
    rounds = [[training.time_steps() for training in waiting] for _ in range(ROUNDS if waiting else 0)]
    for training, times in zip(waiting, zip(*rounds, strict=True), strict=True):
        fastest = {name: min(found[name] for found in times) for name in times[0]}
        write_text(training.paces, json.dumps(fastest, indent=2))


def format_row(row: Mapping[str, Any], plain: Mapping[str, Any]) -> str:
    """Formats a row of the table."""
    cells = [
        row["run"],
        row["configuration"],
        row["iterations"],
        f"{row['pace']:.3f}",
        f"{row['cpu_minutes']:.1f}",
        f"{row['image_seconds']:.2f}",
    ]
    for score, values in row["scores"].items():
        before, after = (np.array(table, dtype=float) for table in (plain["scores"][score], values))
        cells += [f"{np.nanmean(after):.4f}", "" if row == plain else compute_gain(before, after).describe()]
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
