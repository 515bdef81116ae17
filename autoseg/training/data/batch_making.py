"""Batches, made by the device that trains where it is a CUDA device, else by worker processes."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from autoseg.dataset.folds import Fold
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.preprocessing import ChannelPlan
from autoseg.stages.training_cases import StoredStageInput
from autoseg.training.augmentation.transforms import list_without_device_form
from autoseg.training.data.batch import Batch
from autoseg.training.data.batches import BatchSource, build_batch_source, stream_batches
from autoseg.training.data.device_batches import DeviceBatchSource, build_device_batch_source, stream_device_batches
from autoseg.training.data.randomness import BatchKey, Phase
from autoseg.training.data.synthetic_cases import SyntheticCases

logger = logging.getLogger(__name__)


def build_source(
    plan: ConfigurationPlan,
    channels: Sequence[ChannelPlan],
    *,
    data_folder: Path,
    fold: Fold,
    seed: int,
    device: torch.device,
    announce: Callable[[str], None],
    previous: StoredStageInput | None = None,
    synthetic: SyntheticCases | None = None,
    part: range | None = None,
) -> BatchSource | DeviceBatchSource:
    """Prepares the batches of a configuration and fold; for a CUDA device reads the cases into memory with room, and
    announces where they are. If the plan lists a transform that has no form for devices, worker processes make the
    batches for a CUDA device, too, and this is announced.

    Raises:
        RunError: A case is missing or damaged.
    """
    source = build_batch_source(
        plan,
        channels,
        data_folder=data_folder,
        fold=fold,
        seed=seed,
        previous=previous,
        synthetic=synthetic,
        part=part,
    )
    if device.type != "cuda":
        return source
    if unable := list_without_device_form(source.training.augmentation.transforms):
        announce(
            f"patches are made by worker processes, not on {device}: {', '.join(unable)} of the plan's transforms "
            f"cannot run there"
        )
        return source
    on_device = build_device_batch_source(source, plan, channels, device=device)
    announce(f"patches are made on {device}; {on_device.placement.describe()}")
    return on_device


def make_batches(
    source: BatchSource | DeviceBatchSource,
    keys: Iterable[BatchKey],
    *,
    workers: int,
    device: torch.device,
    announce: Callable[[str], None] = logger.info,
) -> Iterator[Batch]:
    """Yields the batches of the keys, in order.

    Args:
        source: Makes them.
        keys: May be endless.
        workers: Processes that make batches, or threads that cut patches for the device.
        device: Device that will use the batches.
        announce: Called with what is short, in words.

    Raises:
        AutosegError: A case could not be read, or a worker has died.
    """
    if isinstance(source, DeviceBatchSource):
        return stream_device_batches(source, keys, threads=workers)
    return stream_batches(
        source, keys, workers=workers, device=device, batch_bytes=source.batch_bytes, announce=announce
    )


def keep_phase_current(
    keys: Iterable[BatchKey],
    *,
    stream: Callable[[Iterable[BatchKey]], Iterator[Batch]],
    make_batch: Callable[[BatchKey], Batch],
    find_phase: Callable[[int], Phase],
) -> Iterator[Batch]:
    """Yields the batches of the keys, each in the phase of its epoch when the batch is used.

    Batches are made ahead. If a new schedule moves the end of a phase meanwhile, those that differ are made again.

    Args:
        keys: May be endless.
        stream: Makes the batches of keys, in order.
        make_batch: Makes a single batch again.
        find_phase: Finds the phase of an epoch by the present schedule.
    """
    waiting: deque[BatchKey] = deque()

    def remember() -> Iterator[BatchKey]:
        for key in keys:
            waiting.append(key)
            yield key

    for batch in stream(remember()):
        key = waiting.popleft()
        present = replace(key, phase=find_phase(key.epoch))
        yield batch if present == key or key.stream == "validation" else make_batch(present)
