"""Random changes of a training patch, through batchgenerators' transforms.

The order and the distributions are those of nnU-Net's pipeline. Where batchgenerators' transforms differ from the
torch transforms that nnU-Net uses today, the difference is:

- spatial: batchgenerators draws half of the scales below 1 and half above, nnU-Net one uniform factor; so the grid is
  composed here, of batchgenerators' own functions (`spatial.py`);
- blur: the kernel reaches 4 standard deviations instead of about 3, and the border is mirrored about its edge instead
  of the centre of its outermost voxel;
- gamma: the spread that is restored is the population's instead of the sample's standard deviation;
- decisions: one random stream per sample; nnU-Net's workers share one, so that they repeat each other's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from batchgenerators.augmentations.color_augmentations import augment_brightness_multiplicative
from batchgenerators.transforms.color_transforms import ContrastAugmentationTransform, GammaTransform
from batchgenerators.transforms.noise_transforms import GaussianBlurTransform, GaussianNoiseTransform
from batchgenerators.transforms.resample_transforms import SimulateLowResolutionTransform
from batchgenerators.transforms.spatial_transforms import MirrorTransform
from jaxtyping import Float32, Int16

from autoseg.plan import AugmentationPlan
from autoseg.preprocessing.case import OUTSIDE_LABEL
from autoseg.training.spatial import SpatialChange

Transform = Callable[..., dict[str, Any]]
AppendMasks = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From an image and the previous stage's label map to the image with one mask more for each label."""
LOW_RESOLUTION_DOWN_ORDER: Final = 0
LOW_RESOLUTION_UP_ORDER: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Turns an enlarged cut into a training patch; draws from the global generators of numpy and `random`.

    Attributes:
        spatial: Rotates, scales and crops to the patch.
        transforms: Change intensities and mirror, on batches of one: data (1 channel *space), seg (1 1 *space).
        masked_channels: Channels that are zero outside the nonzero region.
        append_masks: In the second stage of a cascade, makes channels of what the first one predicts.
    """

    spatial: SpatialChange
    transforms: tuple[Transform, ...]
    masked_channels: tuple[int, ...]
    append_masks: AppendMasks | None = None

    def __call__(
        self, image: Float32[np.ndarray, " channel *space"], *label_maps: Int16[np.ndarray, "*space"]
    ) -> tuple[Float32[np.ndarray, " input *patch"], Int16[np.ndarray, "*patch"]]:
        """Returns the changed patch; the label -1 has become background.

        Args:
            image: An enlarged cut.
            *label_maps: The reference; behind it, in a cascade, the previous stage's prediction.
        """
        image, *label_maps_of_patch = self.spatial(image, *label_maps)
        batch = {"data": image[None], "seg": np.stack(label_maps_of_patch)[None]}
        for transform in self.transforms:
            batch = transform(**batch)
        return finish_sample(
            batch["data"][0],
            *batch["seg"][0],
            masked_channels=self.masked_channels,
            append_masks=self.append_masks,
        )


def build_augmentation(
    plan: AugmentationPlan,
    patch_voxels: tuple[int, ...],
    masked_channels: Sequence[int],
    *,
    append_masks: AppendMasks | None = None,
) -> Augmentation:
    """Builds the pipeline for patches of two or three axes."""
    return Augmentation(
        spatial=SpatialChange(plan=plan, patch_voxels=patch_voxels),
        transforms=(*_build_intensity_transforms(plan, len(patch_voxels)), *_build_mirroring(plan)),
        masked_channels=tuple(masked_channels),
        append_masks=append_masks,
    )


def finish_sample(
    image: Float32[np.ndarray, " channel *space"],
    label_map: Int16[np.ndarray, "*space"],
    *previous_label_maps: Int16[np.ndarray, "*space"],
    masked_channels: Sequence[int],
    append_masks: AppendMasks | None,
) -> tuple[Float32[np.ndarray, " input *space"], Int16[np.ndarray, "*space"]]:
    """What the network gets and what it should answer; see `finish_patch`."""
    image, label_map = finish_patch(image, label_map, masked_channels)
    return image if append_masks is None else append_masks(image, *previous_label_maps), label_map


def finish_patch(
    image: Float32[np.ndarray, " channel *space"],
    label_map: Int16[np.ndarray, "*space"],
    masked_channels: Sequence[int],
) -> tuple[Float32[np.ndarray, " channel *space"], Int16[np.ndarray, "*space"]]:
    """Zeroes the masked channels where the label is -1, then makes that label background."""
    outside = label_map <= OUTSIDE_LABEL
    for channel in masked_channels:
        image[channel][outside] = 0
    return np.ascontiguousarray(image), np.where(outside, np.int16(0), label_map)


def _build_intensity_transforms(plan: AugmentationPlan, dimensions: int) -> list[Transform]:
    in_plane_only = plan.in_plane_only and dimensions == 3
    return [
        GaussianNoiseTransform(noise_variance=plan.noise_std_range, p_per_sample=plan.noise_probability),
        GaussianBlurTransform(
            blur_sigma=plan.blur_sigma_range_voxels,
            different_sigma_per_channel=True,
            different_sigma_per_axis=True,
            p_per_channel=plan.blur_channel_probability,
            p_per_sample=plan.blur_probability,
        ),
        Brightness(probability=plan.brightness_probability, factor_range=plan.brightness_range),
        ContrastAugmentationTransform(contrast_range=plan.contrast_range, p_per_sample=plan.contrast_probability),
        SimulateLowResolutionTransform(
            zoom_range=plan.low_resolution_range,
            per_channel=True,
            p_per_channel=plan.low_resolution_channel_probability,
            order_downsample=LOW_RESOLUTION_DOWN_ORDER,
            order_upsample=LOW_RESOLUTION_UP_ORDER,
            p_per_sample=plan.low_resolution_probability,
            ignore_axes=(0,) if in_plane_only else None,
        ),
        _build_gamma(plan, is_inverted=True),
        _build_gamma(plan, is_inverted=False),
    ]


def _build_gamma(plan: AugmentationPlan, *, is_inverted: bool) -> Transform:
    transform: Transform = GammaTransform(
        gamma_range=plan.gamma_range,
        invert_image=is_inverted,
        per_channel=True,
        retain_stats=True,
        p_per_sample=plan.inverted_gamma_probability if is_inverted else plan.gamma_probability,
    )
    return transform


def _build_mirroring(plan: AugmentationPlan) -> list[Transform]:
    return [MirrorTransform(axes=plan.mirror_axes)] if plan.mirror_axes else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Brightness:
    """Multiplies each channel; factors below and above 1 are equally likely, whatever the range.

    batchgenerators' own transform draws one uniform factor, which is the same for a range that is symmetric about 1.
    """

    probability: float
    factor_range: tuple[float, float]

    def __call__(self, **batch: Any) -> dict[str, Any]:
        """Changes `data` in place."""
        if np.random.uniform() < self.probability:
            for channel in batch["data"][0]:
                factor = draw_around_one(self.factor_range)
                augment_brightness_multiplicative(channel[None], (factor, factor), per_channel=False)
        return batch


def draw_around_one(limits: tuple[float, float]) -> float:
    """Draws below 1 or above 1 with equal probability where the limits allow both, else uniformly between them."""
    lower, upper = limits
    if lower < 1 < upper:
        lower, upper = (lower, 1.0) if np.random.uniform() < 0.5 else (1.0, upper)
    return float(np.random.uniform(lower, upper))
