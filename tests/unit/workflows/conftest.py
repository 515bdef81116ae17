"""Tiny datasets, to be spoilt by the tests, and a run that is planned."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from autoseg.document import write_document
from autoseg.evaluation.summary import METRICS, CaseSummary, EvaluationSummary, MetricValues
from autoseg.labels import LabelClass, LabelScheme
from autoseg.plan import ChannelPlan, ConfigurationPlan, Plan
from autoseg.run_folder import RunFolder, write_text
from autoseg.training.folds import Fold, Splits
from autoseg.validation_conditions import ValidationConditions

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
SHAPE = (9, 8, 7)  # x, y, z
Writer = Callable[..., Path]


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def make_image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 10, SHAPE).astype(np.float32)


def make_label_map() -> np.ndarray:
    label_map = np.zeros(SHAPE, np.uint8)
    label_map[2:5, 2:5, 2:5] = 2
    label_map[6, 6, 3] = 5
    return label_map


@pytest.fixture
def write_case() -> Writer:
    """Saves an array as image or label map of a case."""

    def write(folder: Path, part: str, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
        save(folder / part, array, affine)
        return folder / part

    return write


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Six good cases p1_a, p1_b, p2_a, ... of three patients."""
    folder = tmp_path / "Dataset001_X"
    for index in range(6):
        name = f"p{1 + index // 2}_{'ab'[index % 2]}"
        save(folder / "imagesTr" / f"{name}_0000.nii.gz", make_image(index))
        save(folder / "labelsTr" / f"{name}.nii.gz", make_label_map())
    description = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "big": 2, "small": 5}}
    (folder / "dataset.json").write_text(json.dumps(description | {"file_ending": ".nii.gz"}))
    return folder


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
    folds = (
        Fold(training=("c", "d"), validation=("a", "b")),
        Fold(training=("a", "b"), validation=("c", "d")),
    )
    write_document(run.splits, Splits(folds=folds))
    return run


@pytest.fixture
def finish_fold() -> Callable[..., None]:
    """Writes what a finished training leaves, in as far as others look for it."""

    def finish(
        run: RunFolder,
        configuration: str,
        fold: str,
        *,
        dice: float = 0.8,
        cases: tuple[str, ...] | None = None,
        validation: ValidationConditions | None = None,
    ) -> None:
        folder = run.fold(configuration, fold)
        write_text(folder.final_checkpoint, "weights")
        write_text(folder.plan, run.plan.read_text())
        summary = summarize_dice(cases or VALIDATION[fold], dice)
        write_document(folder.summary, summary.model_copy(update={"validation": validation}))

    return finish


VALIDATION = {"0": ("a", "b"), "1": ("c", "d")}


def summarize_dice(cases: tuple[str, ...], dice: float) -> EvaluationSummary:
    values = MetricValues(**dict.fromkeys(METRICS) | {"Dice": dice})
    return EvaluationSummary(
        tolerance_mm=1.0,
        definitions={},
        class_names={"2": "big"},
        foreground_mean=values,
        mean={"2": values},
        std={"2": values},
        count={"2": values},
        metric_per_case=tuple(
            CaseSummary(case=case, prediction_file="", reference_file="", metrics={"2": values}) for case in cases
        ),
    )
