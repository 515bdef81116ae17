"""The extent that is cut out for a patch, so that rotating and shrinking it meets few empty corners."""

from math import cos, radians, sin
from typing import Final

from autoseg.plan.augmentation import SpatialPlan, TransformPlan

SCALE_RESERVE: Final = 0.85  # fixed in the reference implementation, whatever the scaling range; so patches agree
ROTATION_CAP_DEGREES: Final = 90.0


def compute_enlarged_patch(patch_voxels: tuple[int, ...], transforms: tuple[TransformPlan, ...]) -> tuple[int, ...]:
    """Returns the extent to cut out for a patch of two or three axes (nnU-Net's `get_patch_size`).

    The extents that a box covers when its corners are rotated about one axis after the other, divided by 0.85 and
    cut to whole voxels. By construction of the reference the rule is not symmetric in its axes. Where rotation and
    scaling never happen the patch itself is enough.
    """
    spatial = next((transform for transform in transforms if isinstance(transform, SpatialPlan)), None)
    if spatial is None or (spatial.rotation_probability == 0 and spatial.scaling_probability == 0):
        return patch_voxels
    angle = radians(min(ROTATION_CAP_DEGREES, spatial.rotation_limit_degrees))
    if spatial.in_plane_only and len(patch_voxels) == 3:
        return (patch_voxels[0], *_shrinkable(_cover_2d(patch_voxels[1:], angle)))
    return _shrinkable((_cover_2d if len(patch_voxels) == 2 else _cover_3d)(patch_voxels, angle))


def _cover_2d(extents: tuple[int, ...], angle: float) -> tuple[float, ...]:
    c, s = cos(angle), sin(angle)
    x, y = map(float, extents)
    return max(x, abs(x * c + y * s)), max(y, abs(y * c - x * s))


def _cover_3d(extents: tuple[int, ...], angle: float) -> tuple[float, ...]:
    c, s = cos(angle), sin(angle)
    x, y, z = map(float, extents)
    return (
        max(x, abs(x * c - z * s), abs(x * c + y * s)),
        max(y, abs(y * c + z * s), abs(y * c - x * s)),
        max(z, abs(z * c - y * s), abs(z * c + x * s)),
    )


def _shrinkable(extents: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(int(extent / SCALE_RESERVE) for extent in extents)
