"""Plans: a complete one, spelled out once, of which tests replace what matters to them.

Everything that a plan must say stands in the functions and tables below and nowhere else in the tests: a new field of
the schema is added here.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from autoseg.labels import LabelScheme
from autoseg.plan import (
    NETWORK_PLANS,
    TRANSFORM_PLANS,
    ChannelPlan,
    ConfigurationPlan,
    IntensityWindow,
    NetworkPlan,
    NormalizationScheme,
    Plan,
    ResamplingPlan,
    TrainingPlan,
    TransformPlan,
)
from builders.labels import build_labels

RESAMPLING: Final = ResamplingPlan(image_order=3, label_order=1, logits_order=1, anisotropy_threshold=3.0)
NOTHING: Final[Mapping[str, Any]] = {}
TRANSFORMS: Final[Mapping[str, Mapping[str, Any]]] = {
    "spatial": {
        "rotation_probability": 0.0,
        "rotation_limit_degrees": 30.0,
        "in_plane_only": False,
        "scaling_probability": 0.0,
        "scaling_range": (0.7, 1.4),
    },
    "deformation": {
        "rotation_probability": 0.0,
        "rotation_limit_degrees": 30.0,
        "in_plane_only": False,
        "scaling_probability": 0.0,
        "scaling_range": (0.7, 1.4),
        "shear_probability": 0.0,
        "shear_limit_degrees": 20.0,
        "elastic": None,
    },
    "noise": {"probability": 1.0, "std_range": (0.0, 0.1)},
    "blur": {"probability": 1.0, "channel_probability": 0.5, "sigma_range_voxels": (0.5, 1.0)},
    "brightness": {"probability": 1.0, "factor_range": (0.75, 1.25)},
    "contrast": {"probability": 1.0, "factor_range": (0.75, 1.25)},
    "low_resolution": {
        "probability": 1.0,
        "channel_probability": 0.5,
        "zoom_range": (0.5, 1.0),
        "in_plane_only": False,
    },
    "gamma": {"probability": 1.0, "inverted": False, "exponent_range": (0.7, 1.5)},
    "saturation": {"probability": 1.0, "factor_range": (0.5, 1.5)},
    "hue": {"probability": 1.0, "limit_degrees": 30.0},
    "stain": {"probability": 1.0, "factor_limit": 0.2, "shift_limit": 0.1},
    "mirror": {"axes": (0, 1)},
    "mirror_pairs": {"axis": 0, "pairs": ((1, 2),)},
    "mask_morphology": {"probability": 1.0, "label_probability": 0.5, "radius_range_voxels": (1.0, 8.0)},
    "mask_component_removal": {"probability": 1.0, "label_probability": 0.5, "limit_fraction": 0.15},
    "simulated_clicks": {"none_probability": 0.0, "most_clicks": 5, "centre_probability": 0.5},
}
"""With these values a transform always happens, but for changes of geometry."""


def build_network_plan(
    dimensions: int = 3,
    *,
    family: str = "plain_unet",
    features_per_stage: tuple[int, ...] = (4, 4),
    **changes: Any,
) -> NetworkPlan:
    """A U-Net of as many stages as it has numbers of features; keyword arguments replace fields."""
    stages = len(features_per_stage)
    fields = {
        "dimensions": dimensions,
        "input_channels": 1,
        "output_channels": 3,
        "features_per_stage": features_per_stage,
        "kernel_sizes": ((3,) * dimensions,) * stages,
        "strides": ((1,) * dimensions, *((2,) * dimensions,) * (stages - 1)),
        "blocks_per_stage": (1,) * stages,
        "convolutions_per_decoder_stage": (1,) * (stages - 1),
        "deep_supervision": stages > 1,
    }
    return NETWORK_PLANS[family].model_validate(fields | changes)


def build_transforms(*parts: Mapping[str, Any], **named: Mapping[str, Any]) -> tuple[TransformPlan, ...]:
    """Lists transforms in the order of the arguments: names with what differs from `TRANSFORMS`, or whole parts."""
    contents = [*parts, *({"name": name} | dict(values) for name, values in named.items())]
    return tuple(
        TRANSFORM_PLANS[content["name"]].model_validate(TRANSFORMS[content["name"]] | content) for content in contents
    )


def build_training_plan(*, batch_dice: bool = False, **changes: Any) -> TrainingPlan:
    """One iteration of a training as the reference plans it, without transforms; keyword arguments replace fields."""
    fields = {
        "epochs": 1,
        "iterations_per_epoch": 1,
        "validation_iterations_per_epoch": 1,
        "budget_seconds": None,
        "sufficient_iterations": None,
        "batch_size": 2,
        "foreground_fraction": 0.33,
        "foreground_placement": "centred",
        "foreground_choice": "class",
        "losses": (
            {"name": "dice", "weight": 1.0, "batch_dice": batch_dice},
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
    return TrainingPlan.model_validate(fields | changes)


def build_configuration(
    patch_voxels: tuple[int, ...],
    *,
    previous: str | None = None,
    mirror_axes: tuple[int, ...] = (),
    network: Mapping[str, Any] | NetworkPlan = NOTHING,
    training: Mapping[str, Any] = NOTHING,
    **changes: Any,
) -> ConfigurationPlan:
    """Plans a configuration of as many axes as its patch has, at 1 mm.

    Args:
        patch_voxels: Input of the network.
        previous: Configuration of whose masks the network gets channels.
        mirror_axes: In training and prediction, unless `training` says otherwise.
        network: The network, or what `build_network_plan` is to replace.
        training: What `build_training_plan` is to replace.
        changes: Fields to replace.
    """
    dimensions = len(patch_voxels)
    transforms = build_transforms(mirror={"axes": mirror_axes}) if mirror_axes else ()
    fields = {
        "dimensions": dimensions,
        "spacing_mm": (1.0,) * dimensions,
        "median_shape_voxels": patch_voxels,
        "patch_voxels": patch_voxels,
        "border": "zeros",
        "previous_stage": None if previous is None else {"input": "masks", "configuration": previous},
        "data_of": "3d_fullres",
        "resampling": RESAMPLING,
        "network": network if isinstance(network, NetworkPlan) else build_network_plan(dimensions, **network),
        "training": build_training_plan(**{"transforms": transforms} | dict(training)),
    }
    return ConfigurationPlan.model_validate(fields | changes)


def build_plan(configurations: Mapping[str, ConfigurationPlan], **changes: Any) -> Plan:
    """A plan of these configurations for CT images with the labels liver (5) and tumour (9)."""
    fields = {
        "autoseg_version": "0",
        "planner": "test",
        "accelerator_memory_gb": 8.0,
        "budget_seconds": None,
        "distance_unit": "mm",
        "dataset_name": "test",
        "file_ending": ".nii.gz",
        "orientation": "RAS",
        "axis_permutation": (0, 1, 2),
        "labels": build_labels({"liver": (5,), "tumour": (9,)}),
        "channels": build_channels("none", name="CT"),
        "configurations": configurations,
        "reasons": (),
    }
    return Plan.model_validate(fields | changes)


def build_preprocessing_plan(
    *,
    spacings_mm: Mapping[str, tuple[float, ...]],
    schemes: Sequence[NormalizationScheme] = ("zscore",),
    inside_nonzero_only: bool = False,
    window: IntensityWindow | None = None,
    labels: LabelScheme | None = None,
    **changes: Any,
) -> Plan:
    """A plan in which preprocessing alone matters: configurations by their spacings, channels by their schemes."""
    labels = labels or build_labels({"class1": (1,), "class2": (2,)})
    network = {"input_channels": len(schemes), "output_channels": labels.output_channel_count}
    configurations = {
        name: build_configuration((16,) * len(spacing_mm), spacing_mm=spacing_mm, data_of=name, network=network)
        for name, spacing_mm in spacings_mm.items()
    }
    channels = build_channels(*schemes, inside_nonzero_only=inside_nonzero_only, window=window)
    return build_plan(configurations, **{"orientation": None, "channels": channels, "labels": labels} | changes)


def build_channels(
    *schemes: NormalizationScheme,
    name: str | None = None,
    inside_nonzero_only: bool = False,
    window: IntensityWindow | None = None,
) -> tuple[ChannelPlan, ...]:
    """One channel for each way of normalization; those of CT images have the window, or one around 0."""
    window = window or IntensityWindow(lower=-1, upper=1, mean=0, std=1)
    return tuple(
        ChannelPlan(
            name=name or f"channel{index}",
            normalization=scheme,
            inside_nonzero_only=inside_nonzero_only,
            window=window if scheme == "ct" else None,
        )
        for index, scheme in enumerate(schemes)
    )


def shorten(run: Path, configuration: str, *, epochs: int, iterations: int) -> None:
    """Edits the plan by hand, as a user may: a short schedule and a narrow network."""
    path = run / "plan.json"
    plan = json.loads(path.read_text())
    chosen = plan["configurations"][configuration]
    chosen["network"]["features_per_stage"] = [8 * 2**stage for stage in range(len(chosen["network"]["strides"]))]
    chosen["training"] |= {
        "epochs": epochs,
        "iterations_per_epoch": iterations,
        "validation_iterations_per_epoch": 2,
        "batch_size": 2,
    }
    path.write_text(json.dumps(plan))
