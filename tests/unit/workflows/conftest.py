"""Tiny datasets, to be spoilt by the tests, and a run that is planned."""

from pathlib import Path

import numpy as np
import pytest
from builders.datasets import write_dataset
from builders.folds import SPLITS

from autoseg.document import write_document
from autoseg.labels import LabelClass, LabelScheme
from autoseg.plan import ChannelPlan, ConfigurationPlan, Plan
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
    return Plan(
        autoseg_version="0",
        planner="test",
        accelerator_memory_gb=8.0,
        budget_seconds=None,
        distance_unit="mm",
        dataset_name="Dataset001_X",
        file_ending=".nii.gz",
        orientation="RAS",
        axis_permutation=(0, 1, 2),
        labels=LabelScheme(
            classes=(LabelClass(name="big", values=(2,)),),
            ignore_value=None,
            region_write_values=None,
            declared_count=2,
        ),
        channels=(ChannelPlan(name="MR", normalization="zscore", inside_nonzero_only=False, window=None),),
        configurations={
            "3d_cascade_fullres": make_configuration(3, previous_stage="3d_lowres", data_of="2d"),
            "2d": make_configuration(2, previous_stage=None, data_of="2d"),
            "3d_lowres": make_configuration(3, previous_stage=None, data_of="3d_lowres"),
        },
        reasons=(),
    )


def make_configuration(dimensions: int, *, previous_stage: str | None, data_of: str) -> ConfigurationPlan:
    return ConfigurationPlan.model_validate(
        {
            "dimensions": dimensions,
            "spacing_mm": (1.0,) * dimensions,
            "median_shape_voxels": (8.0,) * dimensions,
            "patch_voxels": (8,) * dimensions,
            "previous_stage": previous_stage and {"input": "masks", "configuration": previous_stage},
            "data_of": data_of,
            "resampling": {"image_order": 3, "label_order": 1, "logits_order": 1, "anisotropy_threshold": 3},
            "network": {
                "family": "plain_unet",
                "dimensions": dimensions,
                "input_channels": 1 if previous_stage is None else 2,
                "output_channels": 2,
                "features_per_stage": (4, 4),
                "kernel_sizes": ((3,) * dimensions,) * 2,
                "strides": ((1,) * dimensions, (2,) * dimensions),
                "blocks_per_stage": (1, 1),
                "convolutions_per_decoder_stage": (1,),
                "deep_supervision": True,
            },
            "training": {
                "epochs": 10,
                "iterations_per_epoch": 4,
                "validation_iterations_per_epoch": 1,
                "budget_seconds": None,
                "sufficient_iterations": None,
                "batch_size": 2,
                "foreground_fraction": 0.33,
                "foreground_placement": "centred",
                "foreground_choice": "class",
                "losses": (
                    {"name": "dice", "weight": 1.0, "batch_dice": False},
                    {"name": "cross_entropy", "weight": 1.0},
                ),
                "objective": {"name": "segmentation"},
                "optimizer": "sgd_nesterov",
                "initial_learning_rate": 0.01,
                "momentum": 0.99,
                "second_moment_decay": 0.999,
                "weight_decay": 0,
                "schedule": "polynomial",
                "schedule_exponent": 0.9,
                "warmup_iterations": 0,
                "weight_average_decay": 0.0,
                "gradient_norm_limit": 12,
                "transforms": (),
            },
        }
    )


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Planned, not trained: two folds of four cases."""
    run = RunFolder(tmp_path / "x.autoseg")
    write_document(run.plan, make_plan())
    write_document(run.splits, SPLITS)
    return run
