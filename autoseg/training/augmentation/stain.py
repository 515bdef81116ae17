"""Stains of histology: the amounts of haematoxylin, eosin and DAB in each voxel of a colour picture change.

Colours are taken apart into stains by optical densities (Ruifrok and Johnston 2001), each stain is multiplied and
shifted by random numbers of its own, and the colours are put together again (Tellez et al. 2018,
doi:10.1109/TMI.2018.2820199).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from autoseg.plan.augmentation import StainPlan
from autoseg.training.augmentation.tensors.rows import expand_column
from autoseg.training.augmentation.tensors.transfer import copy_together
from autoseg.training.augmentation.transform import DeviceTransform, Patches, Sample, SampleDraws

Changes = Float64[np.ndarray, "batch change stain"]

# Optical density in red, green and blue of haematoxylin, eosin and DAB: table 1 of Ruifrok and Johnston, rounded as
# usual.
DENSITIES: Final = np.asarray([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
DARKEST: Final = 1e-6  # of intensities from 0 to 1, so that black has a density


@dataclass(frozen=True, kw_only=True)
class Stain(DeviceTransform[Changes]):
    """Carries out "stain"."""

    plan: StainPlan

    def change_sample(self, sample: Sample) -> None:
        """Changes the three stains, each by a factor and a shift of its own."""
        if np.random.uniform() < self.plan.probability:
            changes = self._scale(np.random.uniform(-1, 1, size=(2, 3)))
            image = torch.from_numpy(np.ascontiguousarray(sample.image[None]))
            sample.image = _restain(image, torch.from_numpy(changes[None].astype(np.float32)))[0].numpy()

    def draw(self, draws: SampleDraws) -> Changes:
        """Draws factors and shifts; 1 and 0: unchanged."""
        drawn = [(generator.random(), generator.uniform(-1, 1, size=(2, 3))) for generator in draws.generators]
        return np.stack([self._scale(numbers * (chance < self.plan.probability)) for chance, numbers in drawn])

    def list_arrays(self, parameters: Changes) -> tuple[np.ndarray, ...]:
        """Lists factors and shifts, and which samples they change."""
        return parameters, (parameters != self._scale(np.zeros((2, 3)))).any(axis=(1, 2))

    def change_patches(self, patches: Patches, parameters: Changes, *arrays: Tensor) -> Patches:
        """Changes the stains of the samples that have a factor other than 1 or a shift."""
        changes, is_changed = arrays
        image = torch.where(expand_column(is_changed, patches.image), _restain(patches.image, changes), patches.image)
        return Patches(image=image, label_maps=patches.label_maps)

    def _scale(self, numbers: Float64[np.ndarray, "change stain"]) -> Float64[np.ndarray, "change stain"]:
        """Turns numbers between -1 and 1 into factors about 1 and shifts about 0."""
        limits = np.asarray([[self.plan.factor_limit], [self.plan.shift_limit]])
        changes: Float64[np.ndarray, "change stain"] = numbers * limits + [[1.0], [0.0]]
        return changes


@lru_cache(maxsize=16)
def _hold_conversions(device: torch.device) -> list[Tensor]:
    """Computes the matrices from densities to stains and back once; they stay on the device."""
    return copy_together([np.linalg.inv(DENSITIES).T, DENSITIES.T], device)


def _restain(
    image: Float32[Tensor, "batch 3 *space"], changes: Float32[Tensor, "batch change stain"]
) -> Float32[Tensor, "batch 3 *space"]:
    """Multiplies and shifts the stains; intensities stay between 0 and 1."""
    density = -image.clamp_min(DARKEST).log().flatten(2)
    into_stains, into_colours = _hold_conversions(image.device)
    stains = torch.matmul(into_stains, density)
    changed = torch.matmul(into_colours, stains * changes[:, 0, :, None] + changes[:, 1, :, None])
    return (-changed).exp().clamp_max(1).view_as(image)
