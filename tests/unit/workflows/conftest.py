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
    nothing = (1.0, 1.0)
    return ConfigurationPlan.model_validate(
        {
            "dimensions": dimensions,
            "spacing_mm": (1.0,) * dimensions,
            "median_shape_voxels": (8.0,) * dimensions,
            "patch_voxels": (8,) * dimensions,
            "previous_stage": previous_stage,
            "data_of": data_of,
            "resampling": {"image_order": 3, "label_order": 1, "logits_order": 1, "anisotropy_threshold": 3},
            "network": {
                "architecture": "plain_unet",
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
                "batch_size": 2,
                "foreground_fraction": 0.33,
                "loss": "dice_cross_entropy",
                "batch_dice": False,
                "optimizer": "sgd_nesterov",
                "initial_learning_rate": 0.01,
                "momentum": 0.99,
                "weight_decay": 0,
                "schedule": "polynomial",
                "schedule_exponent": 0.9,
                "gradient_norm_limit": 12,
                "augmentation": {
                    "rotation_probability": 0,
                    "rotation_limit_degrees": 0,
                    "in_plane_only": False,
                    "scaling_probability": 0,
                    "scaling_range": nothing,
                    "noise_probability": 0,
                    "noise_std_range": nothing,
                    "blur_probability": 0,
                    "blur_channel_probability": 0,
                    "blur_sigma_range_voxels": nothing,
                    "brightness_probability": 0,
                    "brightness_range": nothing,
                    "contrast_probability": 0,
                    "contrast_range": nothing,
                    "low_resolution_probability": 0,
                    "low_resolution_channel_probability": 0,
                    "low_resolution_range": nothing,
                    "inverted_gamma_probability": 0,
                    "gamma_probability": 0,
                    "gamma_range": nothing,
                    "mirror_axes": (),
                },
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
