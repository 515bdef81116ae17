"""All transforms of a plan, one after the other: on one sample in a worker process, on a batch on a device.

In both, what a network gets is finished the same way: channels that are zero outside the nonzero region are zeroed
there again, the label -1 becomes background, and the previous stage's prediction becomes channels. What is drawn comes
from other generators, so the patches of the two are alike and not equal. Worker processes have one random stream per
sample; nnU-Net's share one, so that they repeat each other's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int16
from torch import Tensor

from autoseg.preprocessing.case import OUTSIDE_LABEL
from autoseg.stages.previous_input import PreviousStageInput
from autoseg.training.augmentation.spatial import Spatial
from autoseg.training.augmentation.transform import (
    AnyDeviceTransform,
    DeviceTransform,
    Patches,
    Sample,
    Transform,
    build_sample_draws,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleAugmentation:
    """Turns a cut into an input of the network and its reference, in a worker process.

    Attributes:
        transforms: Transforms in the order of application; draw from the global generators of numpy and `random`.
        masked_channels: Channels that are zero outside the nonzero region.
        stage_input: Conversion of the previous stage's prediction to channels behind the image; None without a cascade.
    """

    transforms: tuple[Transform, ...]
    masked_channels: tuple[int, ...]
    stage_input: PreviousStageInput | None = None

    def __call__(
        self, image: Float32[np.ndarray, " channel *space"], *label_maps: Int16[np.ndarray, "*space"]
    ) -> tuple[Float32[np.ndarray, " input *patch"], Int16[np.ndarray, "*patch"]]:
        """Returns the patch and its reference; changes its arguments.

        Args:
            image: A cut, with surroundings where the spatial transform needs them.
            *label_maps: The reference; behind it, in a cascade, the previous stage's prediction.
        """
        sample = Sample(image=image, label_map=label_maps[0], previous_label_map=(*label_maps, None)[1])
        for transform in self.transforms:
            transform.change_sample(sample)
        image, label_map = finish_patch(sample.image, sample.label_map, self.masked_channels)
        if self.stage_input is not None and sample.previous_label_map is not None:
            image = self.stage_input.append_to(image, sample.previous_label_map)
        return image, label_map


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchParameters:
    """Random parameters of the samples of a batch.

    Attributes:
        is_warped: Whether a sample is rotated or scaled, and so must be cut out with surroundings.
        of_transforms: Parameters of the transforms but the spatial one, in their order.
        arrays: Arrays for the device: those of the spatial transform, then those of the others.
    """

    is_warped: Bool[np.ndarray, " batch"]
    of_transforms: tuple[Any, ...]
    arrays: tuple[tuple[np.ndarray, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceAugmentation:
    """Turns the cuts of a batch into inputs of the network and their references, on a device.

    Attributes:
        spatial: The first transform of the plan, if it is that.
        transforms: The others, in the order of application.
        masked_channels: Channels that are zero outside the nonzero region.
        stage_input: Conversion of the previous stage's prediction to channels behind the image; None without a cascade.
    """

    spatial: Spatial | None
    transforms: tuple[AnyDeviceTransform, ...]
    masked_channels: tuple[int, ...]
    stage_input: PreviousStageInput | None = None

    def draw(self, seeds: Sequence[np.random.SeedSequence], *, channels: int) -> BatchParameters:
        """Draws how the samples of these seeds are changed; transforms draw in their order."""
        draws = build_sample_draws(seeds, channels=channels)
        is_warped = np.zeros(len(seeds), dtype=bool)
        first: tuple[np.ndarray, ...] = ()
        if self.spatial is not None:
            spatial = self.spatial.draw(draws)
            is_warped, first = spatial.is_warped, self.spatial.list_arrays(spatial)
        drawn = tuple(transform.draw(draws) for transform in self.transforms)
        others = (transform.list_arrays(part) for transform, part in zip(self.transforms, drawn, strict=True))
        return BatchParameters(is_warped=is_warped, of_transforms=drawn, arrays=(first, *others))

    def __call__(
        self, *, patches: Patches, cuts: Patches, parameters: BatchParameters, arrays: Sequence[Tensor]
    ) -> tuple[Float32[Tensor, "batch input *patch"], Int16[Tensor, " batch *patch"]]:
        """Returns the images and references of the batch; may change its arguments.

        Args:
            patches: All samples, already as large as the patch; those that are rotated or scaled may hold anything.
            cuts: The enlarged cuts of the samples that are rotated or scaled.
            parameters: Parameters of all samples.
            arrays: Their arrays on the device, one behind the other.
        """
        rest = iter(arrays)
        spatial, *others = [tuple(islice(rest, len(group))) for group in parameters.arrays]
        if self.spatial is not None:
            patches = self.spatial.warp(patches, cuts, spatial)
        for transform, drawn, on_device in zip(self.transforms, parameters.of_transforms, others, strict=True):
            patches = transform.change_patches(patches, drawn, *on_device)
        return self._finish(patches)

    def _finish(self, patches: Patches) -> tuple[Tensor, Tensor]:
        image, label_maps = patches.image, patches.label_maps
        if self.masked_channels:
            self._mask(image, label_maps[:, :1] <= OUTSIDE_LABEL)
        if self.stage_input is not None:
            channels = self.stage_input.list_image_channels(image, label_maps[:, 1])
            image = torch.cat([image, torch.stack([part.to(image.dtype) for part in channels], dim=1)], dim=1)
        return image, label_maps[:, 0].clamp_min(0).contiguous()

    def _mask(self, image: Tensor, outside: Tensor) -> None:
        if len(self.masked_channels) == image.shape[1]:
            image.masked_fill_(outside, 0)
            return
        for channel in self.masked_channels:
            image[:, channel : channel + 1].masked_fill_(outside, 0)


def build_device_augmentation(augmentation: SampleAugmentation) -> DeviceAugmentation:
    """Builds the pipeline for a device, for which every transform must have a form."""
    spatial = [transform for transform in augmentation.transforms if isinstance(transform, Spatial)]
    others = tuple(transform for transform in augmentation.transforms if isinstance(transform, DeviceTransform))
    assert len(spatial) + len(others) == len(augmentation.transforms), "a transform has no form for devices"
    return DeviceAugmentation(
        spatial=spatial[0] if spatial else None,
        transforms=others,
        masked_channels=augmentation.masked_channels,
        stage_input=augmentation.stage_input,
    )
