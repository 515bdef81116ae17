"""Speed and accuracy beside other programs: `python -m benchmarks.shared_machine [--data DATA] [--only ...]`.

Busy processes run in sessions of their own, as those of other users do. The times of a command beside them are compared
with its times on the idle machine, all in one run and in turns.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.machine import describe_machine
from benchmarks.stages import shorten

DATA: Final = Path("../shared/data")
HIPPOCAMPUS: Final = "Dataset004_Hippocampus"
RETINA: Final = "Dataset006_RetinaVessels"
PREDICTED_IMAGES: Final = 60
ITERATIONS: Final = 25
PLANNED_FOR: Final = "8m"  # a small network: beside others, large ones would take long
CORES: Final = len(os.sched_getaffinity(0))
VARIANTS: Final[dict[str, dict[str, str]]] = {
    "autoseg": {},
    "all threads": {"OMP_NUM_THREADS": str(CORES)},
    "all threads, passive": {"OMP_NUM_THREADS": str(CORES), "OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BUSY: Final = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"  # ends with this process
CONTAINER: Final = "half of the cores granted"
LOADS: Final[dict[str, int]] = {"idle": 0, "one busy process": 1, "two busy processes": 2, CONTAINER: 0}
GROUPS: Final = Path("/sys/fs/cgroup")

Environment = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Something whose seconds count, in an environment, with a function to be called in its process first."""

    name: str
    measure: Callable[[Environment, Callable[[], None] | None], float]


def main() -> None:
    """Measures and prints tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--only", nargs="+", choices=(*WORKS, "accuracy"), default=[*WORKS, "accuracy"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=[*VARIANTS])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--budget", default="4m", help="Of the trainings whose accuracy is compared.")
    options = parser.parse_args()
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="autoseg-bench-") as name:
        for kind in options.only:
            if kind == "accuracy":
                compare_accuracy(options.data / RETINA, Path(name) / "accuracy", options.budget)
            else:
                work = WORKS[kind](options.data, Path(name) / kind)
                compare_times(work, options.variants, options.rounds)


def compare_times(work: Work, variants: Sequence[str], rounds: int) -> None:
    """A table: a row for each load, a column for each variant; in brackets how many times the idle time that is."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for load, count in LOADS.items():
            for variant in variants:
                print(f"{work.name}: {load}, {variant}", file=sys.stderr, flush=True)
                with busy_processes(count), container(granted=load == CONTAINER) as enter:
                    taken = work.measure(VARIANTS[variant], enter)
                seconds.setdefault((load, variant), []).append(taken)
    print(f"\n| {work.name}, seconds | {' | '.join(variants)} |\n|{'---|' * (len(variants) + 1)}")
    for load in LOADS:
        cells = []
        for variant in variants:
            taken, idle = seconds[load, variant], statistics.median(seconds["idle", variants[0]])
            cells.append(f"{', '.join(f'{x:.3g}' for x in taken)} ({statistics.median(taken) / idle:.2f})")
        print(f"| {load} | {' | '.join(cells)} |", flush=True)


def prepare_retina(data: Path, folder: Path) -> Work:
    """Predicting one picture of the retina."""
    run, dataset = folder / "run", data / RETINA
    train_shortly(dataset, run)
    images = copy_images(dataset, folder / "images", count=1)
    return Work(name="predict, retina, one image", measure=lambda env, enter: predict(run, images, env, enter))


def prepare_hippocampus(data: Path, folder: Path) -> Work:
    """Predicting many small volumes."""
    run, dataset = folder / "run", data / HIPPOCAMPUS
    train_shortly(dataset, run)
    images = copy_images(dataset, folder / "images", count=PREDICTED_IMAGES)
    name = f"predict, {PREDICTED_IMAGES} hippocampi, one fold"
    return Work(name=name, measure=lambda env, enter: predict(run, images, env, enter))


