"""Upgrades of plans of earlier schema versions, by one function for each version.

They work on the JSON object as it was written, before any schema has seen it. Keys are checked first, under the names
that the file uses; values are left to the schema of today.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from autoseg.document import Upgrade, UpgradeError, suggest_key

Json = dict[str, Any]

# Version 1 left these out where they had the values of the reference.
_VERSION_1_TRAINING: Final[Json] = {
    "budget_seconds": None,
    "sufficient_iterations": None,
    "foreground_placement": "centred",
    "foreground_choice": "class",
    "second_moment_decay": 0.999,
    "warmup_iterations": 0,
    "weight_average_decay": 0.0,
}
_VERSION_1_MASK_CHANGES: Final[Json] = {
    "mask_change_probability": 0.4,
    "mask_change_label_probability": 0.5,
    "mask_change_radius_voxels": (1.0, 8.0),
    "component_removal_probability": 0.2,
    "component_removal_label_probability": 0.5,
    "component_removal_limit_fraction": 0.15,
}
# The transforms that version 1 always applied, in its order: name, what says the kind, and the fields by their keys
# in version 1. A key that stands twice counted for two transforms.
_VERSION_1_TRANSFORMS: Final[tuple[tuple[Json, Mapping[str, str]], ...]] = (
    (
        {"name": "spatial"},
        {
            "rotation_probability": "rotation_probability",
            "rotation_limit_degrees": "rotation_limit_degrees",
            "in_plane_only": "in_plane_only",
            "scaling_probability": "scaling_probability",
            "scaling_range": "scaling_range",
        },
    ),
    ({"name": "noise"}, {"probability": "noise_probability", "std_range": "noise_std_range"}),
    (
        {"name": "blur"},
        {
            "probability": "blur_probability",
            "channel_probability": "blur_channel_probability",
            "sigma_range_voxels": "blur_sigma_range_voxels",
        },
    ),
    ({"name": "brightness"}, {"probability": "brightness_probability", "factor_range": "brightness_range"}),
    ({"name": "contrast"}, {"probability": "contrast_probability", "factor_range": "contrast_range"}),
    (
        {"name": "low_resolution"},
        {
            "probability": "low_resolution_probability",
            "channel_probability": "low_resolution_channel_probability",
            "zoom_range": "low_resolution_range",
            "in_plane_only": "in_plane_only",
        },
    ),
    (
        {"name": "gamma", "inverted": True},
        {"probability": "inverted_gamma_probability", "exponent_range": "gamma_range"},
    ),
    ({"name": "gamma", "inverted": False}, {"probability": "gamma_probability", "exponent_range": "gamma_range"}),
    ({"name": "mirror"}, {"axes": "mirror_axes"}),
)
# In a cascade alone; elsewhere version 1 held these fields, and they counted for nothing.
_VERSION_1_MASK_TRANSFORMS: Final[tuple[tuple[Json, Mapping[str, str]], ...]] = (
    (
        {"name": "mask_morphology"},
        {
            "probability": "mask_change_probability",
            "label_probability": "mask_change_label_probability",
            "radius_range_voxels": "mask_change_radius_voxels",
        },
    ),
    (
        {"name": "mask_component_removal"},
        {
            "probability": "component_removal_probability",
            "label_probability": "component_removal_label_probability",
            "limit_fraction": "component_removal_limit_fraction",
        },
    ),
)


_VERSION_1_ARCHITECTURES: Final = ("plain_unet", "residual_encoder_unet")
_VERSION_1_NETWORK_KEYS: Final = (
    *("architecture", "dimensions", "input_channels", "output_channels", "features_per_stage", "kernel_sizes"),
    *("strides", "blocks_per_stage", "convolutions_per_decoder_stage", "deep_supervision"),
)
_VERSION_1_LOSS: Final = "dice_cross_entropy"
_VERSION_1_TRAINING_KEYS: Final = (
    *("epochs", "iterations_per_epoch", "validation_iterations_per_epoch", "batch_size", "foreground_fraction"),
    *("loss", "batch_dice", "optimizer", "initial_learning_rate", "momentum", "weight_decay", "schedule"),
    *("schedule_exponent", "gradient_norm_limit", "augmentation"),
)
_VERSION_1_WEIGHT_KEYS: Final = ("dice_weight", "cross_entropy_weight")
_VERSION_1_AUGMENTATION_KEYS: Final = tuple(
    dict.fromkeys(key for _, fields in _VERSION_1_TRANSFORMS for key in fields.values())
)


def check_and_upgrade_version_1(plan: Json) -> Json:
    """Upgrades a plan of version 1.

    Raises:
        UpgradeError: A key of a network, a training or its augmentation is missing or unknown.
    """
    problems = tuple(_find_version_1_problems(plan))
    if problems:
        raise UpgradeError(problems)
    return upgrade_version_1(plan)


def _find_version_1_problems(plan: Json) -> Iterator[str]:
    configurations = plan.get("configurations")
    for name, content in configurations.items() if isinstance(configurations, dict) else ():
        where = f"configurations.{name}"
        network, training = (content.get(key) if isinstance(content, dict) else None for key in ("network", "training"))
        if isinstance(network, dict):
            yield from _find_key_problems(network, f"{where}.network", required=_VERSION_1_NETWORK_KEYS)
            yield from _find_choice_problems(network, f"{where}.network", "architecture", _VERSION_1_ARCHITECTURES)
        if isinstance(training, dict):
            yield from _find_training_problems(training, f"{where}.training")


def _find_training_problems(training: Json, where: str) -> Iterator[str]:
    optional = (*_VERSION_1_TRAINING, *_VERSION_1_WEIGHT_KEYS)
    yield from _find_key_problems(training, where, required=_VERSION_1_TRAINING_KEYS, optional=optional)
    yield from _find_choice_problems(training, where, "loss", (_VERSION_1_LOSS,))
    augmentation = training.get("augmentation")
    if isinstance(augmentation, dict):
        yield from _find_key_problems(
            augmentation,
            f"{where}.augmentation",
            required=_VERSION_1_AUGMENTATION_KEYS,
            optional=tuple(_VERSION_1_MASK_CHANGES),
        )


def _find_key_problems(
    content: Json, where: str, *, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Iterator[str]:
    known = [*required, *optional]
    yield from (f"{where}.{key}: unknown key{suggest_key(key, known)}" for key in content if key not in known)
    yield from (f"{where}.{key}: is missing" for key in required if key not in content)


def _find_choice_problems(content: Json, where: str, key: str, choices: tuple[str, ...]) -> Iterator[str]:
    if key in content and content[key] not in choices:
        yield f"{where}.{key}: must be {' or '.join(choices)} (got {content[key]!r:.80})"


def upgrade_version_1(plan: Json) -> Json:
    """Fills in what version 1 left out; networks, losses and transforms become parts that name their kind."""
    configurations = plan.get("configurations")
    if isinstance(configurations, dict):
        upgraded = {name: _upgrade_configuration(content) for name, content in configurations.items()}
        plan = plan | {"configurations": upgraded}
    return {"budget_seconds": None, "distance_unit": "mm"} | plan | {"schema_version": 2}


def _upgrade_configuration(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    upgraded = dict(content)
    if isinstance(content.get("network"), dict):
        upgraded["network"] = _upgrade_network(content["network"])
    if isinstance(content.get("training"), dict):
        is_cascade = content.get("previous_stage") is not None
        upgraded["training"] = _upgrade_training(content["training"], is_cascade=is_cascade)
    return upgraded | _upgrade_previous_stage(content)


def _upgrade_previous_stage(content: Json) -> Json:
    """Replaces the name of the configuration whose masks it gets, as in version 1, by a part."""
    previous = content.get("previous_stage")
    return {"previous_stage": {"input": "masks", "configuration": previous}} if isinstance(previous, str) else {}


def _upgrade_network(network: Json) -> Json:
    return {"family" if key == "architecture" else key: value for key, value in network.items()}


def _upgrade_training(training: Json, *, is_cascade: bool) -> Json:
    training = _upgrade_losses(_VERSION_1_TRAINING | training)
    if isinstance(training.get("augmentation"), dict):
        augmentation = _VERSION_1_MASK_CHANGES | training.pop("augmentation")
        training["transforms"] = _list_transforms(augmentation, is_cascade=is_cascade)
    return training


def _upgrade_losses(training: Json) -> Json:
    """Splits the one loss of version 1 into its two terms."""
    if training.get("loss") != _VERSION_1_LOSS:
        return training
    replaced = {"loss", "batch_dice", "dice_weight", "cross_entropy_weight"}
    kept = {key: value for key, value in training.items() if key not in replaced}
    dice: Json = {"name": "dice", "weight": training.get("dice_weight", 1.0)}
    if "batch_dice" in training:
        dice["batch_dice"] = training["batch_dice"]
    entropy = {"name": "cross_entropy", "weight": training.get("cross_entropy_weight", 1.0)}
    return kept | {"losses": [dice, entropy], "objective": {"name": "segmentation"}}


def _list_transforms(augmentation: Json, *, is_cascade: bool) -> list[Json]:
    transforms = [
        kind | {field: augmentation[key] for field, key in fields.items() if key in augmentation}
        for kind, fields in (*_VERSION_1_TRANSFORMS, *(_VERSION_1_MASK_TRANSFORMS if is_cascade else ()))
    ]
    mirrors_nothing = augmentation.get("mirror_axes") == []
    return [transform for transform in transforms if transform["name"] != "mirror" or not mirrors_nothing]


def upgrade_version_2(plan: Json) -> Json:
    """Fills in what version 2 left out; the schedule becomes a part that names its kind."""
    configurations = plan.get("configurations")
    if isinstance(configurations, dict):
        upgraded = {name: _add_version_3(content) for name, content in configurations.items()}
        plan = plan | {"configurations": upgraded}
    return plan | {"schema_version": 3}


def _add_version_3(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    upgraded: Json = {"border": "zeros"} | content
    if isinstance(content.get("training"), dict):
        upgraded["training"] = {"augmentation_end_fraction": 0.0} | _upgrade_schedule(content["training"])
    return upgraded


def _upgrade_schedule(training: Json) -> Json:
    """Gives the exponent, which version 2 had for all schedules, to the one that it belongs to."""
    if not isinstance(training.get("schedule"), str):
        return training
    upgraded = {key: value for key, value in training.items() if key != "schedule_exponent"}
    schedule: Json = {"name": training["schedule"]}
    if schedule["name"] == "polynomial" and "schedule_exponent" in training:
        schedule["exponent"] = training["schedule_exponent"]
    return upgraded | {"schedule": schedule}


PLAN_UPGRADES: Final[Mapping[int | None, Upgrade]] = {1: check_and_upgrade_version_1, 2: upgrade_version_2}
