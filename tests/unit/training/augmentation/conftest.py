import random

import numpy as np
import pytest
import torch

from autoseg.training.augmentation.pipeline import SampleAugmentation, build_device_augmentation
from autoseg.training.augmentation.tensors.transfer import copy_together
from autoseg.training.augmentation.transform import Patches, build_sample_draws
from autoseg.training.augmentation.transforms import build_transforms


@pytest.fixture(autouse=True)
def _fixed_random_numbers():
    np.random.seed(0)
    random.seed(0)


@pytest.fixture
def draw_patch():
    """Noise in two channels, and labels 0 to 2."""

    def make(shape=(8, 10, 12), channels=2):
        generator = np.random.default_rng(1)
        image = generator.normal(size=(channels, *shape)).astype(np.float32)
        return image, generator.integers(0, 3, size=shape).astype(np.int16)

    return make


@pytest.fixture
def build(mask_input):
    """Builds the pipeline of worker processes; a patch is as large as its cut unless said."""

    def make(plans, patch, *, masked=(), foreground_labels=()):
        return SampleAugmentation(
            transforms=build_transforms(plans, patch, foreground_labels),
            masked_channels=masked,
            stage_input=mask_input(len(foreground_labels)) if foreground_labels else None,
        )

    return make


@pytest.fixture
def augment(build):
    """Changes one sample as worker processes do."""

    def apply(plans, image, *label_maps, patch=None, **options):
        augmentation = build(plans, patch or label_maps[0].shape, **options)
        return augmentation(image.copy(), *(label_map.copy() for label_map in label_maps))

    return apply


@pytest.fixture
def augment_on_device(build, list_seeds, device):
    """Changes the patches of a batch on a device; cuts are as large as patches unless said."""

    def apply(plans, image, *label_maps, patch=None, first=0, **options):
        patch = patch or label_maps[0].shape[1:]
        augmentation = build_device_augmentation(build(plans, patch, **options))
        parameters = augmentation.draw(list_seeds(len(image), first=first), channels=image.shape[1])
        maps, is_warped = np.stack(label_maps, axis=1), parameters.is_warped
        starts = [cut // 2 - extent // 2 for cut, extent in zip(maps.shape[2:], patch, strict=True)]
        centre = tuple(slice(start, start + extent) for start, extent in zip(starts, patch, strict=True))
        changed, labels = augmentation(
            patches=to_patches(image[(..., *centre)], maps[(..., *centre)], device),
            cuts=to_patches(image[is_warped], maps[is_warped], device),
            parameters=parameters,
            arrays=copy_together([array for group in parameters.arrays for array in group], device),
        )
        return changed.cpu().numpy(), labels.cpu().numpy()

    return apply


def to_patches(image, label_maps, device):
    return Patches(
        image=torch.from_numpy(image.copy()).to(device), label_maps=torch.from_numpy(label_maps.copy()).to(device)
    )


@pytest.fixture
def draw(list_seeds):
    """Draws the parameters of transforms for many samples, as for a device: one entry a transform."""

    def make(plans, *, count=800, channels=2, patch=(8, 10, 12), foreground_labels=(), **where):
        draws = build_sample_draws(list_seeds(count, **where), channels=channels)
        return [transform.draw(draws) for transform in build_transforms(plans, patch, foreground_labels)]

    return make


@pytest.fixture
def change_rows(draw_image, device):
    """Applies a function with some parameters to the channels of an image on a device; returns them before and after.
    Functions that change them in place return nothing."""

    def apply(function, shape, *arrays, **options):
        image = draw_image(shape)
        rows = torch.from_numpy(image.reshape(-1, *shape)).to(device, copy=True)
        changed = function(rows, *copy_together(arrays, device), **options)
        return image.reshape(-1, *shape), (rows if changed is None else changed).cpu().numpy()

    return apply
