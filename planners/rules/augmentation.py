"""Random changes of training patches."""

from typing import Final

from autoseg.plan.augmentation import SpatialPlan, TransformPlan, find_mirror_axes
from autoseg.plan.decisions import Decision
from autoseg.plan.reference_transforms import build_reference_transforms
from planners.reasons import format_extents

FULL_ROTATION_DEGREES: Final = 180.0
ROTATION_3D_DEGREES: Final = 30.0
ROTATION_ELONGATED_2D_DEGREES: Final = 15.0
ELONGATED_2D_RATIO: Final = 1.5  # implementation of nnU-Net: a longer picture leaves its frame when it is turned
FLAT_PATCH_RATIO: Final = 3.0  # nnU-Net paper: the anisotropy factor of the spacing, applied to the patch


def choose_augmentation(patch_voxels: tuple[int, ...]) -> Decision[tuple[TransformPlan, ...]]:
    """The transforms of the nnU-Net paper (Isensee et al. 2021); only rotation and mirroring depend on the patch."""
    if len(patch_voxels) == 2:
        limit, in_plane, because = _choose_rotation_2d(patch_voxels)
    else:
        limit, in_plane, because = _choose_rotation_3d(patch_voxels)
    mirror_axes = tuple(range(len(patch_voxels)))
    because += f"; all {len(mirror_axes)} axes are mirrored, here and in prediction"
    return Decision(build_reference_transforms(limit, in_plane_only=in_plane, mirror_axes=mirror_axes), because)


def describe_rotation(transforms: tuple[TransformPlan, ...]) -> str:
    """What depends on the patch, in a few words."""
    (spatial,) = (transform for transform in transforms if isinstance(transform, SpatialPlan))
    plane = ", in plane only (dummy 2D)" if spatial.in_plane_only else ""
    axes = ", ".join(str(axis) for axis in find_mirror_axes(transforms))
    mirrored = f"mirrored axes {axes}" if axes else "nothing mirrored"
    return f"rotation up to {spatial.rotation_limit_degrees:g} degrees{plane}, {mirrored}"


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
