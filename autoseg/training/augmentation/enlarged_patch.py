"""The extent that is cut out for a patch, so that rotating and shrinking it meets few empty corners."""

from math import ceil, cos, radians, sin, tan
from typing import Final

from autoseg.plan.augmentation import DeformationPlan, TransformPlan, WarpPlan

SCALE_RESERVE: Final = 0.85  # fixed in the reference implementation, whatever the scaling range; so patches agree
ROTATION_CAP_DEGREES: Final = 90.0
DISPLACEMENT_RESERVE: Final = 2.0  # standard deviations, on each side: 95 % of the displacements


def compute_enlarged_patch(patch_voxels: tuple[int, ...], transforms: tuple[TransformPlan, ...]) -> tuple[int, ...]:
    """Returns the extent to cut out for a patch of two or three axes (nnU-Net's `get_patch_size`).

    The extents that a box covers when its corners are rotated about one axis after the other, divided by 0.85 and
    cut to whole voxels. By construction of the reference the rule is not symmetric in its axes. Shearing and elastic
    deformation, which the reference has not, add what they need. Where nothing ever happens the patch itself is enough.
    """
    warp = next((transform for transform in transforms if isinstance(transform, WarpPlan)), None)
    if warp is None or not warp.may_happen:
        return patch_voxels
    angle = radians(min(ROTATION_CAP_DEGREES, warp.rotation_limit_degrees))
    fixed = 1 if warp.in_plane_only and len(patch_voxels) == 3 else 0
    extents = patch_voxels[fixed:]
    covered = _shrinkable((_cover_2d if len(extents) == 2 else _cover_3d)(extents, angle))
    return (*patch_voxels[:fixed], *_add_deformation(covered, warp))


def _add_deformation(extents: tuple[int, ...], warp: WarpPlan) -> tuple[int, ...]:
    if not isinstance(warp, DeformationPlan):
        return extents
    lean = tan(radians(warp.shear_limit_degrees)) if warp.shear_probability > 0 else 0.0
    std_voxels = warp.elastic.std_voxels if warp.elastic is not None and warp.elastic_probability > 0 else 0.0
    others = [max(extents[:axis] + extents[axis + 1 :]) for axis in range(len(extents))]
    return tuple(
        extent + ceil(lean * other) + 2 * ceil(DISPLACEMENT_RESERVE * std_voxels)
        for extent, other in zip(extents, others, strict=True)
    )


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
