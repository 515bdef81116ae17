"""Wall time and peak memory of every command on one dataset: `python -m benchmarks.stages [DATASET]`."""

import argparse
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil

from autoseg.workflows.synthetic import write_synthetic_dataset
from benchmarks.process_tree import Measurement, measure_command

DEFAULT_DATASET = Path("../shared/data/Dataset004_Hippocampus")
TRAINING_ITERATIONS = 20
PREDICTED_IMAGES = 20


def main() -> None:
    """Measures and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", nargs="?", type=Path, default=DEFAULT_DATASET)
    dataset = parser.parse_args().dataset
    with tempfile.TemporaryDirectory(prefix="autoseg-bench-") as name:
        work = Path(name)
        if not dataset.is_dir():
            print(f"{dataset} is absent; measuring on a synthetic dataset instead")
            dataset = work / "synthetic"
            write_synthetic_dataset(dataset, training_cases=20, test_cases=0, seed=0)
        print_machine(dataset)
        for stage, measurement in measure_stages(dataset, work):
            print(f"| {stage} | {measurement.seconds:.2f} | {measurement.peak_gib:.2f} |", flush=True)


def print_machine(dataset: Path) -> None:
    """What the figures depend on."""
    cores = psutil.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    print(f"{dataset.name}, {platform.machine()}, {cores} cores, {memory:.0f} GiB, {datetime.now(UTC):%Y-%m-%d}\n")
    print("| stage | wall time (s) | peak memory (GiB) |\n|---|---|---|")


def measure_stages(dataset: Path, work: Path) -> Iterator[tuple[str, Measurement]]:
    """Runs the commands one after the other and yields each when it is done; stops at the first that fails."""
    run, images, out, log = work / "run", work / "images", work / "out", work / "log.txt"
    copy_images(dataset, images)
    commands: list[tuple[str, list[str]]] = [
        ("autoseg --help", ["--help"]),
        ("plan, measuring only", ["plan", str(dataset), "--run", str(run), "--no-preprocess"]),
        ("plan, preprocessing", ["plan", str(dataset), "--run", str(run)]),
        (f"train 3d_fullres, {TRAINING_ITERATIONS} iterations", ["train", str(run), "--fold", "all"]),
        (
            f"predict {PREDICTED_IMAGES} images, mirroring",
            ["predict", str(run), str(images), str(out), "--fold", "all"],
        ),
        ("evaluate them", ["evaluate", str(out), str(dataset / "labelsTr"), "--run", str(run)]),
    ]
    for stage, arguments in commands:
        if arguments[0] == "train":
            shorten(run)
        measurement = measure_command([sys.executable, "-m", "autoseg", *arguments], log)
        if measurement.exit_code != 0:
            sys.exit(f"{stage} failed:\n{log.read_text()[-3000:]}")
        yield stage, measurement


def copy_images(dataset: Path, folder: Path) -> None:
    """The images of the first cases."""
    folder.mkdir()
    for path in sorted((dataset / "imagesTr").iterdir())[:PREDICTED_IMAGES]:
        shutil.copy(path, folder / path.name)


def shorten(run: Path, iterations: int = TRAINING_ITERATIONS) -> None:
    """Edits the plan so that training takes few iterations."""
    path = run / "plan.json"
    plan = json.loads(path.read_text())
    for configuration in plan["configurations"].values():
        configuration["training"] |= {
            "epochs": 1,
            "iterations_per_epoch": iterations,
            "validation_iterations_per_epoch": 1,
        }
    path.write_text(json.dumps(plan))


if __name__ == "__main__":
    main()
