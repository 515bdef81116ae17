"""Stages, heads, losses, learned priors and objects beside the plain network: `python -m benchmarks.variants`.

    python -m benchmarks.variants --minutes 2 --results FOLDER
    python -m benchmarks.variants --minutes 2 --results FOLDER --dataset ../shared/data/Dataset007_Nuclei
    python -m benchmarks.variants --minutes 2 --results FOLDER --dataset ../shared/data/Dataset006_RetinaVessels \
        --stages 2d boundary_refinement --only stages point_rend --folds 0 1 2 3 4

All are planned by the planner `timed` with the same budget. The training steps of every configuration are timed, one
after another in several rounds, and each trains for as many iterations as the minutes hold at that pace: other programs
change how long the comparison takes, but not its result. A first stage trains five folds, as the stage after it learns
from predictions of cases that the first one did not see; of everything else fold 0 is trained, unless --folds names
more, and the held-out cases of these folds are scored. --stages plans other stages than all those of volumes, the
plain network first. What a first stage or a label autoencoder takes beside the
minutes is in the column of all CPU minutes. The configuration that corrects by clicks has a row for each number of
simulated clicks in every held-out case.

A data set with `instancesTr` has another table: objects of a plain network (connected components of its classes)
beside those of networks that tell objects apart, all by the usual rules, and what rules that `autoseg select` learns
gain on cases that were left out meanwhile.

The folder of results keeps runs and scores, row by row. What is there is not repeated, so the same command continues
a comparison that was interrupted, but for CPU seconds of the command that was interrupted, which are not counted. What
fails or is refused is named below the table, and the others go on.
"""

import argparse
import json
import math
import os
import resource
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import torch

from autoseg.document import read_document
from autoseg.plan import Plan
from autoseg.plan.stages import ClicksOfPreviousStage
from autoseg.run_folder import RunFolder, write_text
from autoseg.runtime.precision import find_dtype
from autoseg.training.network_timing import time_network
from benchmarks.families import FOLD, ROUNDS, SECONDS_OF_BUDGET, check_host_speed, set_iterations
from benchmarks.machine import describe_machine
from benchmarks.preprocessing import DEFAULT_DATA
from benchmarks.process_tree import measure_command
from benchmarks.variant_scores import (
    OBJECT_SOURCES,
    Row,
    format_table,
    join_scores,
    read_class_scores,
    read_learned_gain,
    read_object_scores,
    score_clicks,
)

DATASET: Final = "Dataset004_Hippocampus"


def choose_configurations(names: Iterable[str]) -> tuple[str, ...]:
    """Options of `autoseg plan` that ask for configurations."""
    return tuple(argument for name in names for argument in ("--configuration", name))


STAGES: Final = ("3d_fullres", "3d_roi", "detect_then_segment", "boundary_refinement", "2.5d", "2d_triplanar")
RUNS: Final[Mapping[str, tuple[str, ...]]] = {
    "stages": (
        *choose_configurations(STAGES),
        *("--configuration", "2d", "--refine", "3d_fullres"),
    ),
    "point_rend": ("--head", "point_rend"),
    "shape_prior": ("--loss", "shape_prior"),
    "adversarial": ("--loss", "adversarial"),
    "latent_diffusion": ("--architecture", "latent_diffusion"),
    "diffusion_unet": ("--architecture", "diffusion_unet"),
}
"""Options of `autoseg plan` for each run; the first run begins with the plain network."""
OBJECT_RUNS: Final[Mapping[str, tuple[str, ...]]] = {
    "components": (),
    "core_border": ("--task", "instances"),
    "centre_distance": ("--task", "instances", "--targets", "centre_distance"),
    "mask_rcnn": ("--task", "instances", "--architecture", "mask_rcnn"),
    "detect_then_segment": (
        *("--task", "instances"),
        *("--configuration", "3d_fullres", "--configuration", "detect_then_segment"),
    ),
}
"""The same for a data set that numbers its objects."""
FIVE_FOLDS: Final = ("0", "1", "2", "3", "4")
IMAGES: Final = 10
"""Held-out images whose prediction is timed, at most."""


