"""Every architecture at equal minutes on the CPU: `python -m benchmarks.families --minutes 8 --results FOLDER`.

All are planned by the lite planner with the same budget, from the raw files to the validated model, train fold 0 and
are scored on its held-out cases. Trainings that are finished in the folder of results are not repeated, so a run may be
interrupted and continued, and more minutes or data sets may be added; the table holds all that is there. Compare with
the plain U-Net of the same run: a busy machine does fewer iterations in the minutes.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from autoseg.document import read_document
from autoseg.plan import Plan
from autoseg.run_folder import RunFolder, write_text
from autoseg.training.checkpoint import read_description
from autoseg.workflows.plan.planning import find_network_cost
from benchmarks.machine import describe_machine
from benchmarks.preprocessing import DEFAULT_DATA
from benchmarks.process_tree import Measurement, measure_command
from planners import ARCHITECTURES

DATASETS: Final = ("Dataset004_Hippocampus", "Dataset006_RetinaVessels", "Dataset007_Nuclei")
FOLD: Final = "0"
HEADING: Final = (
    "| data set | architecture | parameters (M) | iterations | s per iteration | peak memory (GiB) | Dice | HD95 |\n"
    "|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Trains what is not trained yet, then prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--results", type=Path, required=True, help="folder for runs, logs and results, kept")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--dataset", nargs="+", default=list(DATASETS))
    parser.add_argument("--only", nargs="+", default=list(ARCHITECTURES), metavar="ARCHITECTURE")
    options = parser.parse_args()
    print(f"{describe_machine()}, {options.minutes:g} minutes each", flush=True)
    options.results.mkdir(parents=True, exist_ok=True)
    for dataset in options.dataset:
        if not (options.data / dataset).is_dir():
            sys.exit(f"{options.data / dataset} is absent; name the folder of the data sets with --data")
        for architecture in options.only:
            train(options, dataset, architecture)
    print(f"\n{HEADING}")
    for row in list_results(options.results, options.minutes):
        print(format_row(row))


def train(options: argparse.Namespace, dataset: str, architecture: str) -> None:
    """Plans and trains one architecture, and writes its scores; nothing where they are written already."""
    name = f"{dataset}_{architecture}_{options.minutes:g}"
    result = options.results / f"{name}.json"
    if result.exists():
        return
    run = RunFolder(options.results / name)
    shutil.rmtree(run.root, ignore_errors=True)
    budget = f"{round(options.minutes * 60)}s"
    plan = ["plan", str(options.data / dataset), "--run", str(run.root), "--planner", "lite", "--budget", budget]
    measured = []
    for arguments in ([*plan, "--architecture", architecture], ["train", str(run.root), "--fold", FOLD]):
        command = [sys.executable, "-m", "autoseg", *arguments]
        measured.append(measure_command(command, options.results / f"{name}.log", dict(os.environ)))
        if measured[-1].exit_code:
            print(f"{dataset}, {architecture}: autoseg {arguments[0]} failed, see {name}.log", flush=True)
            return
    scores = read_scores(run, measured)
    write_text(result, json.dumps({"dataset": dataset, "architecture": architecture, **scores}, indent=2))
    print(format_row({"dataset": dataset, "architecture": architecture, **scores}), flush=True)
    shutil.rmtree(run.root)


def read_scores(run: RunFolder, measured: list[Measurement]) -> dict[str, Any]:
    """Reads the scores of a finished fold, and what its training took."""
    plan = read_document(run.plan, Plan)
    ((name, configuration),) = plan.configurations.items()
    fold = run.fold(name, FOLD)
    checkpoint = read_description(fold.final_checkpoint)
    epochs = [json.loads(line) for line in fold.training_log.read_text(encoding="utf-8").splitlines()]
    seconds = [epoch["seconds_per_iteration"] for epoch in epochs if "seconds_per_iteration" in epoch]
    summary = json.loads(fold.summary.read_text(encoding="utf-8"))
    cost = find_network_cost(configuration.network, configuration.patch_voxels, configuration.training.batch_size)
    return {
        "configuration": name,
        "minutes": sum(each.seconds for each in measured) / 60,
        "parameters": cost.parameter_count,
        "iterations": len(checkpoint.history) * checkpoint.schedule.iterations_per_epoch,
        "iteration_seconds": sorted(seconds)[len(seconds) // 2] if seconds else None,
        "peak_gib": max(each.peak_gib for each in measured),
        "dice": summary["foreground_mean"]["Dice"],
        "hd95": summary["foreground_mean"].get("HD95"),
    }


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


if __name__ == "__main__":
    main()
