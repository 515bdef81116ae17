"""Random changes of training patches."""

from typing import Final

from autoseg.plan import AugmentationPlan, Decision
from planners.reasons import format_extents

FULL_ROTATION_DEGREES: Final = 180.0
ROTATION_3D_DEGREES: Final = 30.0
ROTATION_ELONGATED_2D_DEGREES: Final = 15.0
ELONGATED_2D_RATIO: Final = 1.5  # implementation of nnU-Net: a longer picture leaves its frame when it is turned
FLAT_PATCH_RATIO: Final = 3.0  # nnU-Net paper: the anisotropy factor of the spacing, applied to the patch


def choose_augmentation(patch_voxels: tuple[int, ...]) -> Decision[AugmentationPlan]:
    """The augmentation of the nnU-Net paper (Isensee et al. 2021); only rotation and mirroring depend on the patch."""
    if len(patch_voxels) == 2:
        limit, in_plane, because = _choose_rotation_2d(patch_voxels)
    else:
        limit, in_plane, because = _choose_rotation_3d(patch_voxels)
    mirror_axes = tuple(range(len(patch_voxels)))
    because += f"; all {len(mirror_axes)} axes are mirrored, here and in prediction"
    return Decision(_build_augmentation(limit, in_plane_only=in_plane, mirror_axes=mirror_axes), because)


def describe_rotation(augmentation: AugmentationPlan) -> str:
    """What depends on the patch, in a few words."""
    plane = ", in plane only (dummy 2D)" if augmentation.in_plane_only else ""
    axes = ", ".join(str(axis) for axis in augmentation.mirror_axes)
    mirrored = f"mirrored axes {axes}" if axes else "nothing mirrored"
    return f"rotation up to {augmentation.rotation_limit_degrees:g} degrees{plane}, {mirrored}"


def _choose_rotation_2d(patch: tuple[int, ...]) -> tuple[float, bool, str]:
    ratio = max(patch) / min(patch)
    patch_text = f"the patch {format_extents(patch)} is {ratio:.3g} times as long as wide"
    if ratio > ELONGATED_2D_RATIO:
        return ROTATION_ELONGATED_2D_DEGREES, False, f"{patch_text}, more than 1.5, so it is turned by up to 15 degrees"
    return FULL_ROTATION_DEGREES, False, f"{patch_text}, not more than 1.5, so it is turned by up to 180 degrees"


def _choose_rotation_3d(patch: tuple[int, ...]) -> tuple[float, bool, str]:
    ratio = max(patch) / patch[0]
    patch_text = f"the longest axis of the patch {format_extents(patch)} is {ratio:.3g} times its first"
    if ratio > FLAT_PATCH_RATIO:
        because = f"{patch_text}, more than 3, so slices are turned in plane only (dummy 2D), by up to 180 degrees"
        return FULL_ROTATION_DEGREES, True, because
    return (
        ROTATION_3D_DEGREES,
        False,
        f"{patch_text}, not more than 3, so it is turned about each axis by up to 30 degrees",
    )


def _build_augmentation(
    rotation_limit_degrees: float, *, in_plane_only: bool, mirror_axes: tuple[int, ...]
) -> AugmentationPlan:
    # Probabilities and ranges: nnU-Net paper, supplement, with the values of the version 2 implementation.
    return AugmentationPlan(
        rotation_probability=0.2,
        rotation_limit_degrees=rotation_limit_degrees,
        in_plane_only=in_plane_only,
        scaling_probability=0.2,
        scaling_range=(0.7, 1.4),
        noise_probability=0.1,
        noise_std_range=(0.0, 0.1),
        blur_probability=0.2,
        blur_channel_probability=0.5,
        blur_sigma_range_voxels=(0.5, 1.0),
        brightness_probability=0.15,
        brightness_range=(0.75, 1.25),
        contrast_probability=0.15,
        contrast_range=(0.75, 1.25),
        low_resolution_probability=0.25,
        low_resolution_channel_probability=0.5,
        low_resolution_range=(0.5, 1.0),
        inverted_gamma_probability=0.1,
        gamma_probability=0.3,
        gamma_range=(0.7, 1.5),
        mirror_axes=mirror_axes,
    )
