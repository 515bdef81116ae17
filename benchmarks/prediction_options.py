"""Time and memory of predictions with and without options: python -m benchmarks.prediction_options RUN IMAGES.

Each variant is a process of its own that predicts the same images into an empty folder; variants take turns, so that
other programs burden all of them alike. What counts are the seconds of the CPU and the peak of the memory, the smallest
of all rounds. `--before TREE` adds the sources of another version, without any option. Results in DICOM are made of the
same images as series, which are written first where they are files, and are compared with a row of their own; rows
whose libraries are not installed are left out with a line.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from autoseg.dicom_files import explain_dicom
from autoseg.errors import PredictionError
from autoseg.volume_io import strip_ending
from autoseg.volume_io.dicom import RESULT_FORMATS, check_dicom_libraries

VARIANTS = {
    "plain": (),
    "--no-mirroring": ("--no-mirroring",),
    "--decoding dice": ("--decoding", "dice"),
    "--uncertainty": ("--uncertainty",),
    "--save-probabilities": ("--save-probabilities",),
}
MADE_UP_ROOT = "1.2.826.0.1.3680043.8.498"  # of identifiers that anybody may use


class Variant(NamedTuple):
    """A row of the table: sources, images and options."""

    sources: Path
    images: Path
    options: tuple[str, ...] = ()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--before", type=Path, help="sources of an earlier version")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--fold", nargs="+", default=[], help="folds that predict")
    parser.add_argument("--budget", nargs="+", default=["1s"], help="times for an image, each a row")
    arguments = parser.parse_args()
    folds = tuple(part for fold in arguments.fold for part in ("--fold", fold))
    with tempfile.TemporaryDirectory() as folder:
        variants = list_variants(arguments.images, Path(folder), budgets=arguments.budget, before=arguments.before)
        figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in variants}
        for _ in range(arguments.rounds):
            for name, variant in variants.items():
                figures[name].append(measure(variant, arguments.run, folds))
    print("| prediction | CPU (s) | wall (s) | peak (MiB) |\n|---|---|---|---|")
    for name, rounds in figures.items():
        cpu, wall, peak = (min(values) for values in zip(*rounds, strict=True))
        print(f"| {name} | {cpu:.1f} | {wall:.1f} | {peak:.0f} |")


def list_variants(images: Path, folder: Path, *, budgets: list[str], before: Path | None) -> dict[str, Variant]:
    """Lists the rows; series are written below a temporary folder."""
    sources = Path(__file__).resolve().parents[1]
    variants = {} if before is None else {"before": Variant(before, images)}
    variants |= {name: Variant(sources, images, options) for name, options in VARIANTS.items()}
    variants |= {f"--budget {budget}": Variant(sources, images, ("--budget", budget)) for budget in budgets}
    if any(strip_ending(path.name).endswith("_0001") for path in images.iterdir()):
        print("left out: results in DICOM, as the images have several channels")
        return variants
    series = images
    if not explain_dicom(images):
        series = folder / "series"
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:  # memory of this one counts as theirs
            pool.submit(write_all_series, images, series).result()
    variants["plain, of DICOM"] = Variant(sources, series)
    for name, module in RESULT_FORMATS.items():
        try:
            check_dicom_libraries(module.LIBRARIES, what=f"--format {name}")
        except PredictionError as error:
            print(f"left out: {error}")
            continue
        variants[f"--format {name}"] = Variant(sources, series, ("--format", name))
    return variants


def write_all_series(images: Path, folder: Path) -> None:
    """Writes the images of a folder as series."""
    for number, path in enumerate(sorted(images.iterdir()), start=1):
        write_series(path, folder / strip_ending(path.name), number=number)


def write_series(path: Path, folder: Path, *, number: int) -> None:
    """Writes an image of one channel as a series of slices with integers, as a scanner does."""
    import numpy as np
    import SimpleITK

    image = SimpleITK.ReadImage(str(path))
    folder.mkdir(parents=True)
    array = np.rint(SimpleITK.GetArrayFromImage(image)).astype(np.int16)
    direction, series = np.array(image.GetDirection()).reshape(3, 3), f"{MADE_UP_ROOT}.{number}"
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index, plane in enumerate(array):
        made = SimpleITK.GetImageFromArray(plane)
        made.SetSpacing(image.GetSpacing()[:2])
        tags = {
            "0008|0018": f"{series}.{index + 1}",
            "0008|0060": "CT",
            "0010|0010": "Made^Up",
            "0020|000d": f"{MADE_UP_ROOT}.0",
            "0020|000e": series,
            "0020|0011": str(number),
            "0020|0013": str(index + 1),
            "0020|0032": join(image.TransformIndexToPhysicalPoint((0, 0, index))),
            "0020|0037": join((*direction[:, 0], *direction[:, 1])),
            "0020|0052": f"{MADE_UP_ROOT}.0.{number}",
        }
        for tag, value in tags.items():
            made.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{index:05d}.dcm"))
        writer.Execute(made)


def join(values: tuple[float, ...]) -> str:
    """Writes numbers as decimal strings of at most 16 letters."""
    return "\\".join(f"{value:.9g}" for value in values)


def measure(variant: Variant, run: Path, folds: tuple[str, ...]) -> tuple[float, float, float]:
    """Predicts in a process; returns its CPU seconds, its duration and the peak of its memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [sys.executable, "-m", "autoseg", "predict", str(run), str(variant.images), str(out)]
        command += ["--device", "cpu", "--execution", "eager", *variant.options, *folds]
        started = time.monotonic()
        process = os.posix_spawn(
            sys.executable,
            command,
            os.environ | {"PYTHONPATH": str(variant.sources)},
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
