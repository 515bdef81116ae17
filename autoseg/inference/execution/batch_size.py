"""Measures the fastest inference batch size on the CPU and caches it on disk.

Which batch size is fastest depends on the CPU, the network and the patch: several small patches keep all cores busy,
several large ones no longer fit the cache.
"""

import logging
import math
import time
from pathlib import Path
from typing import Annotated, Final, Literal

import torch
from torch import nn

from autoseg.document import Document, OneOf, Part
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.network import NETWORK_PLANS, NetworkPlan
from autoseg.runtime.measurement_cache import find_cpu_name, find_measurement, read_measurement, write_measurement
from autoseg.runtime.precision import DtypeName

SMALL_PATCH_VOXELS: Final = 2**18
"""Larger patches get the batch size 1 without a measurement: a forward pass takes seconds, batches only cost RAM."""
VOXELS_PER_THREAD: Final = 2**15
"""Patches with more voxels per thread keep all threads busy: a measurement would cost more than it gains."""
VOXELS_PER_BATCH: Final = 2**19
"""Such patches are batched up to this number of voxels, because the weights of a layer are prepared once for a batch
(measured on two threads: patches of 90 000 voxels take 0.097, 0.094, 0.094, 0.093 s each in batches of 1, 2, 4, 8)."""
MOST_PATCHES: Final = 32
REPETITIONS: Final = 2
"""The first forward pass of a shape is also a warm-up; the faster one counts."""
SMALLEST_GAIN_FRACTION: Final = 0.03
"""A larger batch must save this much time per patch, or the search ends (guess: above the noise of repetitions)."""

logger = logging.getLogger(__name__)


class InferenceConditions(Part):
    """Everything that the inference speed of a network depends on."""

    processor: str
    threads: int
    torch: str
    dtype: DtypeName
    network: Annotated[NetworkPlan, OneOf(NETWORK_PLANS, "family")]
    patch_voxels: tuple[int, ...]


class BatchSizeMeasurement(Document):
    """A cached measurement of the fastest inference batch size."""

    schema_version: Literal[1] = 1
    circumstances: InferenceConditions
    inference_batch_size: int
    seconds_per_patch: tuple[float, ...]


def find_inference_batch_size(
    network: nn.Module, configuration: ConfigurationPlan, *, dtype: DtypeName, memory: Path
) -> int:
    """Returns the fastest inference batch size on the CPU: a cached or a new measurement.

    Nothing is measured for patches that keep every thread busy. A new measurement is cached and reported in the log.

    Args:
        network: A network on the CPU, ready to predict.
        configuration: The configuration that the network was built from.
        dtype: The dtype in which it computes.
        memory: Folder of cached measurements. If it cannot be written, every call measures, which the log reports.
    """
    voxels = math.prod(configuration.patch_voxels)
    if voxels > SMALL_PATCH_VOXELS:
        return 1
    if voxels > VOXELS_PER_THREAD * torch.get_num_threads():
        return 1 << (VOXELS_PER_BATCH // voxels).bit_length() - 1  # the largest power of two
    conditions = find_inference_conditions(configuration, dtype)
    path = find_measurement(memory, conditions)
    known = read_measurement(path, BatchSizeMeasurement)
    if known is not None and known.circumstances == conditions:
        return known.inference_batch_size
    return _measure_and_cache(network, conditions, path)


def find_inference_conditions(configuration: ConfigurationPlan, dtype: DtypeName) -> InferenceConditions:
    """Returns the conditions in this process."""
    return InferenceConditions(
        processor=find_cpu_name(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        dtype=dtype,
        network=configuration.network,
        patch_voxels=configuration.patch_voxels,
    )


def measure_inference_batch_size(network: nn.Module, *, channels: int, patch_voxels: tuple[int, ...]) -> list[float]:
    """Measures the seconds per patch for batch sizes 1, 2, 4, ..., up to the first one that is no faster."""
    seconds: list[float] = []
    count = 1
    while count <= MOST_PATCHES and count * math.prod(patch_voxels) <= 2 * SMALL_PATCH_VOXELS:
        patches = torch.zeros((count, channels, *patch_voxels))
        seconds.append(min(time_pass(network, patches) for _ in range(REPETITIONS)) / count)
        if len(seconds) > 1 and seconds[-1] > seconds[-2] * (1 - SMALLEST_GAIN_FRACTION):
            break
        count *= 2
    return seconds


def _measure_and_cache(network: nn.Module, conditions: InferenceConditions, path: Path) -> int:
    channels = conditions.network.input_channels
    seconds = measure_inference_batch_size(network, channels=channels, patch_voxels=conditions.patch_voxels)
    fastest = 1 << seconds.index(min(seconds))
    logger.info("the fastest batch size here is %d (%.3g s per patch); cached in %s", fastest, min(seconds), path)
    record = BatchSizeMeasurement(
        circumstances=conditions, inference_batch_size=fastest, seconds_per_patch=tuple(round(s, 5) for s in seconds)
    )
    write_measurement(path, record, what="the fastest batch size")
    return fastest


@torch.inference_mode()
def time_pass(network: nn.Module, patches: torch.Tensor) -> float:
    """Returns the seconds that a network takes for a batch of patches."""
    started = time.perf_counter()
    network(patches)
    return time.perf_counter() - started
