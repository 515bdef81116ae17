import pytest

from planners.rules.augmentation import choose_augmentation, describe_rotation


@pytest.mark.parametrize(
    ("patch", "limit", "in_plane", "words"),
    [
        ((512, 512), 180.0, False, "1 times as long as wide, not more than 1.5"),
        ((384, 256), 180.0, False, "1.5 times as long as wide, not more than 1.5"),
        ((320, 512), 15.0, False, "1.6 times as long as wide, more than 1.5, so it is turned by up to 15 degrees"),
        ((128, 128, 128), 30.0, False, "1 times its first, not more than 3"),
        ((64, 192, 160), 30.0, False, "3 times its first, not more than 3"),
        ((20, 320, 256), 180.0, True, "16 times its first, more than 3, so slices are turned in plane only (dummy 2D)"),
        ((128, 32, 32), 30.0, False, "1 times its first, not more than 3"),
    ],
)
def test_rotation_depends_on_the_shape_of_the_patch(patch, limit, in_plane, words) -> None:
    decision = choose_augmentation(patch)
    spatial, low_resolution = (decision.value[position].model_dump() for position in (0, 5))
    assert spatial["rotation_limit_degrees"] == limit
    assert spatial["in_plane_only"] is low_resolution["in_plane_only"] is in_plane
    assert words in decision.because


@pytest.mark.parametrize(("patch", "axes"), [((64, 64), (0, 1)), ((16, 64, 64), (0, 1, 2))])
def test_all_axes_of_the_patch_are_mirrored(patch, axes) -> None:
    decision = choose_augmentation(patch)
    assert decision.value[-1].model_dump() == {"name": "mirror", "axes": axes}
    assert f"all {len(axes)} axes are mirrored" in decision.because


def test_order_probabilities_and_ranges_are_those_of_the_reference() -> None:
    assert [part.model_dump() for part in choose_augmentation((64, 64, 64)).value] == [
        {
            "name": "spatial",
            "rotation_probability": 0.2,
            "rotation_limit_degrees": 30.0,
            "in_plane_only": False,
            "scaling_probability": 0.2,
            "scaling_range": (0.7, 1.4),
        },
        {"name": "noise", "probability": 0.1, "std_range": (0.0, 0.1)},
        {"name": "blur", "probability": 0.2, "channel_probability": 0.5, "sigma_range_voxels": (0.5, 1.0)},
        {"name": "brightness", "probability": 0.15, "factor_range": (0.75, 1.25)},
        {"name": "contrast", "probability": 0.15, "factor_range": (0.75, 1.25)},
        {
            "name": "low_resolution",
            "probability": 0.25,
            "channel_probability": 0.5,
            "zoom_range": (0.5, 1.0),
            "in_plane_only": False,
        },
        {"name": "gamma", "probability": 0.1, "inverted": True, "exponent_range": (0.7, 1.5)},
        {"name": "gamma", "probability": 0.3, "inverted": False, "exponent_range": (0.7, 1.5)},
        {"name": "mirror", "axes": (0, 1, 2)},
    ]


def test_the_description_names_dummy_2d() -> None:
    flat = choose_augmentation((20, 320, 256)).value
    assert describe_rotation(flat) == "rotation up to 180 degrees, in plane only (dummy 2D), mirrored axes 0, 1, 2"
    assert describe_rotation(choose_augmentation((64, 64)).value) == "rotation up to 180 degrees, mirrored axes 0, 1"
    assert describe_rotation(choose_augmentation((64, 64)).value[:-1]).endswith("180 degrees, nothing mirrored")
