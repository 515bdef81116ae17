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

from autoseg.geometry import Borders, IntTriple
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.preprocessing import ChannelPlan
from autoseg.preprocessing.cache import CachedCase
from autoseg.preprocessing.case import OUTSIDE_LABEL
from autoseg.preprocessing.stored_array import LazyArray
from autoseg.runtime.streams import find_stream
from autoseg.training.augmentation.pipeline import BatchParameters, DeviceAugmentation, build_device_augmentation
from autoseg.training.augmentation.tensors.transfer import choose_device, copy_together, move_to_device
from autoseg.training.augmentation.transform import Patches
from autoseg.training.data.axis_order import order_axes
from autoseg.training.data.batch import Batch
from autoseg.training.data.batches import BatchSource
from autoseg.training.data.case_store import CaseStore, store_cases
from autoseg.training.data.data_placement import (
    DataPlacement,
    measure_device_memory,
    measure_host_memory,
    place_data,
)
from autoseg.training.data.held_cases import hold_cases, measure_size
from autoseg.training.data.randomness import BatchKey, derive_seeds
from autoseg.training.data.sampling import Cut, PatchSampler, cut_out, find_overlap

BATCHES_AHEAD: Final = 2  # beyond those that threads are making


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePatchSource:
    """Makes the patches of one stream.

    Attributes:
        augmentation: Turns cuts into what the network gets.
        channels: Channels of an image, without masks.
        store: The cases in the memory of the device; None: they are in RAM, or on disk.
    """

    sampler: PatchSampler
    augmentation: DeviceAugmentation
    channels: int
    is_2d: bool
    stacks_slices: bool
    device: torch.device
    store: CaseStore | None

    def place(self, seeds: Sequence[np.random.SeedSequence]) -> list[Cut]:
        """Draws where the samples of these seeds come from: enlarged cuts."""
        numbered = zip(self.sampler.indices, seeds, strict=True)
        return [self.sampler.place(index, np.random.default_rng(sample)) for index, sample in numbered]

    def cut(self, cuts: Sequence[Cut], is_warped: np.ndarray) -> tuple[Patches, Patches]:
        """Reads the samples from cases in RAM or on disk: unwarped ones in the size of the patch, warped ones with
        surroundings."""
        unwarped, warped = self._divide(cuts, is_warped)
        return self._read(unwarped, self.sampler.patch_voxels), self._read(warped, self.sampler.cut_voxels)

    def finish(self, cuts: Sequence[Cut], parameters: BatchParameters, read: tuple[Patches, Patches] | None) -> Batch:
        """Turns cuts into the input of the network, on the device.

        Args:
            cuts: Places from which the samples are cut.
            parameters: Parameters of the samples.
            read: Patches that `cut` has read; None if the store holds the cases.
        """
        of_places = [np.flatnonzero(~parameters.is_warped)] if read else self._find_voxels(cuts, parameters.is_warped)
        of_parameters = [array for group in parameters.arrays for array in group]
        moved = copy_together([*of_places, *of_parameters], self.device)
        places, arrays = moved[: len(of_places)], moved[len(of_places) :]
        patches, warped = self._bring(read, places[0], len(cuts)) if read else self._gather(places)
        image, label_map = self.augmentation(
            patches=self._flatten(patches), cuts=self._flatten(warped), parameters=parameters, arrays=arrays
        )
        if self.stacks_slices:
            image, label_map = image.flatten(1, 2), label_map[:, label_map.shape[1] // 2].contiguous()
        return Batch(image=image, label_map=label_map)

    def _divide(self, cuts: Sequence[Cut], is_warped: np.ndarray) -> tuple[list[Cut], list[Cut]]:
        """Divides samples into unwarped and warped ones; unwarped ones begin where their patch does."""
        numbered = list(zip(cuts, is_warped.tolist(), strict=True))
        return [self._shrink(cut) for cut, flag in numbered if not flag], [cut for cut, flag in numbered if flag]

    def _shrink(self, cut: Cut) -> Cut:
        """Returns the patch in the middle of a cut."""
        extents = zip(cut.start, self.sampler.cut_voxels, self.sampler.patch_voxels, strict=True)
        return replace(cut, start=tuple(start + outer // 2 - inner // 2 for start, outer, inner in extents))

    def _read(self, cuts: Sequence[Cut], extent_voxels: IntTriple) -> Patches:
        is_pinned = self.device.type == "cuda" and len(cuts) > 0
        maps = 1 if self.augmentation.stage_input is None else 2
        image_shape, maps_shape = (len(cuts), self.channels, *extent_voxels), (len(cuts), maps, *extent_voxels)
        image = torch.zeros(image_shape, pin_memory=is_pinned)
        label_maps = torch.zeros(maps_shape, dtype=torch.int16, pin_memory=is_pinned).fill_(OUTSIDE_LABEL)
        for cut, of_image, of_maps in zip(cuts, image.numpy(), label_maps.numpy(), strict=True):
            paste(of_image, order_axes(cut.case.image, cut.axes), cut.start, fill=0, border=self.sampler.border)
            for target, source in zip(of_maps, cut.case.maps, strict=True):
                paste(target, order_axes(source, cut.axes), cut.start, fill=OUTSIDE_LABEL, border=self.sampler.border)
        return Patches(image=image, label_maps=label_maps)

    def _bring(self, read: tuple[Patches, Patches], unwarped: Tensor, count: int) -> tuple[Patches, Patches]:
        """Copies what was read to the device, and puts the patches into the order of the batch."""
        patches, warped = (
            Patches(
                image=move_to_device(some.image, self.device), label_maps=move_to_device(some.label_maps, self.device)
            )
            for some in read
        )
        image, label_maps = (
            part.new_empty((count, *part.shape[1:])).index_copy_(0, unwarped, part)
            for part in (patches.image, patches.label_maps)
        )
        return Patches(image=image, label_maps=label_maps), warped

    def _find_voxels(self, cuts: Sequence[Cut], is_warped: np.ndarray) -> list[np.ndarray]:
        """Finds all patches in the store, so that their number is always the same, and the cuts of warped ones."""
        assert self.store is not None
        patches, warped = list(map(self._shrink, cuts)), self._divide(cuts, is_warped)[1]
        sampler = self.sampler
        return [
            *self.store.find_voxels(patches, sampler.patch_voxels, border=sampler.border),
            *self.store.find_voxels(warped, sampler.cut_voxels, border=sampler.border),
        ]

    def _gather(self, places: Sequence[Tensor]) -> tuple[Patches, Patches]:
        assert self.store is not None
        return self.store.gather(places[:3]), self.store.gather(places[3:])

    def _flatten(self, patches: Patches) -> Patches:
        if not self.is_2d:
            return patches
        return Patches(image=patches.image[:, :, 0], label_maps=patches.label_maps[:, :, 0])


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
        planes: Number of axes across which the slices of batches lie in turn; 1: those of each sample are drawn.
    """

    training: DevicePatchSource
    plain: DevicePatchSource
    validation: DevicePatchSource
    seed: int
    placement: DataPlacement
    stream: torch.cuda.Stream | None
    planes: int = 1
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
        plane = key.find_plane(self.planes)
        source = replace(source, sampler=source.sampler.choose(key, planes=self.planes))
        seeds = [derive_seeds(self.seed, key, index) for index in source.sampler.indices]
        cuts = source.place(seeds)
        parameters = source.augmentation.draw(seeds, channels=source.channels)
        with self._on_stream():
            read = source.cut(cuts, parameters.is_warped) if source.store is None else None
            with self._lock:
                batch = replace(source.finish(cuts, parameters, read), plane=plane)
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
    names = sorted({name for sampler in samplers for name in sampler.all_names})
    read_case = samplers[0].open_case
    placement = placement or find_placement(plan, names, read_case, device=device)
    store = store_cases(names, read_case, device) if placement.where == "device" else None
    open_case = _choose_opening(names, read_case, store, is_held=placement.where == "host")
    training, plain, validation = (
        DevicePatchSource(
            sampler=replace(patches.sampler, open_case=open_case),
            augmentation=build_device_augmentation(patches.augmentation),
            channels=len(channels),
            is_2d=patches.is_2d,
            stacks_slices=patches.stacks_slices,
            device=device,
            store=store,
        )
        for patches in (source.training, source.plain, source.validation)
    )
    return DeviceBatchSource(
        training=training,
        plain=plain,
        validation=validation,
        seed=source.seed,
        placement=placement,
        planes=source.planes,
        stream=find_stream(device, "batches") if device.type == "cuda" else None,
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


def paste(
    target: np.ndarray, source: LazyArray, start: tuple[int, ...], *, fill: int = 0, border: Borders = "zeros"
) -> None:
    """Copies the part of a case that a cut covers, with what lies beyond by the rule of a border; `target` is filled
    beforehand, which is what the rule "zeros" leaves beyond where it holds along all axes."""
    if border != "zeros":
        target[:] = cut_out(source, start, target.shape[-3:], fill=fill, border=border)
        return
    covered, inside = find_overlap(source.shape[-3:], start, target.shape[-3:])
    leading = [slice(None)] * (len(source.shape) - 3)
    target[(*leading, *inside)] = source[(*leading, *covered)]


def _choose_opening(
    case_names: Sequence[str],
    read_case: Callable[[str], CachedCase],
    store: CaseStore | None,
    *,
    is_held: bool,
) -> Callable[[str], CachedCase]:
    if store is not None:
        return store.cases.__getitem__
    return hold_cases(case_names, read_case).__getitem__ if is_held else read_case
