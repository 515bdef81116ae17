"""Planning and preprocessing against nnU-Net in one run: `python -m benchmarks.preprocessing [--peer FOLDER]`.

The two run alternately on the same data with the same number of processes; their arrays are compared afterwards.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from autoseg.geometry import Grid
from autoseg.volume_io import read_image, read_label_map, write_label_map
from benchmarks.machine import describe_machine
from benchmarks.peer import WORKERS, Difference, Peer
from benchmarks.process_tree import Measurement, measure_command
from benchmarks.synthetic_ct import OBLIQUE, CtCase, write_ct_dataset

DEFAULT_PEER: Final = Path.home() / ".cache" / "autoseg-peer"
DEFAULT_DATA: Final = Path("../shared/data")
LARGE_CT: Final = tuple(
    CtCase(shape_voxels=(80 + 80 * index // 11, 512, 512), spacing_mm=(5.0, plane, plane))
    for index, plane in enumerate((0.7, 0.9, 0.8, 0.75, 0.85, 0.8, 0.8, 0.72, 0.88, 0.8, 0.78, 0.82))
)
MIXED_CT: Final = tuple(
    CtCase(shape_voxels=(30, 180, 200) if thick else (150, 150, 170), spacing_mm=(5.0 if thick else 0.8, plane, plane))
    for thick, plane in ((True, 0.8), (False, 0.9), (True, 0.7), (True, 0.8))
)
OBLIQUE_CT: Final = tuple(
    CtCase(shape_voxels=(40, 130, 120 + extra), spacing_mm=(2.0 + 0.1 * extra, 1.5, 1.5), direction=OBLIQUE)
    for extra in range(3)
)
TARGET_2_5_MM: Final = tuple(
    CtCase(shape_voxels=(60, 140, 150), spacing_mm=(thickness, 0.7, 0.75)) for thickness in (2.5, 2.5, 5.0, 1.25, 2.5)
)
CT_EXAMPLE_ORGANS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A dataset.

    Attributes:
        make: Puts it into a folder.
        repetitions: How often it is timed; 0 where only the arrays are compared.
    """

    name: str
    make: Callable[[Path], None]
    repetitions: int