def prepare_training(data: Path, folder: Path) -> Work:
    """Training iterations of a plan of the planner "lite"."""
    run = folder / "run"
    plan(data / HIPPOCAMPUS, run)
    shorten(run, ITERATIONS)

    def measure(environment: Environment, enter: Callable[[], None] | None) -> float:
        command = ["train", str(run), "--fold", "all", "--restart"]
        call(command, environment, enter)
        log = next(run.glob("models/*/fold_all/training_log.jsonl"))
        return float(json.loads(log.read_text().splitlines()[0])["seconds_per_iteration"])

    return Work(name=f"train by lite, an iteration (mean of {ITERATIONS})", measure=measure)


WORKS: Final[dict[str, Callable[[Path, Path], Work]]] = {
    "retina": prepare_retina,
    "hippocampus": prepare_hippocampus,
    "training": prepare_training,
}


def compare_accuracy(dataset: Path, folder: Path, budget: str) -> None:
    """What a training of a few minutes reaches beside other programs: from raw files to validation."""
    print(f"\n| {dataset.name}, --planner lite --budget {budget} | minutes | iterations | Dice |\n|---|---|---|---|")
    for load, count in LOADS.items():
        if load == CONTAINER:
            continue
        run = folder / load.replace(" ", "_")
        with busy_processes(count):
            started = time.perf_counter()
            call(["plan", str(dataset), "--run", str(run), "--planner", "lite", "--budget", budget])
            call(["train", str(run), "--fold", "0"])
            minutes = (time.perf_counter() - started) / 60
        (fold,) = run.glob("models/*/fold_0")
        lines = [json.loads(line) for line in (fold / "training_log.jsonl").read_text().splitlines()]
        iterations = round(sum((x["seconds"] - x["data_wait_seconds"]) / x["seconds_per_iteration"] for x in lines))
        dice = json.loads((fold / "validation" / "summary.json").read_text())["foreground_mean"]["Dice"]
        print(f"| {load} | {minutes:.1f} | about {iterations} | {dice:.3f} |", flush=True)


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Processes that never rest."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def container(*, granted: bool) -> Iterator[Callable[[], None] | None]:
    """A control group that grants half of the cores' time; gives what puts a process into it."""
    if not granted:
        yield None
        return
    v1 = GROUPS / "cpu"
    group = (v1 if v1.is_dir() else GROUPS) / f"autoseg-bench-{os.getpid()}"
    group.mkdir()
    try:
        if v1.is_dir():
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text(str(CORES * 50000))
        else:
            (group / "cpu.max").write_text(f"{CORES * 50000} 100000")
        yield lambda: (group / "cgroup.procs").write_text(str(os.getpid())) and None
    finally:
        group.rmdir()


def plan(dataset: Path, run: Path) -> None:
    """Plans and preprocesses for a CPU."""
    call(["plan", str(dataset), "--run", str(run), "--planner", "lite", "--budget", PLANNED_FOR])


def train_shortly(dataset: Path, run: Path) -> None:
    """A model whose answers do not matter."""
    plan(dataset, run)
    shorten(run, 3)
    call(["train", str(run), "--fold", "all"])


def copy_images(dataset: Path, folder: Path, *, count: int) -> Path:
    """The first images of a dataset in a folder."""
    folder.mkdir()
    for path in sorted((dataset / "imagesTr").iterdir())[:count]:
        shutil.copy(path, folder / path.name)
    return folder


def predict(run: Path, images: Path, environment: Environment, enter: Callable[[], None] | None) -> float:
    """Seconds of the whole command."""
    out = images.parent / "out"
    started = time.perf_counter()
    call(["predict", str(run), str(images), str(out), "--fold", "all"], environment, enter)
    seconds = time.perf_counter() - started
    shutil.rmtree(out)
    return seconds


def call(
    arguments: Sequence[str], environment: Environment | None = None, enter: Callable[[], None] | None = None
) -> None:
    """Runs a command of autoseg to its end; stops the benchmark if it fails."""
    command = [sys.executable, "-m", "autoseg", *arguments]
    done = subprocess.run(
        command,
        env={**os.environ, **(environment or {})},
        preexec_fn=enter,  # this process has no other threads
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")


if __name__ == "__main__":
    main()
