"""Transforms and previous stages of plans of version 1, field by field."""

import pytest

from autoseg.plan.augmentation import find_mirror_axes
from autoseg.plan.upgrades import upgrade_version_1

AUGMENTATION = {
    "rotation_probability": 0.01,
    "rotation_limit_degrees": 20.0,
    "in_plane_only": True,
    "scaling_probability": 0.02,
    "scaling_range": [0.6, 1.3],
    "noise_probability": 0.03,
    "noise_std_range": [0.0, 0.2],
    "blur_probability": 0.04,
    "blur_channel_probability": 0.05,
    "blur_sigma_range_voxels": [0.4, 1.1],
    "brightness_probability": 0.06,
    "brightness_range": [0.7, 1.2],
    "contrast_probability": 0.07,
    "contrast_range": [0.8, 1.4],
    "low_resolution_probability": 0.08,
    "low_resolution_channel_probability": 0.09,
    "low_resolution_range": [0.4, 0.9],
    "inverted_gamma_probability": 0.11,
    "gamma_probability": 0.12,
    "gamma_range": [0.6, 1.6],
    "mirror_axes": [0, 2],
}
TRANSFORMS = [
    {
        "name": "spatial",
        "rotation_probability": 0.01,
        "rotation_limit_degrees": 20.0,
        "in_plane_only": True,
        "scaling_probability": 0.02,
        "scaling_range": [0.6, 1.3],
    },
    {"name": "noise", "probability": 0.03, "std_range": [0.0, 0.2]},
    {"name": "blur", "probability": 0.04, "channel_probability": 0.05, "sigma_range_voxels": [0.4, 1.1]},
    {"name": "brightness", "probability": 0.06, "factor_range": [0.7, 1.2]},
    {"name": "contrast", "probability": 0.07, "factor_range": [0.8, 1.4]},
    {
        "name": "low_resolution",
        "probability": 0.08,
        "channel_probability": 0.09,
        "zoom_range": [0.4, 0.9],
        "in_plane_only": True,
    },
    {"name": "gamma", "probability": 0.11, "inverted": True, "exponent_range": [0.6, 1.6]},
    {"name": "gamma", "probability": 0.12, "inverted": False, "exponent_range": [0.6, 1.6]},
    {"name": "mirror", "axes": [0, 2]},
]
MASK_TRANSFORMS = [
    {"name": "mask_morphology", "probability": 0.4, "label_probability": 0.5, "radius_range_voxels": (1.0, 8.0)},
    {"name": "mask_component_removal", "probability": 0.2, "label_probability": 0.5, "limit_fraction": 0.15},
]


def upgrade_configuration(augmentation, *, previous_stage=None):
    configuration = {"previous_stage": previous_stage, "training": {"augmentation": augmentation}}
    return upgrade_version_1({"schema_version": 1, "configurations": {"a": configuration}})["configurations"]["a"]


def upgrade(augmentation, **options):
    return upgrade_configuration(augmentation, **options)["training"]


def test_what_version_1_gets_from_a_previous_stage_are_masks():
    second = upgrade_configuration(AUGMENTATION, previous_stage="b")
    assert second["previous_stage"] == {"input": "masks", "configuration": "b"}
    assert upgrade_configuration(AUGMENTATION)["previous_stage"] is None


def test_the_fields_of_version_1_become_transforms_in_the_order_in_which_they_were_applied():
    training = upgrade(AUGMENTATION)
    assert training["transforms"] == TRANSFORMS
    assert "augmentation" not in training


def test_masks_of_a_cascade_alone_have_transforms_with_the_values_that_version_1_left_out():
    assert upgrade(AUGMENTATION, previous_stage="b")["transforms"] == [*TRANSFORMS, *MASK_TRANSFORMS]
    own = upgrade(AUGMENTATION | {"component_removal_limit_fraction": 0.3}, previous_stage="b")
    assert own["transforms"][-1]["limit_fraction"] == 0.3


def test_where_nothing_is_mirrored_the_transform_is_left_out():
    assert upgrade(AUGMENTATION | {"mirror_axes": []})["transforms"] == TRANSFORMS[:-1]
    assert find_mirror_axes(()) == ()


@pytest.mark.parametrize("missing", AUGMENTATION)
def test_a_missing_field_is_left_for_the_schema_to_report(missing):
    transforms = upgrade({key: value for key, value in AUGMENTATION.items() if key != missing})["transforms"]
    assert [part["name"] for part in transforms] == [part["name"] for part in TRANSFORMS]
    assert transforms != TRANSFORMS


def test_an_unknown_field_is_left_for_the_schema_to_report():
    assert upgrade(AUGMENTATION | {"nois": 1})["augmentation"] == {"nois": 1}
