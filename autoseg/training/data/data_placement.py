"""Placement of the preprocessed cases while they train a network: in the device's memory, in RAM, or on disk."""

import math
from dataclasses import dataclass
from typing import Final, Literal

import psutil
import torch

from autoseg.network_cost import BYTES_PER_OUTPUT
from autoseg.networks.cost import measure_cost
from autoseg.plan.document import ConfigurationPlan
from autoseg.runtime.device import measure_free_memory
from autoseg.training.data.held_cases import DataSize

DataLocation = Literal["device", "host", "disk"]
DESCRIPTIONS: Final[dict[DataLocation, str]] = {
    "device": "its memory holds all cases",
    "host": "RAM holds all cases",
    "disk": "cases are read from the run for every patch",
}

# Estimates on the safe side, not measurements: eager half-precision training keeps half of what is counted in single
# precision, gradients and the workspace of the largest layers come on top; parameters have gradients, momentum and
# half-precision copies; CUDA and its libraries take some hundred megabytes.
BYTES_PER_KEPT_BYTE: Final = 2
BYTES_PER_PARAMETER: Final = 20
DEVICE_BASE_BYTES: Final = 2 * 2**30
BYTES_PER_PATCH_VOXEL: Final = (
    200  # while label maps of warped patches are interpolated, all others of a batch counted in
)
# Other folds may train beside this one, and the system's cache of the compressed files serves nearly as well.
HOST_SHARE: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeMemory:
    """Memory that may be used, and how much of it must stay free."""

    free_bytes: int
    reserve_bytes: int

    def has_room(self, needed_bytes: int) -> bool:
        """Returns whether the reserve stays free."""
        return needed_bytes <= self.free_bytes - self.reserve_bytes

    def describe(self) -> str:
        """Describes the free memory in words."""
        return f"{_gib(self.free_bytes)} free, of which {_gib(self.reserve_bytes)} are kept free"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlacement:
    """The place where the cases of a fold are kept.

    Attributes:
        where: "device": in its memory, cut there; "host": in RAM, cut by threads; "disk": compressed in the
            run, read and cut by threads.
        because: One sentence with the figures.
    """

    where: DataLocation
    because: str

    def describe(self) -> str:
        """One phrase for the user."""
        return f"{DESCRIPTIONS[self.where]} ({self.because})"


def place_data(size: DataSize, *, device: FreeMemory | None, host: FreeMemory) -> DataPlacement:
    """Chooses the fastest place with room for all cases; `device` is None if it has no memory of its own."""
    need = f"the cases take {_gib(size.arrays_bytes)}"
    with_locations = size.arrays_bytes + size.locations_bytes
    if device is not None and device.has_room(size.arrays_bytes) and host.has_room(size.locations_bytes):
        return DataPlacement(where="device", because=f"{need}; the device's memory has {device.describe()}")
    seen = [] if device is None else [f"the device's memory has {device.describe()}"]
    figures = "; ".join([need, *seen, f"RAM has {host.describe()}"])
    return DataPlacement(where="host" if host.has_room(with_locations) else "disk", because=figures)


def measure_device_memory(device: torch.device, plan: ConfigurationPlan) -> FreeMemory | None:
    """Measures the free memory of a CUDA device, with the training of the plan reserved; None for other devices."""
    if device.type != "cuda":
        return None
    return FreeMemory(free_bytes=measure_free_memory(device), reserve_bytes=estimate_training_bytes(plan))


def measure_host_memory() -> FreeMemory:
    """Measures the free RAM, of which a share may be used."""
    free_bytes = int(psutil.virtual_memory().available)
    return FreeMemory(free_bytes=free_bytes, reserve_bytes=int(free_bytes * (1 - HOST_SHARE)))


def estimate_training_bytes(plan: ConfigurationPlan) -> int:
    """Estimates the device memory of training beside the cases: kept feature maps, outputs with their loss, weights,
    libraries, and the next batch, which is made meanwhile."""
    cost = measure_cost(plan.network, plan.patch_voxels, plan.training.batch_size)
    in_batches = plan.training.batch_size * math.prod(plan.sample_voxels) * BYTES_PER_PATCH_VOXEL
    in_network = cost.kept_bytes * BYTES_PER_KEPT_BYTE + cost.parameter_count * BYTES_PER_PARAMETER
    return in_network + in_batches + cost.output_elements * BYTES_PER_OUTPUT + DEVICE_BASE_BYTES


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
