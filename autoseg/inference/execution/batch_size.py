"""Measures the fastest inference batch size and caches it on disk.

Which batch size is fastest depends on the device, the network and the patch: several small patches keep all cores busy,
several large ones no longer fit the cache of a CPU.
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
from autoseg.runtime.device import is_out_of_memory, wait_for_device
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
GPU_MEMORY_SHARE: Final = 0.5
"""Fraction of the memory of a GPU that a pass may take (guess); image, logits and CUDA graphs take the rest."""
REPETITIONS: Final = 2
"""The first forward pass of a shape is also a warm-up; the faster one counts."""
SMALLEST_GAIN_FRACTION: Final = 0.03
"""A larger batch must save this much time per patch, or the search ends (guess: above the noise of repetitions)."""

CPU: Final = torch.device("cpu")

logger = logging.getLogger(__name__)


class InferenceConditions(Part):
    """Everything that the inference speed of a network depends on.

    Attributes:
        threads: Number of threads; 0 on a GPU.
    """

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
    network: nn.Module, configuration: ConfigurationPlan, *, dtype: DtypeName, memory: Path, device: torch.device = CPU
) -> int:
    """Returns the fastest inference batch size: a cached or a new measurement.

    On a CPU nothing is measured for patches that keep every thread busy. A new measurement is cached and reported in
    the log.

    Args:
        network: A network on the device, ready to predict.
        configuration: The configuration that the network was built from.
        dtype: The dtype in which it computes.
        memory: Folder of cached measurements. If it cannot be written, every call measures, which the log reports.
        device: CPU or CUDA device.
    """
    voxels = math.prod(configuration.patch_voxels)
    if device.type == "cpu" and voxels > SMALL_PATCH_VOXELS:
        return 1
    if device.type == "cpu" and voxels > VOXELS_PER_THREAD * torch.get_num_threads():
        return 1 << (VOXELS_PER_BATCH // voxels).bit_length() - 1  # the largest power of two
    conditions = find_inference_conditions(configuration, dtype, device)
    path = find_measurement(memory, conditions)
    known = read_measurement(path, BatchSizeMeasurement)
    if known is not None and known.circumstances == conditions:
        return known.inference_batch_size
    return _measure_and_cache(network, conditions, path, device=device)


def find_inference_conditions(
    configuration: ConfigurationPlan, dtype: DtypeName, device: torch.device = CPU
) -> InferenceConditions:
    """Returns the conditions in this process."""
    is_gpu = device.type == "cuda"
    return InferenceConditions(
        processor=torch.cuda.get_device_name(device) if is_gpu else find_cpu_name(),
        threads=0 if is_gpu else torch.get_num_threads(),
        torch=torch.__version__,
        dtype=dtype,
        network=configuration.network,
        patch_voxels=configuration.patch_voxels,
    )


def measure_inference_batch_size(
    network: nn.Module, *, channels: int, patch_voxels: tuple[int, ...], device: torch.device = CPU
) -> list[float]:
    """Measures the seconds per patch for batch sizes 1, 2, 4, ..., up to the first that is no faster or too large."""
    seconds: list[float] = []
    count = 1
    if device.type != "cpu":
        torch.cuda.reset_peak_memory_stats(device)  # a training of this process may have taken most of the memory
    while count == 1 or (count <= MOST_PATCHES and _has_room(count * math.prod(patch_voxels), device)):
        try:
            patches = torch.zeros((count, channels, *patch_voxels), device=device)
            seconds.append(min(time_pass(network, patches) for _ in range(REPETITIONS)) / count)
        except (MemoryError, RuntimeError) as error:
            if not seconds or not is_out_of_memory(error):
                raise
            break
        if len(seconds) > 1 and seconds[-1] > seconds[-2] * (1 - SMALLEST_GAIN_FRACTION):
            break
        count *= 2
    return seconds


def _has_room(voxels: int, device: torch.device) -> bool:
    """Returns whether patches may be tried at once, after half as many."""
    if device.type == "cpu":
        return voxels <= 2 * SMALL_PATCH_VOXELS
    _, total_bytes = torch.cuda.mem_get_info(device)
    return 2 * torch.cuda.max_memory_allocated(device) <= GPU_MEMORY_SHARE * total_bytes


def _measure_and_cache(network: nn.Module, conditions: InferenceConditions, path: Path, *, device: torch.device) -> int:
    channels, patch_voxels = conditions.network.input_channels, conditions.patch_voxels
    seconds = measure_inference_batch_size(network, channels=channels, patch_voxels=patch_voxels, device=device)
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
    wait_for_device(patches.device)
    started = time.perf_counter()
    network(patches)
    wait_for_device(patches.device)
    return time.perf_counter() - started
