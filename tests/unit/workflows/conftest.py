"""Tiny datasets, to be spoilt by the tests, and a run that is planned."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.datasets import write_dataset
from builders.folds import SPLITS
from builders.labels import build_labels
from builders.plans import build_channels, build_configuration, build_plan

from autoseg.document import write_document
from autoseg.plan import ConfigurationPlan, Plan
from autoseg.run_folder import RunFolder

SHAPE = (9, 8, 7)  # x, y, z


def make_image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 10, SHAPE).astype(np.float32)


def make_label_map() -> np.ndarray:
    label_map = np.zeros(SHAPE, np.uint8)
    label_map[2:5, 2:5, 2:5] = 2
    label_map[6, 6, 3] = 5
    return label_map


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Six good cases p1_a, p1_b, p2_a, ... of three patients."""
    names = (f"p{1 + index // 2}_{'ab'[index % 2]}" for index in range(6))
    cases = ((name, (make_image(index), make_label_map())) for index, name in enumerate(names))
    return write_dataset(tmp_path / "Dataset001_X", cases, labels={"big": 2, "small": 5})


def make_plan() -> Plan:
    """Of a cascade and a 2d configuration."""
    configurations = {
        "3d_cascade_fullres": make_configuration(3, channels=2, previous="3d_lowres", data_of="2d"),
        "2d": make_configuration(2, data_of="2d"),
        "3d_lowres": make_configuration(3, data_of="3d_lowres"),
    }
    labels, channels = build_labels({"big": (2,)}), build_channels("zscore", name="MR")
    return build_plan(configurations, dataset_name="Dataset001_X", labels=labels, channels=channels)


def make_configuration(dimensions: int, *, channels: int = 1, **changes: Any) -> ConfigurationPlan:
    return build_configuration(
        (8,) * dimensions,
        network={"input_channels": channels, "output_channels": 2},
        training={"epochs": 10, "iterations_per_epoch": 4},
        **changes,
    )


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Planned, not trained: two folds of four cases."""
    run = RunFolder(tmp_path / "x.autoseg")
    write_document(run.plan, make_plan())
    write_document(run.splits, SPLITS)
    return run