class CommandFailedError(Exception):
    """A command of autoseg failed; the message names it and its log."""


def main() -> None:
    """Trains what is not trained yet, then prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="of training steps of each fold")
    parser.add_argument("--results", type=Path, required=True, help="folder for runs, logs and results, kept")
    parser.add_argument("--dataset", type=Path, default=DEFAULT_DATA / DATASET)
    parser.add_argument("--only", nargs="+", choices=[*RUNS, *OBJECT_RUNS], metavar="RUN", help="beside the plain one")
    parser.add_argument(
        "--stages", nargs="+", metavar="NAME", help="configurations of the first run, the plain one first"
    )
    parser.add_argument("--configurations", nargs="+", metavar="NAME", help="train and score only these of each run")
    parser.add_argument("--folds", nargs="+", choices=FIVE_FOLDS, default=[FOLD], help="folds that are scored")
    options = parser.parse_args()
    print(f"{describe_machine()}, {options.dataset.name}, {options.minutes:g} minutes each", flush=True)
    if not options.dataset.is_dir():
        sys.exit(f"{options.dataset} is absent; name the folder of the data set with --dataset")
    if (options.dataset / "instancesTr").is_dir() and options.folds != [FOLD]:
        sys.exit(f"the table of objects is one of fold {FOLD}; leave --folds out")
    check_host_speed()
    options.results.mkdir(parents=True, exist_ok=True)
    trainings = list_trainings(options.results, options.dataset, options.only, options.minutes, stages=options.stages)
    chosen = {"folds": tuple(options.folds), "configurations": options.configurations}
    for line in compare([replace(training, **chosen) for training in trainings]):
        print(line, flush=True)


def list_trainings(
    results: Path, dataset: Path, only: Sequence[str] | None, minutes: float, *, stages: Sequence[str] | None = None
) -> list["Training"]:
    """Lists the runs of the table that fits the data set, the one with the plain network first."""
    runs = OBJECT_RUNS if (dataset / "instancesTr").is_dir() else RUNS
    if stages:
        runs = {**runs, next(iter(runs)): choose_configurations(stages)}
    names = dict.fromkeys((next(iter(runs)), *(name for name in runs if only is None or name in only)))
    return [Training(results, dataset, name, minutes, runs[name]) for name in names]


def compare(trainings: list["Training"]) -> Iterator[str]:
    """Trains what is not trained yet, then yields the lines of the table, and what failed."""
    failures: list[str] = []
    planned = [training for training in trainings if training.attempt(training.plan, failures)]
    timed = measure_paces(planned, failures)
    for training in timed:
        for configuration in training.list_configurations():
            training.attempt(partial(training.train, configuration), failures)
    rows = [row for training in timed for row in training.read_results()]
    if rows:
        yield from ("", *format_table(rows))
    if failures:
        yield from ("", *(f"not measured: {failure}" for failure in failures))


@dataclass(frozen=True, slots=True)
class Training:
    """All configurations of a run.

    Attributes:
        options: Options of `autoseg plan`.
        folds: Folds that are trained, if not all five must be, and scored.
        configurations: Configurations that are trained and scored; None for all of the plan.
        program: Begin of every command.
    """

    results: Path
    dataset: Path
    name: str
    minutes: float
    options: tuple[str, ...]
    folds: tuple[str, ...] = (FOLD,)
    configurations: Sequence[str] | None = None
    program: tuple[str, ...] = (sys.executable, "-m", "autoseg")

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

    @property
    def spent(self) -> Path:
        """File of the CPU seconds of the trainings of each fold."""
        return self.results / f"{self.stem}.spent.json"

    @property
    def instances(self) -> Path:
        """Folder that numbers the objects of the data set, where there are any."""
        return self.dataset / "instancesTr"

    def find_result(self, configuration: str) -> Path:
        """File of the rows of a configuration."""
        folds = "" if self.folds == (FOLD,) else f".folds_{'_'.join(self.folds)}"
        return self.results / f"{self.stem}.{configuration}{folds}.json"

    @property
    def log(self) -> Path:
        """File of the output of all commands."""
        return self.results / f"{self.stem}.log"

    def attempt(self, step: Callable[[], None], failures: list[str]) -> bool:
        """Takes a step; returns whether it succeeded, and else adds what failed, so that the other runs go on."""
        try:
            step()
        except Exception as error:  # whatever it is, an hour of other runs is not lost for it
            with self.log.open("a", encoding="utf-8") as log:
                log.write(traceback.format_exc())
            failures.append(f"{self.name}: {error} (all of it: {self.log})")
            print(failures[-1], flush=True)
            return False
        return True

    def plan(self) -> None:
        """Plans the run and preprocesses its data, or goes on with it, unless its steps were timed."""
        if self.paces.exists() and self.run.plan.exists():
            return
        if not self.run.plan.exists():
            shutil.rmtree(self.run.root, ignore_errors=True)
        self.paces.unlink(missing_ok=True)
        budget = f"{round(self.minutes * SECONDS_OF_BUDGET)}s"
        arguments = ["plan", str(self.dataset), "--run", str(self.run.root), "--planner", "timed", "--budget", budget]
        self._call(*arguments, *self.options)

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

    def list_configurations(self) -> list[str]:
        """Lists the configurations of the plan, first stages first."""
        plan = read_document(self.run.plan, Plan)
        names = [name for name in plan.configurations if self.configurations is None or name in self.configurations]
        return sorted(names, key=lambda name: len(plan.list_stages(name)))

    def train(self, name: str) -> None:
        """Trains a configuration, and writes its rows, unless they are there.

        Raises:
            CommandFailedError: A command fails.
        """
        if self.find_result(name).exists():
            return
        plan = read_document(self.run.plan, Plan)
        previous = {configuration.previous_configuration for configuration in plan.configurations.values()}
        set_iterations(self.run, name, int(self.minutes * 60 / read_table(self.paces)[name]))
        for fold in FIVE_FOLDS if name in previous else self.folds:
            self._train_fold(name, fold)
        rows = [self._describe(name) | scores for scores in self._score(name)]
        write_text(self.find_result(name), json.dumps(rows, indent=2))
        print(f"{self.name}, {name}: {rows[0]['cpu_minutes']:.1f} CPU minutes", flush=True)

    def read_results(self) -> Iterator[Row]:
        """Reads the rows of every configuration that is scored, in the order of the plan."""
        chosen = self.list_configurations()
        for name in (name for name in read_document(self.run.plan, Plan).configurations if name in chosen):
            if self.find_result(name).exists():
                yield from json.loads(self.find_result(name).read_text(encoding="utf-8"))

    def _train_fold(self, name: str, fold: str) -> None:
        spent, key = read_table(self.spent), f"{name}, fold {fold}"
        if key in spent and self.run.fold(name, fold).summary.exists():
            return
        seconds = self._call("train", str(self.run.root), *self._choose(name, fold))
        write_text(self.spent, json.dumps(spent | {key: spent.get(key, 0.0) + seconds}, indent=2))

    def _describe(self, name: str) -> Row:
        """Describes the training of a configuration."""
        training = read_document(self.run.plan, Plan).configurations[name].training
        spent = [seconds for key, seconds in read_table(self.spent).items() if key.startswith(f"{name}, ")]
        return {
            "run": self.name,
            "configuration": name,
            "iterations": training.epochs * training.iterations_per_epoch,
            "pace": read_table(self.paces)[name],
            "cpu_minutes": sum(spent) / 60,
        }

    def _score(self, name: str) -> Iterator[Row]:
        """Yields scores of the held-out cases and the CPU seconds of an image, for each row of a configuration."""
        plan = read_document(self.run.plan, Plan)
        if self.instances.is_dir():
            yield from self._score_objects(name, tells_apart=plan.instances is not None)
            return
        of_folds = [read_class_scores(self.run.fold(name, fold)) for fold in self.folds]
        yield {"scores": join_scores(of_folds), "image_seconds": self._time_prediction(name)}
        if isinstance(plan.configurations[name].previous_stage, ClicksOfPreviousStage):
            for count, scores, seconds in score_clicks(self.run, name):
                clicked = f"{name}, {count} click{'' if count == 1 else 's'}"
                yield {"configuration": clicked, "scores": scores, "image_seconds": seconds}

    def _score_objects(self, name: str, *, tells_apart: bool) -> Iterator[Row]:
        """Scores the objects of predicted label maps: those that were told apart, and connected components."""
        seconds, out = self._time_prediction(name), self.results / f"{self.stem}_out"
        references = str(self.dataset / "labelsTr")
        self._call(*("evaluate", str(out), references, "--run", str(self.run.root), "--instances", str(self.instances)))
        learned = ""
        if tells_apart and name in read_document(self.run.plan, Plan).list_segmenting():
            self._call("select", str(self.run.root), "--configuration", name, "--no-variants")
            learned = read_learned_gain(self.run)
        for source in OBJECT_SOURCES if tells_apart else OBJECT_SOURCES[1:]:
            row = {"scores": read_object_scores(out, source), "image_seconds": seconds}
            told = f"{name}, {source}"
            yield row | {"configuration": told, "learned rule": learned if source == OBJECT_SOURCES[0] else ""}

    def _choose(self, configuration: str, fold: str) -> list[str]:
        return ["--configuration", configuration, "--fold", fold]

    def _time_prediction(self, name: str) -> float:
        """Returns the CPU seconds of predicting a held-out image, without those of starting the command; NaN where a
        single one is held out, which does not tell them apart.

        Of a data set with objects, all held-out images are predicted.
        """
        images, out = self.results / f"{self.stem}_images", self.results / f"{self.stem}_out"
        summary = json.loads(self.run.fold(name, FOLD).summary.read_text(encoding="utf-8"))
        cases, seconds = summary["metric_per_case"], []
        cases = cases if self.instances.is_dir() else cases[: 1 + IMAGES]
        for count in sorted({1, len(cases)}):
            for folder in (images, out):
                shutil.rmtree(folder, ignore_errors=True)
            images.mkdir()
            for case in cases[:count]:
                for path in (self.dataset / "imagesTr").glob(f"{case['case']}_*"):
                    shutil.copy(path, images)
            chosen = self._choose(name, FOLD)
            seconds.append(self._call("predict", str(self.run.root), str(images), str(out), *chosen))
        return max(0.0, seconds[1] - seconds[0]) / (len(cases) - 1) if len(cases) > 1 else math.nan

    def _call(self, *arguments: str) -> float:
        """Runs a command, and returns its CPU seconds.

        Raises:
            CommandFailedError: It fails.
        """
        before = read_cpu_seconds()
        if measure_command([*self.program, *arguments], self.log, dict(os.environ)).exit_code:
            lines = [line for line in self.log.read_text(encoding="utf-8").splitlines() if line.strip()]
            msg = f"autoseg {arguments[0]} failed: {lines[-1].strip() if lines else 'without a word'}"
            raise CommandFailedError(msg)
        return read_cpu_seconds() - before


def read_table(path: Path) -> dict[str, float]:
    """Reads a file of numbers; nothing where there is none."""
    found: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def read_cpu_seconds() -> float:
    """CPU seconds of all commands that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure_paces(trainings: list[Training], failures: list[str]) -> list[Training]:
    """Times the steps of all, in rounds, so that a disturbance does not fall on one alone; returns those with paces."""
    waiting = [training for training in trainings if not training.paces.exists()]
    times: dict[str, list[dict[str, float]]] = {training.name: [] for training in waiting}

    def time_once(training: Training) -> None:
        times[training.name].append(training.time_steps())

    for _ in range(ROUNDS):
        waiting = [training for training in waiting if training.attempt(partial(time_once, training), failures)]
    for training in waiting:
        found = times[training.name]
        write_text(training.paces, json.dumps({name: min(one[name] for one in found) for name in found[0]}, indent=2))
    return [training for training in trainings if training.paces.exists()]


if __name__ == "__main__":
    main()
