"""The networks of `benchmarks.gpu`, as the default planner plans them for such data, and random batches for them."""

from collections.abc import Mapping
from typing import Any, Final

import torch

from autoseg.labels import LabelClass, LabelScheme
from autoseg.plan import NETWORK_PLANS, ConfigurationPlan
from autoseg.training.data.batch import Batch

LABELS: Final = LabelScheme(
    classes=(LabelClass(name="anterior", values=(1,)), LabelClass(name="posterior", values=(2,))),
    ignore_value=None,
    region_write_values=None,
    declared_count=3,
)
WIDE: Final = (32, 64, 128, 256, 320, 320)
SHAPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "hippocampus": {"patch": (40, 56, 40), "batch": 7, "features": (32, 64, 128, 256)},
    "128": {"patch": (128, 128, 128), "batch": 2, "features": WIDE},
    "2d": {"patch": (512, 512), "batch": 12, "features": (32, 64, 128, 256, 512, 512, 512, 512)},
    "resenc": {"patch": (128, 128, 128), "batch": 2, "features": WIDE, "family": "residual_encoder_unet"},
}
RESIDUAL_BLOCKS: Final = (1, 3, 4, 6, 6, 6)


def plan_shape(name: str, *, is_tiny: bool) -> ConfigurationPlan:
    """Plans the configuration of a row of `SHAPES`; a tiny one has few features, two stages and a small patch."""
    shape = dict(SHAPES[name])
    if is_tiny:
        shape |= {"patch": (16,) * len(shape["patch"]), "batch": 2, "features": (4, 6)}
    dimensions, stages = len(shape["patch"]), len(shape["features"])
    is_residual = shape.get("family") == "residual_encoder_unet"
    network = NETWORK_PLANS[shape.get("family", "plain_unet")].model_validate(
        {
            "dimensions": dimensions,
            "input_channels": 1,
            "output_channels": 3,
            "features_per_stage": shape["features"],
            "kernel_sizes": ((3,) * dimensions,) * stages,
            "strides": ((1,) * dimensions, *((2,) * dimensions,) * (stages - 1)),
            "blocks_per_stage": RESIDUAL_BLOCKS[:stages] if is_residual else (2,) * stages,
            "convolutions_per_decoder_stage": (1 if is_residual else 2,) * (stages - 1),
            "deep_supervision": True,
        }
    )
    training = {
        "epochs": 1000,
        "iterations_per_epoch": 250,
        "validation_iterations_per_epoch": 50,
        "budget_seconds": None,
        "sufficient_iterations": None,
        "batch_size": shape["batch"],
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
        "weight_decay": 3e-5,
        "schedule": {"name": "polynomial", "exponent": 0.9},
        "warmup_iterations": 0,
        "weight_average_decay": 0.0,
        "gradient_norm_limit": 12.0,
        "augmentation_end_fraction": 0.0,
        "transforms": (),
    }
    return ConfigurationPlan.model_validate(
        {
            "dimensions": dimensions,
            "spacing_mm": (1.0,) * dimensions,
            "median_shape_voxels": shape["patch"],
            "patch_voxels": shape["patch"],
            "border": "zeros",
            "previous_stage": None,
            "data_of": "3d_fullres",
            "resampling": {"image_order": 3, "label_order": 1, "logits_order": 1, "anisotropy_threshold": 3.0},
            "network": network,
            "training": training,
        }
    )


def draw_batch(plan: ConfigurationPlan, device: torch.device) -> Batch:
    """Draws a random batch on the device."""
    generator = torch.Generator().manual_seed(0)
    size, patch = plan.training.batch_size, plan.patch_voxels
    return Batch(
        image=torch.randn((size, plan.network.input_channels, *patch), generator=generator),
        label_map=torch.randint(3, (size, *patch), generator=generator, dtype=torch.int16),
    ).move_to(device)
