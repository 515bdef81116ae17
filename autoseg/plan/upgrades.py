"""Plans of earlier schema versions: one function leads from each version to the next.

They work on the JSON object as it was written, before any schema has seen it. A missing key is left for the schema to
report, so that a damaged file of an earlier version gets the same message as one of today.
"""

from collections.abc import Mapping
from typing import Any, Final

from autoseg.document import Upgrade

Json = dict[str, Any]

# Version 1 left these out where they had the values of the reference.
_VERSION_1_TRAINING: Final[Json] = {
    "budget_seconds": None,
    "sufficient_iterations": None,
    "foreground_placement": "centred",
    "foreground_choice": "class",
    "dice_weight": 1.0,
    "cross_entropy_weight": 1.0,
    "second_moment_decay": 0.999,
    "warmup_iterations": 0,
    "weight_average_decay": 0.0,
}
_VERSION_1_AUGMENTATION: Final[Json] = {
    "mask_change_probability": 0.4,
    "mask_change_label_probability": 0.5,
    "mask_change_radius_voxels": (1.0, 8.0),
    "component_removal_probability": 0.2,
    "component_removal_label_probability": 0.5,
    "component_removal_limit_fraction": 0.15,
}


def upgrade_version_1(plan: Json) -> Json:
    """Version 2 leaves nothing out, and networks, losses and transforms are lists of parts that say what they are."""
    configurations = plan.get("configurations")
    if isinstance(configurations, dict):
        upgraded = {name: _upgrade_configuration(content) for name, content in configurations.items()}
        plan = plan | {"configurations": upgraded}
    return {"budget_seconds": None, "distance_unit": "mm"} | plan | {"schema_version": 2}


def _upgrade_configuration(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    upgraded = {
        key: upgrade(content[key])
        for key, upgrade in (("network", _upgrade_network), ("training", _upgrade_training))
        if isinstance(content.get(key), dict)
    }
    return content | upgraded | _upgrade_previous_stage(content)


def _upgrade_previous_stage(content: Json) -> Json:
    """In version 1 a configuration had the name of the one whose masks it gets."""
    previous = content.get("previous_stage")
    return {"previous_stage": {"input": "masks", "configuration": previous}} if isinstance(previous, str) else {}


def _upgrade_network(network: Json) -> Json:
    return network


def _upgrade_training(training: Json) -> Json:
    training = _VERSION_1_TRAINING | training
    if isinstance(training.get("augmentation"), dict):
        training["augmentation"] = _VERSION_1_AUGMENTATION | training["augmentation"]
    return training


PLAN_UPGRADES: Final[Mapping[int | None, Upgrade]] = {1: upgrade_version_1}
