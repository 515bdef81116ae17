"""Runs nnU-Net's planning and preprocessing, and compares its arrays with ours."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import blosc2
import numpy as np
from numpy.typing import NDArray

from autoseg.preprocessing.cache import list_cases, open_case

WORKERS: Final = "2"
PLANS_NAME: Final = "nnUNetPlans"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Between the arrays of one configuration, over all cases.

    Attributes:
        unequal_shapes: Cases whose arrays have another shape.
        largest: Largest difference of an intensity, in standard deviations of its case and channel.
        mean: Mean difference of intensities, in the same unit.
        equal_labels: Share of voxels with the same label.
    """

    configuration: str
    cases: int
    unequal_shapes: int
    largest: float
    mean: float
    equal_labels: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """An installed nnU-Net and its folders."""

    installed: Path
    root: Path

    @property
    def raw(self) -> Path:
        """Holds the datasets, one folder each."""
        return self.root / "raw"

    def list_plan_command(self, dataset: Path) -> list[str]:
        """Fingerprint, plan and all planned configurations; those that are not planned are skipped."""
        number = dataset.name[len("Dataset") :].partition("_")[0]
        program = self.installed / "bin" / "nnUNetv2_plan_and_preprocess"
        arguments = ["-d", number, "--clean", "-npfp", WORKERS, "-np", WORKERS]
        return [str(program), *arguments, "-c", "2d", "3d_fullres", "3d_lowres"]

    def make_environment(self) -> dict[str, str]:
        """The variables that name its folders."""
        names = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
        return {**os.environ, **{variable: str(self.root / folder) for variable, folder in names.items()}}

    def copy_windows(self, run: Path, dataset: Path) -> bool:
        """Puts nnU-Net's intensity windows, for which it draws voxels at random, into our plan; False without any."""
        folder = self.root / "preprocessed" / dataset.name
        theirs = json.loads((folder / f"{PLANS_NAME}.json").read_text())["foreground_intensity_properties_per_channel"]
        plan = json.loads((run / "plan.json").read_text())
        windows = [channel for channel in plan["channels"] if channel["window"] is not None]
        for index, channel in enumerate(plan["channels"]):
            if channel["window"] is not None:
                found = theirs[str(index)]
                channel["window"] = {
                    "lower": found["percentile_00_5"],
                    "upper": found["percentile_99_5"],
                    "mean": found["mean"],
                    "std": found["std"],
                }
        (run / "plan.json").write_text(json.dumps(plan))
        return bool(windows)

    def compare(self, run: Path, dataset: Path) -> list[Difference]:
        """Compares every configuration of a run with nnU-Net's."""
        folder = self.root / "preprocessed" / dataset.name
        planned = json.loads((folder / f"{PLANS_NAME}.json").read_text())["configurations"]
        theirs = {name: folder / plan["data_identifier"] for name, plan in planned.items() if "data_identifier" in plan}
        ours = {path.name: path for path in sorted((run / "preprocessed").iterdir()) if path.is_dir()}
        if set(ours) != set(theirs):
            sys.exit(f"{dataset.name}: other configurations were planned: {sorted(ours)} and {sorted(theirs)}")
        return [compare_configuration(name, ours[name], theirs[name]) for name in ours]


def compare_configuration(name: str, ours: Path, theirs: Path) -> Difference:
    """Compares all cases of one configuration."""
    cases = list_cases(ours)
    assert cases, f"{ours} holds no case"
    unequal, largest, means, equal, voxels = 0, 0.0, [], 0, 0
    for case in cases:
        mine = open_case(ours, case)
        image, label_map = _read(theirs / f"{case}.b2nd"), _read(theirs / f"{case}_seg.b2nd")[0]
        if image.shape != mine.image.shape:
            unequal += 1
            continue
        scale = image.std(axis=(1, 2, 3), keepdims=True, dtype=np.float64)
        difference = np.abs(image - mine.image[:]) / np.maximum(scale, 1e-8).astype(np.float32)
        largest = max(largest, float(difference.max()))
        means.append(float(difference.mean(dtype=np.float64)))
        equal += int(np.count_nonzero(label_map == mine.label_map[:]))
        voxels += label_map.size
    return Difference(
        configuration=name,
        cases=len(cases),
        unequal_shapes=unequal,
        largest=largest,
        mean=float(np.mean(means)) if means else float("nan"),
        equal_labels=equal / voxels if voxels else float("nan"),
    )


def _read(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = blosc2.open(str(path), mode="r")[:]
    return array