def main() -> None:
    """Measures and prints tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, default=DEFAULT_PEER, help="where nnU-Net is installed")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of real datasets")
    parser.add_argument("--only", nargs="*", help="names of datasets")
    parser.add_argument("--repetitions", type=int, default=2)
    options = parser.parse_args()
    if not (options.peer / "bin" / "nnUNetv2_plan_and_preprocess").is_file():
        print(f"{options.peer} holds no nnU-Net; the comparison is left out (choose another folder with --peer)")
        return
    tasks = [task for task in list_tasks(options.data, options.repetitions) if task.name in (options.only or task.name)]
    with tempfile.TemporaryDirectory(prefix="autoseg-bench-") as folder:
        peer = Peer(installed=options.peer, root=Path(folder) / "peer")
        print(describe_machine())
        rows = [measure_task(task, peer, Path(folder)) for task in tasks]
    print_table("| dataset | configuration | cases | unequal shapes | largest | mean | equal labels |", rows)


def list_tasks(data: Path, repetitions: int) -> list[Task]:
    """Real datasets that are there, and made-up ones."""
    real = {"Dataset004_Hippocampus": repetitions, "Dataset005_BrainTumour": 0, "Dataset006_RetinaVessels": 0}
    tasks = [
        Task(name=name, make=lambda folder, source=data / name: folder.symlink_to(source.resolve()), repetitions=count)  # type: ignore[misc]
        for name, count in real.items()
        if (data / name).is_dir()
    ]
    if (data / "ct_example").is_dir():
        tasks.append(
            Task(name="Dataset101_CtExample", make=lambda folder: write_ct_example(data, folder), repetitions=0)
        )
    made_up: dict[str, tuple[Sequence[CtCase], int]] = {
        "Dataset102_LargeCt": (LARGE_CT, repetitions),
        "Dataset103_MixedCt": (MIXED_CT, 0),
        "Dataset104_ObliqueCt": (OBLIQUE_CT, 0),
        "Dataset105_TargetCt": (TARGET_2_5_MM, 0),
    }
    tasks += [
        Task(name=name, make=lambda folder, cases=cases: write_ct_dataset(folder, cases), repetitions=count)  # type: ignore[misc]
        for name, (cases, count) in made_up.items()
    ]
    return tasks


def measure_task(task: Task, peer: Peer, work: Path) -> list[str]:
    """Times both, prints the times, and returns the rows of the table of differences."""
    dataset, run = peer.raw / task.name, work / "run"
    peer.raw.mkdir(parents=True, exist_ok=True)
    task.make(dataset)
    theirs, ours = [], []
    for _ in range(max(task.repetitions, 1)):
        theirs.append(run_checked(peer.list_plan_command(dataset), work / "peer.log", peer.make_environment()))
        shutil.rmtree(run, ignore_errors=True)
        command = [sys.executable, "-m", "autoseg", "plan", str(dataset), "--run", str(run), "--workers", WORKERS]
        ours.append(run_checked(command, work / "autoseg.log"))
    if task.repetitions:
        print_times(task.name, theirs, ours)
    rows = [describe_difference(task.name, found) for found in peer.compare(run, dataset)]
    if peer.copy_windows(run, dataset):
        run_checked([sys.executable, "-m", "autoseg", "preprocess", str(run), "--workers", WORKERS], work / "again.log")
        rows += [describe_difference(f"{task.name}, nnU-Net's window", found) for found in peer.compare(run, dataset)]
    shutil.rmtree(run)
    shutil.rmtree(peer.root / "preprocessed")
    dataset.unlink() if dataset.is_symlink() else shutil.rmtree(dataset)
    return rows


def describe_difference(name: str, found: Difference) -> str:
    """A row of the table."""
    return (
        f"| {name} | {found.configuration} | {found.cases} | {found.unequal_shapes} | {found.largest:.2g} "
        f"| {found.mean:.2g} | {found.equal_labels:.6%} |"
    )


def run_checked(command: list[str], log: Path, environment: dict[str, str] | None = None) -> Measurement:
    """Runs a command that must succeed."""
    measurement = measure_command(command, log, environment)
    if measurement.exit_code != 0:
        sys.exit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    return measurement


def print_times(name: str, theirs: Sequence[Measurement], ours: Sequence[Measurement]) -> None:
    """Medians, and what nnU-Net needs more."""
    print(f"\n{name}\n\n| | wall time (s) | peak memory (GiB) |\n|---|---|---|")
    for label, runs in (("nnU-Net", theirs), ("autoseg", ours)):
        times = ", ".join(f"{run.seconds:.1f}" for run in runs)
        print(f"| {label} | {times} | {', '.join(f'{run.peak_gib:.2f}' for run in runs)} |")
    time_ratio = median(run.seconds for run in theirs) / median(run.seconds for run in ours)
    memory_ratio = median(run.peak_bytes for run in ours) / median(run.peak_bytes for run in theirs)
    print(f"\nautoseg is {time_ratio:.1f} times as fast with {memory_ratio:.2f} of the memory", flush=True)


def print_table(heading: str, groups: Sequence[list[str]]) -> None:
    """A Markdown table."""
    print(f"\n{heading}\n|{'---|' * (heading.count('|') - 1)}")
    print("\n".join(row for rows in groups for row in rows))


def write_ct_example(data: Path, folder: Path) -> None:
    """A dataset of one real CT and a part of it, with its largest organs."""
    image = read_image([data / "ct_example" / "example_ct_sm.nii.gz"])
    labels = read_label_map(data / "ct_example" / "example_seg.nii.gz").array
    largest = np.argsort(np.bincount(labels[labels > 0].ravel()))[::-1][:CT_EXAMPLE_ORGANS]
    table = np.zeros(int(labels.max()) + 1, np.uint8)
    table[largest] = np.arange(1, CT_EXAMPLE_ORGANS + 1)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for name, part in (("whole", slice(None)), ("part", slice(0, 90))):
        array = np.rint(image.array[0][:, part]).astype(np.int16)
        spacing_mm = image.grid.spacing_mm if name == "whole" else (3.3, 2.8, 2.8)
        grid = Grid(shape_voxels=array.shape, spacing_mm=spacing_mm)
        write_label_map(folder / "imagesTr" / f"{name}_0000.nii.gz", array, grid=grid, like=None)
        write_label_map(folder / "labelsTr" / f"{name}.nii.gz", table[labels[:, part]], grid=grid, like=None)
    entries = {"background": 0, **{f"organ{value}": value for value in range(1, CT_EXAMPLE_ORGANS + 1)}}
    description = {"channel_names": {"0": "CT"}, "labels": entries, "numTraining": 2, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))


if __name__ == "__main__":
    main()
