"""Batches made on the device that trains, by threads of the training process: no worker processes, no shared memory.

Where a patch comes from is drawn as in worker processes, so both show the network the same places of the same cases.
The cases lie in the device's memory, else in RAM, else they are read from the run; in the last two, threads cut patches
into page-locked memory while the device computes. Rotating, scaling and everything after it happen on the device, on a
stream of their own beside the network's.

A batch is a function of its key: it does not matter how many threads there are. Patches that are neither rotated nor
scaled, about two thirds, are cut without the surroundings that only rotation needs.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from autoseg.geometry import Border, IntTriple
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.preprocessing import ChannelPlan
from autoseg.preprocessing.cache import CachedCase
from autoseg.preprocessing.case import OUTSIDE_LABEL
from autoseg.preprocessing.stored_array import LazyArray
from autoseg.training.augmentation.pipeline import BatchParameters, DeviceAugmentation, build_device_augmentation
from autoseg.training.augmentation.tensors.transfer import choose_device, copy_to_device, move_to_device
from autoseg.training.augmentation.transform import Patches
from autoseg.training.data.batch import Batch
from autoseg.training.data.batches import BatchSource
from autoseg.training.data.data_placement import (
    DataPlacement,
    measure_device_memory,
    measure_host_memory,
    place_data,
)
from autoseg.training.data.held_cases import DeviceArray, hold_cases, measure_size
from autoseg.training.data.randomness import BatchKey, derive_seeds
from autoseg.training.data.sampling import PatchSampler, cut_out, find_continuation, find_overlap

BATCHES_AHEAD: Final = 2  # beyond those that threads are making


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePatchSource:
    """Makes the patches of one stream.

    Attributes:
        augmentation: Turns cuts into what the network gets.
        channels: Channels of an image, without masks.
        buffer_device: Device on which cuts are assembled: that of the cases.
    """

    sampler: PatchSampler
    augmentation: DeviceAugmentation
    channels: int
    is_2d: bool
    device: torch.device
    buffer_device: torch.device

    def cut(self, seeds: Sequence[np.random.SeedSequence], is_warped: np.ndarray) -> tuple[Patches, Patches]:
        """Cuts all samples: unwarped ones to the size of the patch, warped ones with surroundings."""
        sampler, warped_count = self.sampler, int(is_warped.sum())
        unwarped = self._allocate(len(seeds) - warped_count, sampler.patch_voxels)
        warped = self._allocate(warped_count, sampler.cut_voxels)
        margin = [cut // 2 - patch // 2 for cut, patch in zip(sampler.cut_voxels, sampler.patch_voxels, strict=True)]
        targets = [*_list_samples(unwarped), *_list_samples(warped)]
        for (image, label_maps), index in zip(targets, np.argsort(is_warped, kind="stable").tolist(), strict=True):
            cut = sampler.place(sampler.indices[index], np.random.default_rng(seeds[index]))
            start = cut.start if is_warped[index] else tuple(np.add(cut.start, margin).tolist())
            paste(image, cut.case.image, start, border=sampler.border)
            for label_map, source in zip(label_maps, cut.case.maps, strict=True):
                paste(label_map, source, start, border=sampler.border)
        return unwarped, warped

    def finish(self, unwarped: Patches, warped: Patches, parameters: BatchParameters) -> Batch:
        """Copies cuts to the device and turns them into the input of the network."""
        image, label_map = self.augmentation(
            unwarped=self._bring(unwarped), warped=self._bring(warped), parameters=parameters
        )
        return Batch(image=image, label_map=label_map)

    def _allocate(self, count: int, extent_voxels: IntTriple) -> Patches:
        is_pinned = self.device.type == "cuda" and self.buffer_device.type == "cpu" and count > 0
        maps = 1 if self.augmentation.stage_input is None else 2
        image_shape, maps_shape = (count, self.channels, *extent_voxels), (count, maps, *extent_voxels)
        image = torch.zeros(image_shape, device=self.buffer_device, pin_memory=is_pinned)
        label_maps = torch.zeros(maps_shape, dtype=torch.int16, device=self.buffer_device, pin_memory=is_pinned)
        return Patches(image=image, label_maps=label_maps.fill_(OUTSIDE_LABEL))

    def _bring(self, patches: Patches) -> Patches:
        image, label_maps = (move_to_device(tensor, self.device) for tensor in (patches.image, patches.label_maps))
        if self.is_2d:
            return Patches(image=image[:, :, 0], label_maps=label_maps[:, :, 0])
        return Patches(image=image, label_maps=label_maps)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedBatch:
    """A batch that the device may still be working on.

    Attributes:
        is_done: Happens on the device when the batch is complete; None where nothing runs beside the caller.
    """

    batch: Batch
    is_done: torch.cuda.Event | None

    def take(self) -> Batch:
        """Returns the batch for use on the current stream, which waits for it; the CPU does not."""
        if self.is_done is not None:
            current = torch.cuda.current_stream(self.batch.image.device)
            current.wait_event(self.is_done)
            self.batch.image.record_stream(current)
            self.batch.label_map.record_stream(current)
        return self.batch


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceBatchSource:
    """Makes any batch of a training on the device from its key alone; several threads may ask at once.

    Attributes:
        placement: Place of the cases, and the reason for it.
        stream: CUDA stream on which the batches are made; None on devices without streams.
    """

    training: DevicePatchSource
    plain: DevicePatchSource
    validation: DevicePatchSource
    seed: int
    placement: DataPlacement
    stream: torch.cuda.Stream | None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def make_batch(self, key: BatchKey) -> Batch:
        """Makes a batch for the current stream.

        Raises:
            RunError: A case cannot be read.
        """
        return self.prepare(key).take()

    @torch.no_grad()
    def prepare(self, key: BatchKey) -> PreparedBatch:
        """Makes a batch without waiting for the device. Cutting runs beside other threads, the rest one by one: two
        batches at once would take twice the memory and no less time."""
        source = key.select(training=self.training, plain=self.plain, validation=self.validation)
        seeds = [derive_seeds(self.seed, key, index) for index in source.sampler.indices]
        parameters = source.augmentation.draw(seeds, channels=source.channels)
        with self._on_stream():
            unwarped, warped = source.cut(seeds, parameters.is_warped)
            with self._lock:
                batch = source.finish(unwarped, warped, parameters)
                is_done = None if self.stream is None else self.stream.record_event()
        return PreparedBatch(batch=batch, is_done=is_done)

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)


def build_device_batch_source(
    source: BatchSource,
    plan: ConfigurationPlan,
    channels: Sequence[ChannelPlan],
    *,
    device: torch.device,
    placement: DataPlacement | None = None,
) -> DeviceBatchSource:
    """Makes the batches of `source` on the device; reads the cases into memory if there is room.

    Args:
        source: Its samplers and transforms decide which patches are cut and how they are changed; all transforms must
            have a form for devices.
        plan: The configuration of `source`.
        channels: Channels of the images of `source`.
        device: Device that makes the batches.
        placement: Place of the cases; None: the fastest place with room.

    Raises:
        RunError: A case is missing or damaged.
    """
    samplers = (source.training.sampler, source.validation.sampler)
    names = sorted({name for sampler in samplers for name in sampler.case_names})
    read_case = samplers[0].open_case
    placement = placement or find_placement(plan, names, read_case, device=device)
    memory = device if placement.where == "device" else None
    open_case = read_case if placement.where == "disk" else hold_cases(names, read_case, memory).__getitem__
    training, plain, validation = (
        DevicePatchSource(
            sampler=replace(patches.sampler, open_case=open_case),
            augmentation=build_device_augmentation(patches.augmentation),
            channels=len(channels),
            is_2d=plan.dimensions == 2,
            device=device,
            buffer_device=memory or torch.device("cpu"),
        )
        for patches in (source.training, source.plain, source.validation)
    )
    return DeviceBatchSource(
        training=training,
        plain=plain,
        validation=validation,
        seed=source.seed,
        placement=placement,
        stream=torch.cuda.Stream(device) if device.type == "cuda" else None,  # type: ignore[no-untyped-call]
    )


def find_placement(
    plan: ConfigurationPlan,
    case_names: Sequence[str],
    open_case: Callable[[str], CachedCase],
    *,
    device: torch.device,
) -> DataPlacement:
    """Measures the cases and the free memory.

    Raises:
        RunError: A case is missing or damaged.
    """
    size = measure_size(case_names, open_case)
    return place_data(size, device=measure_device_memory(device, plan), host=measure_host_memory())


def stream_device_batches(source: DeviceBatchSource, keys: Iterable[BatchKey], *, threads: int) -> Iterator[Batch]:
    """Yields the batches of the keys, in order, while threads make the next ones.

    Args:
        source: Makes them.
        keys: May be endless.
        threads: Number of threads that cut patches (at least one); where the device cuts, one thread tells it to.

    Raises:
        RunError: A case cannot be read.
    """
    count = 1 if source.placement.where == "device" else max(1, threads)
    pool = ThreadPoolExecutor(
        count, thread_name_prefix="patches", initializer=choose_device, initargs=(source.training.device,)
    )
    ahead: deque[Future[PreparedBatch]] = deque()
    try:
        for key in keys:
            ahead.append(pool.submit(source.prepare, key))
            if len(ahead) > count + BATCHES_AHEAD:
                yield ahead.popleft().result().take()
        while ahead:
            yield ahead.popleft().result().take()
    finally:
        pool.shutdown(cancel_futures=True)


def paste(target: Tensor, source: LazyArray, start: tuple[int, ...], *, border: Border = "zeros") -> None:
    """Copies the part of a case that a cut covers, with what lies beyond by the rule of a border; `target` lies where
    the case does, and is filled beforehand, which is what the rule "zeros" leaves beyond."""
    if border != "zeros":
        _paste_continued(target, source, start, border=border)
        return
    covered, inside = find_overlap(source.shape[-3:], start, tuple(target.shape[-3:]))
    leading = [slice(None)] * (len(source.shape) - 3)
    from_source, to_target = (*leading, *covered), (*leading, *inside)
    if isinstance(source, DeviceArray):
        target[to_target] = source.tensor[from_source]
    else:  # not through torch, whose copy would start threads beside these
        target.numpy()[to_target] = source[from_source]


def _paste_continued(target: Tensor, source: LazyArray, start: tuple[int, ...], *, border: Border) -> None:
    extent = (target.shape[-3], target.shape[-2], target.shape[-1])
    if not isinstance(source, DeviceArray):
        target.numpy()[:] = cut_out(source, start, extent, fill=0, border=border)
        return
    covered, sources = find_continuation(source.shape[-3:], start, extent, border=border)
    part = source.tensor[(*[slice(None)] * (len(source.shape) - 3), *covered)]
    for axis, places in enumerate(sources, start=-3):
        part = part.index_select(axis, copy_to_device(places, part.device))
    target.copy_(part)


def _list_samples(patches: Patches) -> list[tuple[Tensor, Tensor]]:
    return list(zip(patches.image, patches.label_maps, strict=True))
