"""A run whose configurations are stages of each other; its plan is written as version 1, which never changes."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from autoseg.dataset.folds import Fold, Splits
from autoseg.document import write_document
from autoseg.geometry import Grid
from autoseg.networks import NETWORK_PREFIX, build_network
from autoseg.plan import Plan
from autoseg.plan.upgrades import upgrade_version_1
from autoseg.preprocessing.cache import write_case
from autoseg.preprocessing.class_locations import find_class_locations
from autoseg.preprocessing.pipeline import preprocess_training_case
from autoseg.run_folder import RunFolder, make_folder
from autoseg.volume_io import write_label_map
from autoseg.workflows.plan.preprocessing import extract_recipe

FIRST, SECOND, THIRD = "3d_lowres", "3d_cascade_fullres", "third"
CASES = ("a", "b", "c")
GRID = Grid(shape_voxels=(10, 12, 8), spacing_mm=(1.0, 1.0, 1.0))
LABEL_COUNT = 4


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads cost more than they bring for networks this small."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


def describe_configuration(spacing, *, channels, previous, data):
    ranges = ("scaling_range", "noise_std_range", "blur_sigma_range_voxels", "brightness_range", "contrast_range")
    changes = ("rotation", "scaling", "noise", "blur", "blur_channel", "brightness", "contrast", "low_resolution")
    changes += ("low_resolution_channel", "inverted_gamma", "gamma", "mask_change", "component_removal")
    return {
        "dimensions": 3,
        "spacing_mm": [spacing] * 3,
        "median_shape_voxels": [8] * 3,
        "patch_voxels": [8] * 3,
        "previous_stage": previous,
        "data_of": data,
        "resampling": {"image_order": 3, "label_order": 1, "logits_order": 1, "anisotropy_threshold": 3},
        "network": {
            "architecture": "plain_unet",
            "dimensions": 3,
            "input_channels": channels,
            "output_channels": LABEL_COUNT,
            "features_per_stage": [2, 2],
            "kernel_sizes": [[3] * 3] * 2,
            "strides": [[1] * 3, [2] * 3],
            "blocks_per_stage": [1, 1],
            "convolutions_per_decoder_stage": [1],
            "deep_supervision": True,
        },
        "training": {
            "epochs": 1,
            "iterations_per_epoch": 1,
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
            "augmentation": {f"{name}_probability": 0 for name in changes}
            | dict.fromkeys((*ranges, "low_resolution_range", "gamma_range"), (1, 1))
            | {"rotation_limit_degrees": 0, "in_plane_only": False, "mirror_axes": []},
        },
    }


@pytest.fixture
def describe_plan():
    """The JSON of a plan of today with three stages, one before the other."""

    def describe():
        classes = [{"name": f"class{value}", "values": [value]} for value in range(1, LABEL_COUNT)]
        channels = 1 + len(classes)
        return upgrade_version_1(
            {
                "schema_version": 1,
                "autoseg_version": "0",
                "planner": "test",
                "accelerator_memory_gb": 8.0,
                "dataset_name": "test",
                "file_ending": ".nii.gz",
                "orientation": None,
                "axis_permutation": [0, 1, 2],
                "labels": {
                    "classes": classes,
                    "ignore_value": None,
                    "region_write_values": None,
                    "declared_count": LABEL_COUNT,
                },
                "channels": [
                    {"name": "CT", "normalization": "none", "inside_nonzero_only": False, "window": None},
                ],
                "configurations": {
                    THIRD: describe_configuration(1.0, channels=channels, previous=SECOND, data="3d_fullres"),
                    SECOND: describe_configuration(1.0, channels=channels, previous=FIRST, data="3d_fullres"),
                    "3d_fullres": describe_configuration(1.0, channels=1, previous=None, data="3d_fullres"),
                    FIRST: describe_configuration(2.0, channels=1, previous=None, data=FIRST),
                },
                "reasons": [],
            }
        )

    return describe


@pytest.fixture
def grid():
    """Of every case."""
    return GRID


@pytest.fixture
def plan(describe_plan):
    return Plan.model_validate(describe_plan())


@pytest.fixture
def splits():
    """Fold "0" holds b out, "1" c and "2" a."""
    folds = (Fold(training=tuple(c for c in CASES if c != case), validation=(case,)) for case in ("b", "c", "a"))
    return Splits(folds=tuple(folds))


@pytest.fixture
def run(tmp_path, plan, splits):
    """Three preprocessed cases, nothing trained."""
    run = RunFolder(tmp_path / "run")
    write_document(run.plan, plan)
    write_document(run.splits, splits)
    make_folder(run.references)
    for index, case in enumerate(CASES):
        image = np.random.default_rng(index).normal(1, 0.1, (1, *GRID.shape_voxels)).astype(np.float32)
        label_map = np.zeros(GRID.shape_voxels, np.int16)
        label_map[2:5, 3:8, 1:6] = 1
        write_label_map(run.references / f"{case}.nii.gz", label_map, grid=GRID, like=None)
        for name in (FIRST, "3d_fullres"):
            done = preprocess_training_case(image, label_map, GRID, plan, configuration=name)
            locations = find_class_locations(done.label_map, plan.labels)
            write_case(run.preprocessed(name), case, done, locations=locations, patch_voxels=(8, 8, 8))
            write_document(run.recipe(name), extract_recipe(plan, name))
    return run


@pytest.fixture
def train(run):
    """Writes a trained network that gives one label everywhere, or with `is_random` whatever its weights lead to."""

    def write(plan, configuration, fold, *, label=0, is_random=False):
        folder = run.fold(configuration, fold)
        generator = torch.Generator().manual_seed(int(fold))
        network = build_network(plan.configurations[configuration].network, generator)
        write_document(folder.plan, plan)
        weights = {f"{NETWORK_PREFIX}{name}": tensor for name, tensor in network.state_dict().items()}
        for name, tensor in weights.items():
            if tensor.shape[:1] == (LABEL_COUNT,) and not is_random:  # the layers that give logits
                tensor.zero_()
                if name.endswith("bias"):
                    tensor[label] = 1
        save_file(weights, folder.final_checkpoint)

    return write
