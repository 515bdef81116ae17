"""Plans of earlier versions, field by field."""

import pytest

from autoseg.document import UpgradeError
from autoseg.plan.augmentation import find_mirror_axes
from autoseg.plan.upgrades import check_and_upgrade_version_1, upgrade_version_1, upgrade_version_2

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


VERSION_1_NETWORK = {
    "architecture": "plain_unet",
    "dimensions": 2,
    "input_channels": 1,
    "output_channels": 2,
    "features_per_stage": [4, 8],
    "kernel_sizes": [[3, 3], [3, 3]],
    "strides": [[1, 1], [2, 2]],
    "blocks_per_stage": [1, 1],
    "convolutions_per_decoder_stage": [1],
    "deep_supervision": False,
}
VERSION_1_TRAINING = {
    "epochs": 2,
    "iterations_per_epoch": 3,
    "validation_iterations_per_epoch": 1,
    "batch_size": 2,
    "foreground_fraction": 0.33,
    "loss": "dice_cross_entropy",
    "batch_dice": True,
    "optimizer": "adamw",
    "initial_learning_rate": 0.01,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "schedule": "polynomial",
    "schedule_exponent": 0.9,
    "gradient_norm_limit": 12.0,
    "augmentation": AUGMENTATION,
}


def list_problems(**parts):
    content = {"network": VERSION_1_NETWORK, "training": VERSION_1_TRAINING} | parts
    with pytest.raises(UpgradeError) as caught:
        check_and_upgrade_version_1({"schema_version": 1, "configurations": {"2d": content}})
    return list(caught.value.problems)


def without(content, key):
    return {other: value for other, value in content.items() if other != key}


def test_a_complete_plan_of_version_1_has_no_problems():
    content = {"network": VERSION_1_NETWORK, "training": VERSION_1_TRAINING}
    plan = {"schema_version": 1, "configurations": {"2d": content}}
    assert check_and_upgrade_version_1(plan) == upgrade_version_1(plan)


@pytest.mark.parametrize("key", VERSION_1_NETWORK)
def test_a_missing_key_of_a_network_is_named_as_in_the_file(key):
    assert list_problems(network=without(VERSION_1_NETWORK, key)) == [f"configurations.2d.network.{key}: is missing"]


@pytest.mark.parametrize("key", VERSION_1_TRAINING)
def test_a_missing_key_of_a_training_is_named_as_in_the_file(key):
    assert list_problems(training=without(VERSION_1_TRAINING, key)) == [f"configurations.2d.training.{key}: is missing"]


@pytest.mark.parametrize("key", AUGMENTATION)
def test_a_missing_key_of_the_augmentation_is_named_as_in_the_file(key):
    training = VERSION_1_TRAINING | {"augmentation": without(AUGMENTATION, key)}
    assert list_problems(training=training) == [f"configurations.2d.training.augmentation.{key}: is missing"]


def test_a_misspelt_key_is_named_with_the_one_that_was_meant():
    training = VERSION_1_TRAINING | {"augmentation": AUGMENTATION | {"mask_change_probabilty": 1}}
    (problem,) = list_problems(training=training)
    assert problem.startswith(
        "configurations.2d.training.augmentation.mask_change_probabilty: unknown key (did you mean"
    )


@pytest.mark.parametrize("key", ["losses", "objective", "transforms"])
def test_a_key_of_version_2_is_refused_in_a_training_of_version_1(key):
    (problem,) = list_problems(training=VERSION_1_TRAINING | {key: []})
    assert problem.startswith(f"configurations.2d.training.{key}: unknown key")


def test_a_network_of_version_1_has_no_family():
    (problem,) = list_problems(network=VERSION_1_NETWORK | {"family": "plain_unet"})
    assert problem.startswith("configurations.2d.network.family: unknown key")


def test_other_losses_and_architectures_than_those_of_version_1_are_refused():
    assert list_problems(training=VERSION_1_TRAINING | {"loss": "focal"}) == [
        "configurations.2d.training.loss: must be dice_cross_entropy (got 'focal')"
    ]
    assert list_problems(network=VERSION_1_NETWORK | {"architecture": "unext"}) == [
        "configurations.2d.network.architecture: must be plain_unet or residual_encoder_unet (got 'unext')"
    ]


def upgrade_training_of_version_2(training):
    plan = {"schema_version": 2, "configurations": {"2d": {"training": training}}}
    upgraded = upgrade_version_2(plan)
    assert upgraded["schema_version"] == 3
    return upgraded["configurations"]["2d"]["training"]


def test_the_exponent_of_version_2_belongs_to_the_polynomial_alone():
    polynomial = upgrade_training_of_version_2({"schedule": "polynomial", "schedule_exponent": 0.8, "epochs": 1})
    assert polynomial["schedule"] == {"name": "polynomial", "exponent": 0.8}
    assert polynomial.keys() & {"schedule_exponent", "epochs"} == {"epochs"}
    cosine = upgrade_training_of_version_2({"schedule": "cosine", "schedule_exponent": 0.8})
    assert cosine["schedule"] == {"name": "cosine"}


def test_plans_of_version_2_pad_with_zeros_and_augment_to_the_end():
    plan = {"schema_version": 2, "configurations": {"2d": {"training": {"schedule": "cosine"}}}}
    upgraded = upgrade_version_2(plan)["configurations"]["2d"]
    assert upgraded["border"] == "zeros"
    assert upgraded["training"]["augmentation_end_fraction"] == 0.0


@pytest.mark.parametrize("schedule", [{}, {"name": "polynomial", "exponent": 0.9}])
def test_what_version_2_did_not_have_is_left_to_the_schema(schedule):
    assert upgrade_training_of_version_2({"schedule": schedule})["schedule"] == schedule
