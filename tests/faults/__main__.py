"""Kills every command of a 3D training and a cascade at random moments: `make faults`."""

import argparse
import json
import random
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from builders.balls import AFFINE, LABELS, make_case, save
from builders.datasets import write_dataset
from builders.plans import shorten

from faults.harness import Stage, StageResult, run_stage

MAGNIFICATION: Final = 4  # large enough for a patch of the smallest memory to cover too little of an image
FULL, FIRST, CASCADE = "3d_fullres", "3d_lowres", "3d_cascade_fullres"
CPU: Final = ("--device", "cpu", "--precision", "float32")
PLAN: Final = ("plan", "dataset", "--run", "run", "--memory-gb", "0.1", "--workers", "2")


def main() -> None:
    """Prints the kills, and a table by stage in Markdown; exits with 1 if anything was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="others run undisturbed")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="autoseg-faults-")) / "work"
    write_data(folder)
    results = []
    for stage in STAGES:
        chosen = stage if stage.name in arguments.only else replace(stage, kills=0)
        # Each stage has its own numbers, so that they do not depend on those before.
        generator = random.Random(f"{arguments.seed} {stage.name}")
        results.append(run_stage(chosen, folder, generator=generator, report=lambda text: print(text, flush=True)))
    print(format_table(results))
    shutil.rmtree(folder.parent)
    sys.exit(any(result.problems for result in results))


def write_data(folder: Path) -> None:
    """Writes a dataset that a cascade suits, and an image to predict."""
    cases = [(f"case{index}", make_large_case(index)) for index in range(2)]
    write_dataset(
        folder / "dataset",
        cases,
        labels={name: index for index, name in enumerate(LABELS, start=1)},
        affine=AFFINE,
        numTraining=2,
    )
    for index in range(2):
        save(folder / "images" / f"new{index}_0000.nii.gz", make_large_case(50 + index)[0])


def make_large_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes an image and a label map."""
    image, label_map = (np.kron(part, np.ones((MAGNIFICATION,) * 3, part.dtype)) for part in make_case(seed))
    return image, np.unique(label_map, return_inverse=True)[1].reshape(label_map.shape).astype(label_map.dtype)


def shorten_trainings(folder: Path) -> None:
    """Makes networks tiny and trainings short, and prediction without mirrored views."""
    run = folder / "run"
    for configuration in (FULL, FIRST, CASCADE):
        shorten(run, configuration, epochs=3, iterations=3)
    plan = json.loads((run / "plan.json").read_text())
    for configuration in (FULL, FIRST, CASCADE):
        chosen = plan["configurations"][configuration]
        chosen["network"]["features_per_stage"] = [4] * len(chosen["network"]["strides"])
        transforms = chosen["training"]["transforms"]
        chosen["training"]["transforms"] = [part for part in transforms if part["name"] != "mirror"]
    (run / "plan.json").write_text(json.dumps(plan))


def remove_arrays(folder: Path) -> None:
    """Leaves everything to preprocessing."""
    shutil.rmtree(folder / "run" / "preprocessed")


STAGES: Final = (
    Stage(name="plan", arguments=PLAN, kills=13),
    Stage(name="preprocess", arguments=("preprocess", "run", "--workers", "2"), kills=9, prepare=remove_arrays),
    Stage(
        name="train 3d_fullres",
        arguments=("train", "run", "--configuration", FULL, "--fold", "0", *CPU),
        kills=5,
        prepare=shorten_trainings,
    ),
    # Before the cascade, whose records name the digests of these weights, and with them the times of their epochs.
    Stage(name="train 3d_lowres", arguments=("train", "run", "--configuration", FIRST, *CPU), kills=4),
    Stage(name="train cascade", arguments=("train", "run", "--configuration", CASCADE, "--fold", "0", *CPU), kills=5),
    Stage(name="predict", arguments=("predict", "run", "images", "out", "--configuration", CASCADE, *CPU), kills=6),
    Stage(name="select", arguments=("select", "run", "--device", "cpu"), kills=5),
    Stage(name="export nnunet", arguments=("export", "run", "--format", "nnunet", "--output", "nnunet"), kills=5),
    Stage(name="export autoseg", arguments=("export", "run", "--format", "autoseg", "--output", "m.zip"), kills=4),
    Stage(name="import nnunet", arguments=("import", "nnunet", "foreign"), kills=4),
    Stage(name="import autoseg", arguments=("import", "m.zip", "imported"), kills=4),
)
NAMES: Final = tuple(stage.name for stage in STAGES)


def format_table(results: list[StageResult]) -> str:
    """Formats the results as a table in Markdown."""
    lines = ["| stage | kills | at (s) | undisturbed (s) | all (s) | problems |", "|---|---|---|---|---|---|"]
    for result in results:
        moments = f"{min(result.moments):.1f} to {max(result.moments):.1f}" if result.moments else ""
        lines.append(
            f"| {result.name} | {len(result.moments)} | {moments} | {result.undisturbed_seconds:.1f} "
            f"| {result.seconds:.0f} | {len(result.problems)} |"
        )
    kills, seconds = sum(len(result.moments) for result in results), sum(result.seconds for result in results)
    lines.append(f"| all | {kills} | | | {seconds:.0f} | {sum(len(result.problems) for result in results)} |")
    return "\n".join([*(problem for result in results for problem in result.problems), *lines])


if __name__ == "__main__":
    main()
