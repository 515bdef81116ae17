"""Measures the fastest inference batch size on the CPU and caches it on disk.

What is fastest depends on the processor, the network and the patch: company lets several cores work on small patches,
and drives large ones out of the cache.
"""

import hashlib
import logging
import math
import time
from pathlib import Path
from typing import Final, Literal

import torch
from torch import nn

from autoseg.document import Document, Part, read_document, write_document
from autoseg.errors import DocumentError, RunError
from autoseg.networks.precision import NumberType
from autoseg.plan import ConfigurationPlan, NetworkPlan
from autoseg.remembered import find_processor

SMALL_PATCH_VOXELS: Final = 2**18
"""Larger patches go alone, without a measurement: one pass takes seconds, and company only took memory."""
VOXELS_OF_A_THREAD: Final = 2**15
"""A patch of more than this for each thread keeps all of them busy: a measurement would cost more than it gains."""
VOXELS_OF_A_PASS: Final = 2**19
"""Such patches share a pass up to here, which prepares a layer's weights once for all of them (measured on two threads:
patches of 90 000 voxels take 0.097, 0.094, 0.094 and 0.093 s each by 1, 2, 4 and 8 at once)."""
MOST_PATCHES: Final = 32
REPETITIONS: Final = 2
"""The first pass of a shape also prepares it; the faster one counts."""
SMALLEST_GAIN_FRACTION: Final = 0.03
"""More patches must save this much time per patch, or the search ends (guess: above what repeats differ by)."""

logger = logging.getLogger(__name__)


class Circumstances(Part):
    """All that the speed of a network depends on."""

    processor: str
    threads: int
    torch: str
    number_type: NumberType
    network: NetworkPlan
    patch_voxels: tuple[int, ...]


class PassSizeRecord(Document):
    """A measurement, as it is remembered."""

    schema_version: Literal[1] = 1
    circumstances: Circumstances
    patches_per_pass: int
    seconds_per_patch: tuple[float, ...]


def find_patches_per_pass(
    network: nn.Module, configuration: ConfigurationPlan, *, number_type: NumberType, memory: Path
) -> int:
    """The remembered size, or a measured one, which is then remembered and announced in the log; for patches that keep
    every thread busy, one that needs no measurement.

    Args:
        network: On the processor, ready to predict.
        configuration: What the network was built from.
        number_type: In which it computes.
        memory: Folder of remembered sizes; if it cannot be written, every call measures, which is announced.
    """
    voxels = math.prod(configuration.patch_voxels)
    if voxels > SMALL_PATCH_VOXELS:
        return 1
    if voxels > VOXELS_OF_A_THREAD * torch.get_num_threads():
        return 1 << (VOXELS_OF_A_PASS // voxels).bit_length() - 1  # the largest power of two
    circumstances = find_circumstances(configuration, number_type)
    path = memory / f"{hashlib.sha256(circumstances.model_dump_json().encode()).hexdigest()[:32]}.json"
    remembered = _recall(path, circumstances)
    if remembered is not None:
        return remembered
    return _measure_and_remember(network, circumstances, path)


def find_circumstances(configuration: ConfigurationPlan, number_type: NumberType) -> Circumstances:
    """Those of this process."""
    return Circumstances(
        processor=find_processor(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        number_type=number_type,
        network=configuration.network,
        patch_voxels=configuration.patch_voxels,
    )


def measure_patches_per_pass(network: nn.Module, *, channels: int, patch_voxels: tuple[int, ...]) -> list[float]:
    """Seconds per patch for 1, 2, 4, ... patches at once, up to the first size that gains nothing."""
    seconds: list[float] = []
    count = 1
    while count <= MOST_PATCHES and count * math.prod(patch_voxels) <= 2 * SMALL_PATCH_VOXELS:
        patches = torch.zeros((count, channels, *patch_voxels))
        seconds.append(min(_time_pass(network, patches) for _ in range(REPETITIONS)) / count)
        if len(seconds) > 1 and seconds[-1] > seconds[-2] * (1 - SMALLEST_GAIN_FRACTION):
            break
        count *= 2
    return seconds


def _measure_and_remember(network: nn.Module, circumstances: Circumstances, path: Path) -> int:
    channels = circumstances.network.input_channels
    seconds = measure_patches_per_pass(network, channels=channels, patch_voxels=circumstances.patch_voxels)
    fastest = 1 << seconds.index(min(seconds))
    logger.info("%d patches at once are fastest here (%.3g s each); remembered in %s", fastest, min(seconds), path)
    record = PassSizeRecord(
        circumstances=circumstances, patches_per_pass=fastest, seconds_per_patch=tuple(round(s, 5) for s in seconds)
    )
    try:
        write_document(path, record)
    except RunError as error:
        logger.warning("the fastest number of patches per pass is measured in every call: %s", error)
    return fastest


def _recall(path: Path, circumstances: Circumstances) -> int | None:
    try:
        record = read_document(path, PassSizeRecord)
    except DocumentError:
        return None  # not there, or of another version
    return record.patches_per_pass if record.circumstances == circumstances else None


@torch.inference_mode()
def _time_pass(network: nn.Module, patches: torch.Tensor) -> float:
    started = time.perf_counter()
    network(patches)
    return time.perf_counter() - started
