"""Random changes of training patches."""

from collections.abc import Callable

from autoseg.plan.augmentation import SpatialPlan, TransformPlan, find_mirror_axes, find_mirror_pairs
from autoseg.plan.decisions import Decision
from autoseg.plan.reference import ELONGATED_2D_RATIO, FLAT_PATCH_RATIO, build_reference_transforms, limit_rotation
from planners.reasons import format_extents

ChooseAugmentation = Callable[[tuple[int, ...]], Decision[tuple[TransformPlan, ...]]]


def choose_augmentation(patch_voxels: tuple[int, ...]) -> Decision[tuple[TransformPlan, ...]]:
    """The transforms of the nnU-Net paper (Isensee et al. 2021); only rotation and mirroring depend on the patch."""
    explain = _explain_rotation_2d if len(patch_voxels) == 2 else _explain_rotation_3d
    mirror_axes = tuple(range(len(patch_voxels)))
    because = f"{explain(patch_voxels)}; all {len(mirror_axes)} axes are mirrored, here and in prediction"
    return Decision(build_reference_transforms(patch_voxels, mirror_axes=mirror_axes), because)


def describe_rotation(transforms: tuple[TransformPlan, ...]) -> str:
    """What depends on the patch, in a few words."""
    (spatial,) = (transform for transform in transforms if isinstance(transform, SpatialPlan))
    plane = ", in plane only (dummy 2D)" if spatial.in_plane_only else ""
    axes = ", ".join(str(axis) for axis in find_mirror_axes(transforms))
    mirrored = f"mirrored axes {axes}" if axes else "nothing mirrored"
    pairs = find_mirror_pairs(transforms)
    mirrored += "" if pairs is None else f", {len(pairs.pairs)} pairs of labels exchanged along {pairs.axis}"
    return f"rotation up to {spatial.rotation_limit_degrees:g} degrees{plane}, {mirrored}"


def _explain_rotation_2d(patch: tuple[int, ...]) -> str:
    ratio, (degrees, _) = max(patch) / min(patch), limit_rotation(patch)
    compared = "more" if ratio > ELONGATED_2D_RATIO else "not more"
    return (
        f"the patch {format_extents(patch)} is {ratio:.3g} times as long as wide, {compared} than "
        f"{ELONGATED_2D_RATIO:g}, so it is turned by up to {degrees:g} degrees"
    )


def _explain_rotation_3d(patch: tuple[int, ...]) -> str:
    ratio, (degrees, in_plane_only) = max(patch) / patch[0], limit_rotation(patch)
    compared = "more" if ratio > FLAT_PATCH_RATIO else "not more"
    turned = "slices are turned in plane only (dummy 2D)," if in_plane_only else "it is turned about each axis"
    return (
        f"the longest axis of the patch {format_extents(patch)} is {ratio:.3g} times its first, {compared} than "
        f"{FLAT_PATCH_RATIO:g}, so {turned} by up to {degrees:g} degrees"
    )
