import pytest

from autoseg.training.augmentation.enlarged_patch import compute_enlarged_patch


@pytest.fixture
def plan_rotation(plan_transforms):
    """A list with rotation and scaling."""

    def make(limit_degrees, *, in_plane_only=False, rotation=0.2, scaling=0.2):
        values = {
            "rotation_probability": rotation,
            "scaling_probability": scaling,
            "rotation_limit_degrees": limit_degrees,
            "in_plane_only": in_plane_only,
        }
        return plan_transforms(spatial=values, noise={})

    return make


@pytest.mark.parametrize(
    ("patch", "limit_degrees", "in_plane_only", "enlarged"),
    [
        ((128, 128, 128), 30, False, (205, 205, 205)),
        ((96, 160, 160), 30, False, (191, 257, 219)),
        ((112, 160, 128), 30, False, (208, 238, 196)),
        ((40, 56, 40), 30, False, (73, 80, 64)),
        ((64, 192, 192), 30, False, (178, 308, 233)),
        ((20, 256, 224), 180, True, (20, 301, 301)),
        ((512, 512), 180, False, (602, 602)),
        ((512, 320), 15, False, (679, 376)),
    ],
)
def test_patches_grow_as_in_the_reference_implementation(
    plan_rotation, patch, limit_degrees, *, in_plane_only, enlarged
):
    assert compute_enlarged_patch(patch, plan_rotation(limit_degrees, in_plane_only=in_plane_only)) == enlarged


def test_without_rotation_and_scaling_nothing_more_is_cut_out(plan_rotation, plan_transforms):
    assert compute_enlarged_patch((8, 8), plan_rotation(180, rotation=0.0, scaling=0.0)) == (8, 8)
    assert compute_enlarged_patch((8, 8), plan_rotation(180, rotation=0.0)) != (8, 8)
    assert compute_enlarged_patch((8, 8), plan_transforms(noise={})) == (8, 8)
