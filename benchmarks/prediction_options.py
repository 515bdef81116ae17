"""Time and memory of predictions with and without options: python -m benchmarks.prediction_options RUN IMAGES.

Each variant is a process of its own that predicts the same images into an empty folder; variants take turns, so that
other programs burden all of them alike. What counts are the seconds of the CPU and the peak of the memory, the smallest
of all rounds. `--before TREE` adds the sources of another version, without any option.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

VARIANTS = {"plain": (), "--uncertainty": ("--uncertainty",), "--save-probabilities": ("--save-probabilities",)}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--before", type=Path, help="sources of an earlier version")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--fold", nargs="+", default=[], help="folds that predict")
    arguments = parser.parse_args()
    sources = Path(__file__).resolve().parents[1]
    variants = {name: (sources, options) for name, options in VARIANTS.items()}
    if arguments.before is not None:
        variants = {"before": (arguments.before, ())} | variants
    folds = [part for fold in arguments.fold for part in ("--fold", fold)]
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in variants}
    for _ in range(arguments.rounds):
        for name, (tree, options) in variants.items():
            figures[name].append(measure(tree, arguments.run, arguments.images, (*options, *folds)))
    print("| prediction | CPU (s) | wall (s) | peak (MiB) |\n|---|---|---|---|")
    for name, rounds in figures.items():
        cpu, wall, peak = (min(values) for values in zip(*rounds, strict=True))
        print(f"| {name} | {cpu:.1f} | {wall:.1f} | {peak:.0f} |")


def measure(tree: Path, run: Path, images: Path, options: tuple[str, ...]) -> tuple[float, float, float]:
    """Predicts in a process; returns its CPU seconds, its duration and the peak of its memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [sys.executable, "-m", "autoseg", "predict", str(run), str(images), str(out), "--device", "cpu"]
        started = time.monotonic()
        process = os.posix_spawn(
            sys.executable,
            [*command, "--execution", "eager", *options],
            os.environ | {"PYTHONPATH": str(tree)},
            file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
        )
        _, status, usage = os.wait4(process, 0)
        if status:
            sys.exit(f"{' '.join(command)} failed")
        wall = time.monotonic() - started
        shutil.rmtree(out)
    return usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
