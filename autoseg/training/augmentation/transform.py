"""The contract of a transform of training patches.

A transform has one form for worker processes, which changes one sample in numpy arrays and draws from the global
generators of numpy and `random` (as batchgenerators does), and mostly one for a device, which changes a whole batch in
tensors. There, parameters are drawn apart from their application, on the CPU and from generators of the samples' own:
so they depend neither on the device nor on the batch. All transforms change the whole batch, with parameters that leave
a sample as it is where it is not to be changed: the number of operations and their shapes are always the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np
from jaxtyping import Float32, Float64, Int16, Int64
from torch import Tensor

from autoseg.plan.augmentation import TransformPlan

Parameters = TypeVar("Parameters")
SPAWN_KEY: Final = (1,)  # distinguishes these draws from those of the place of the patch, which has the same seeds


@dataclass(slots=True, kw_only=True)
class Sample:
    """One sample in a worker process; transforms replace or change its arrays.

    Attributes:
        image: Without masks.
        label_map: The reference; -1 is outside the nonzero region.
        previous_label_map: Prediction of the previous stage of a cascade, whose labels become masks at the end.
    """

    image: Float32[np.ndarray, " channel *space"]
    label_map: Int16[np.ndarray, "*space"]
    previous_label_map: Int16[np.ndarray, "*space"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """Some samples of a batch on a device.

    Attributes:
        image: Contiguous, without masks; transforms may change it in place.
        label_maps: The reference; behind it, in a cascade, the previous stage's prediction.
    """

    image: Float32[Tensor, "batch channel *space"]
    label_maps: Int16[Tensor, "batch map *space"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleDraws:
    """Random generators of the samples of a batch.

    Attributes:
        seeds: Seed of each sample.
        generators: One for each sample; transforms draw from it one after the other.
        channels: Channels of an image, without masks.
    """

    seeds: Sequence[np.random.SeedSequence]
    generators: Sequence[np.random.Generator]
    channels: int

    def random(self, count: int) -> Float64[np.ndarray, "batch number"]:
        """Draws numbers between 0 and 1, so many for each sample; one call takes less time than many."""
        return np.stack([generator.random(count) for generator in self.generators])

    def words(self, count: int) -> Int64[np.ndarray, "batch word"]:
        """Draws words of 32 bits, an even number for each sample."""
        drawn = np.stack([generator.bit_generator.random_raw(count // 2) for generator in self.generators])
        return drawn.astype("<u8").view("<u4").astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Transform(ABC):
    """One entry of the transforms of a plan.

    Attributes:
        plan: Its probabilities and ranges.
        patch_voxels: Extent of a finished patch, two or three axes.
        foreground_labels: Foreground labels of the previous stage; empty where there is none.
        occurrence: Number of earlier entries of the same name in the plan.
    """

    plan: TransformPlan
    patch_voxels: tuple[int, ...]
    foreground_labels: tuple[int, ...] = ()
    occurrence: int = 0

    @abstractmethod
    def change_sample(self, sample: Sample) -> None:
        """Changes a sample in a worker process; draws from the global generators of numpy and `random`."""


@dataclass(frozen=True, kw_only=True)
class DeviceTransform(Transform, Generic[Parameters]):
    """A transform that also has a form for a device."""

    @abstractmethod
    def draw(self, draws: SampleDraws) -> Parameters:
        """Draws the parameters of all samples of a batch; also those that will not be used, so that no value depends
        on another decision."""

    def list_arrays(self, parameters: Parameters) -> tuple[np.ndarray, ...]:
        """Lists what the device needs of the parameters; the arrays of all transforms are copied to it in one copy."""
        return ()

    @abstractmethod
    def change_patches(self, patches: Patches, parameters: Parameters, *arrays: Tensor) -> Patches:
        """Applies the parameters to all samples of a batch at once; never waits for the device where it can do
        without.

        Args:
            patches: All samples.
            parameters: Drawn on the CPU.
            *arrays: Those of `list_arrays`, on the device; floats in single precision.
        """


AnyDeviceTransform = DeviceTransform[Any]


def build_sample_draws(seeds: Sequence[np.random.SeedSequence], *, channels: int) -> SampleDraws:
    """Builds the generators of the samples of a batch."""
    generators = tuple(build_generator(sample, SPAWN_KEY) for sample in seeds)
    return SampleDraws(seeds=seeds, generators=generators, channels=channels)


def build_generator(seeds: np.random.SeedSequence, spawn_key: tuple[int, ...]) -> np.random.Generator:
    """Builds a generator for one sample; each kind of draw has a key of its own, so that they are independent."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seeds.entropy, spawn_key=spawn_key)))


def is_slice_wise(*, in_plane_only: bool, patch_voxels: tuple[int, ...]) -> bool:
    """Returns whether a 3D patch is changed slice by slice along its first axis; always False for a 2D patch."""
    return in_plane_only and len(patch_voxels) == 3
