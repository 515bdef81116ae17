"""The table of transforms, by their names in a plan."""

from collections.abc import Sequence
from typing import Final

from autoseg.plan.augmentation import TransformPlan
from autoseg.training.augmentation.blur import Blur
from autoseg.training.augmentation.brightness import Brightness
from autoseg.training.augmentation.colour import Hue, Saturation
from autoseg.training.augmentation.contrast import Contrast
from autoseg.training.augmentation.gamma import Gamma
from autoseg.training.augmentation.low_resolution import LowResolution
from autoseg.training.augmentation.mask_component_removal import MaskComponentRemoval
from autoseg.training.augmentation.mask_morphology import MaskMorphology
from autoseg.training.augmentation.mirror import Mirror, MirrorPairs
from autoseg.training.augmentation.noise import Noise
from autoseg.training.augmentation.simulated_clicks import SimulatedClicks
from autoseg.training.augmentation.spatial import Spatial
from autoseg.training.augmentation.stain import Stain
from autoseg.training.augmentation.transform import DeviceTransform, Transform

TRANSFORMS: Final[dict[str, type[Transform]]] = {
    "spatial": Spatial,
    "deformation": Spatial,
    "noise": Noise,
    "blur": Blur,
    "brightness": Brightness,
    "contrast": Contrast,
    "low_resolution": LowResolution,
    "gamma": Gamma,
    "saturation": Saturation,
    "hue": Hue,
    "stain": Stain,
    "mirror": Mirror,
    "mirror_pairs": MirrorPairs,
    "mask_morphology": MaskMorphology,
    "mask_component_removal": MaskComponentRemoval,
    "simulated_clicks": SimulatedClicks,
}


def build_transforms(
    plans: Sequence[TransformPlan], patch_voxels: tuple[int, ...], foreground_labels: tuple[int, ...] = ()
) -> tuple[Transform, ...]:
    """Builds the transforms of a plan, in their order.

    Args:
        plans: The entries.
        patch_voxels: Extent of a finished patch.
        foreground_labels: Foreground labels of the previous stage of a cascade.
    """
    names = [plan.name for plan in plans]
    return tuple(
        TRANSFORMS[plan.name](
            plan=plan,
            patch_voxels=patch_voxels,
            foreground_labels=foreground_labels,
            occurrence=names[:position].count(plan.name),
        )
        for position, plan in enumerate(plans)
    )


def list_without_device_form(transforms: Sequence[Transform]) -> list[str]:
    """Lists the names of transforms that only worker processes can apply."""
    return [transform.plan.name for transform in transforms if not isinstance(transform, DeviceTransform | Spatial)]
