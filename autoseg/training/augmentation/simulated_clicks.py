"""Clicks as a user would place them on the errors of the previous stage's prediction.

On a device they are placed on the CPU: the thread that makes the batch waits for the labels, the network does not.
"""

from dataclasses import dataclass
from typing import Final

import cc3d
import edt
import numpy as np
import torch
from jaxtyping import Int16
from torch import Tensor

from autoseg.nonzero_region import FULL_CONNECTIVITY
from autoseg.plan.augmentation import SimulatedClicksPlan
from autoseg.stages.clicks import find_click_offset
from autoseg.training.augmentation.transform import DeviceTransform, Patches, Sample, SampleDraws, build_generator

Generators = tuple[np.random.Generator, ...]
SPAWN_KEY: Final = (4,)  # distinguishes these draws from those of all other transforms, which have the same seeds


@dataclass(frozen=True, kw_only=True)
class SimulatedClicks(DeviceTransform[Generators]):
    """Carries out "simulated_clicks"."""

    plan: SimulatedClicksPlan

    def change_sample(self, sample: Sample) -> None:
        """Marks clicks in the previous stage's map."""
        if sample.previous_label_map is not None:
            generator = np.random.default_rng(np.random.randint(0, 2**32, size=4, dtype=np.uint32))
            self._mark(sample.previous_label_map, sample.label_map, generator)

    def draw(self, draws: SampleDraws) -> Generators:
        """Builds a generator for each sample; what is drawn from it depends on the errors."""
        key = (*SPAWN_KEY, self.occurrence) if self.occurrence else SPAWN_KEY
        return tuple(build_generator(seeds, key) for seeds in draws.seeds)

    def change_patches(self, patches: Patches, parameters: Generators, *arrays: Tensor) -> Patches:
        """Marks clicks in the maps of the batch."""
        if patches.label_maps.shape[1] == 1:
            return patches
        maps = patches.label_maps.cpu().numpy().copy()
        for (reference, previous), generator in zip(maps, parameters, strict=True):
            self._mark(previous, reference, generator)
        marked = torch.from_numpy(maps).to(patches.label_maps.device)
        return Patches(image=patches.image, label_maps=marked)

    def _mark(
        self,
        previous: Int16[np.ndarray, "*space"],
        reference: Int16[np.ndarray, "*space"],
        generator: np.random.Generator,
    ) -> None:
        if generator.random() < self.plan.none_probability:
            return
        count = int(generator.integers(1, self.plan.most_clicks + 1))
        errors = number_errors(previous, reference, label_count=len(self.foreground_labels) + 1)
        places = draw_clicks(errors, count, generator, centre_probability=self.plan.centre_probability)
        for place in places:
            previous[place] = max(int(reference[place]), 0) + find_click_offset(self.foreground_labels)


def number_errors(
    predicted: Int16[np.ndarray, "*space"], reference: Int16[np.ndarray, "*space"], *, label_count: int
) -> np.ndarray:
    """Numbers the connected errors of a prediction, 1, 2, ...; the reference is the same label throughout each of them.

    Args:
        predicted: Label map, in which -1 is background.
        reference: Label map of the same form; voxels of another label, such as one that is ignored, are no errors.
        label_count: Number of labels, background included.
    """
    wanted = np.maximum(reference, 0)
    is_error = (np.maximum(predicted, 0) != wanted) & (wanted < label_count)
    kinds = np.where(is_error, wanted + 1, 0).astype(np.uint16)
    return np.asarray(cc3d.connected_components(kinds, connectivity=FULL_CONNECTIVITY[kinds.ndim]))


def draw_clicks(
    errors: np.ndarray, count: int, generator: np.random.Generator, *, centre_probability: float
) -> list[tuple[int, ...]]:
    """Draws voxels of numbered errors: the larger an error, the more likely; fewer where there are fewer voxels."""
    sizes = np.bincount(errors.ravel())[1:]
    places: list[tuple[int, ...]] = []
    for _ in range(min(count, int(sizes.sum()))):
        number = 1 + int(generator.choice(len(sizes), p=sizes / sizes.sum()))
        is_central = generator.random() < centre_probability
        position = int(generator.integers(0, sizes[number - 1]))
        found = find_centre(errors == number) if is_central else _find_voxel(errors == number, position)
        if found not in places:
            places.append(found)
    return places


def find_centre(error: np.ndarray) -> tuple[int, ...]:
    """Finds the voxel of a mask that lies deepest in it, farthest from all others; the first of several."""
    padded = np.pad(error, 1)
    depth = edt.edt(padded)[(slice(1, -1),) * error.ndim]
    return tuple(int(place) for place in np.unravel_index(int(np.argmax(depth)), error.shape))


def _find_voxel(error: np.ndarray, position: int) -> tuple[int, ...]:
    return tuple(int(place) for place in np.unravel_index(np.flatnonzero(error)[position], error.shape))
