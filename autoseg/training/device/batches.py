"""Batches made on the device that trains, by threads of the training process: no worker processes, no shared memory.

Where a patch comes from is drawn as for the processor, so both show the network the same places of the same cases. The
cases lie in the device's memory, else in main memory, else they are read from the run; in the last two, threads cut
patches into page-locked memory while the device computes. Rotating, scaling and everything after it happen on the
device, on a stream of their own beside the network's.

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

from autoseg.geometry import IntTriple
from autoseg.plan import ChannelPlan, ConfigurationPlan
from autoseg.preprocessing.cache import CachedCase, LazyArray
from autoseg.preprocessing.case import OUTSIDE_LABEL
from autoseg.stages.training_cases import StoredStageInput
from autoseg.training.batches import BatchSource
from autoseg.training.device.augmentation import DeviceAugmentation, Patches, finish_patches
from autoseg.training.device.data_placement import (
    DataPlacement,
    measure_device_memory,
    measure_host_memory,
    place_data,
)
from autoseg.training.device.held_cases import DeviceArray, hold_cases, measure_size
from autoseg.training.device.masks import DeviceMasks
from autoseg.training.device.parameters import PatchParameters, draw_parameters
from autoseg.training.device.transfer import choose_device, move_to_device
from autoseg.training.randomness import BatchKey, derive_seeds
from autoseg.training.sampling import PatchSampler, find_overlap
from autoseg.training.step import Batch

BATCHES_AHEAD: Final = 2  # beyond those that threads are making


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePatchSource:
    """Makes the patches of one stream.

    Attributes:
        augmentation: None: patches stay as they are cut.
        masks: In the second stage of a cascade, makes channels of what the first one predicts.
        channels: Of an image, without masks.
        buffer_device: Where cuts are put together: beside the cases.
    """

    sampler: PatchSampler
    augmentation: DeviceAugmentation | None
    masks: DeviceMasks | None
    channels: int
    is_2d: bool
    device: torch.device
    buffer_device: torch.device

    def draw_parameters(self, seeds: Sequence[np.random.SeedSequence]) -> PatchParameters | None:
        """How the samples of these seeds are changed; None: not at all."""
        if self.augmentation is None:
            return None
        dimensions = 2 if self.is_2d else 3
        return draw_parameters(self.augmentation.plan, seeds, channels=self.channels, dimensions=dimensions)

    def cut(self, seeds: Sequence[np.random.SeedSequence], is_moved: np.ndarray) -> tuple[Patches, Patches]:
        """Cuts all samples: those that stay still to the size of the patch, those that are moved with surroundings."""
        sampler, moved_count = self.sampler, int(is_moved.sum())
        still = self._allocate(len(seeds) - moved_count, sampler.patch_voxels)
        moved = self._allocate(moved_count, sampler.cut_voxels)
        margin = [cut // 2 - patch // 2 for cut, patch in zip(sampler.cut_voxels, sampler.patch_voxels, strict=True)]
        targets = [*_list_samples(still), *_list_samples(moved)]
        for (image, label_maps), index in zip(targets, np.argsort(is_moved, kind="stable").tolist(), strict=True):
            cut = sampler.place(sampler.indices[index], np.random.default_rng(seeds[index]))
            start = cut.start if is_moved[index] else tuple(np.add(cut.start, margin).tolist())
            paste(image, cut.case.image, start)
            for label_map, source in zip(label_maps, cut.case.maps, strict=True):
                paste(label_map, source, start)
        return still, moved

    def finish(
        self,
        still: Patches,
        moved: Patches,
        parameters: PatchParameters | None,
        seeds: Sequence[np.random.SeedSequence],
    ) -> Batch:
        """Brings cuts to the device and turns them into what the network gets."""
        still, moved = self._bring(still), self._bring(moved)
        if self.augmentation is None or parameters is None:
            patches = finish_patches(still, ())  # not masked, as in prediction and in the reference implementation
        else:
            patches = self.augmentation(still=still, moved=moved, parameters=parameters)
        image = patches.image
        if self.masks is not None:
            image = torch.cat([image, self.masks(patches.label_maps[:, 1], seeds).to(image.dtype)], dim=1)
        return Batch(image=image, label_map=patches.label_maps[:, 0].contiguous())

    def _allocate(self, count: int, extent_voxels: IntTriple) -> Patches:
        is_pinned = self.device.type == "cuda" and self.buffer_device.type == "cpu" and count > 0
        maps = 1 if self.masks is None else 2
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
        """The batch, for use on the current stream, which waits for it; the processor does not."""
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
        placement: Where the cases lie, and why there.
        stream: On which the device makes batches; None where there are no streams.
    """

    training: DevicePatchSource
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
        source = self.training if key.stream == "training" else self.validation
        seeds = [derive_seeds(self.seed, key, index) for index in source.sampler.indices]
        parameters = source.draw_parameters(seeds)
        is_moved = np.zeros(len(seeds), dtype=bool) if parameters is None else parameters.is_moved
        with self._on_stream():
            still, moved = source.cut(seeds, is_moved)
            with self._lock:
                batch = source.finish(still, moved, parameters, seeds)
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
    previous: StoredStageInput | None = None,
    placement: DataPlacement | None = None,
) -> DeviceBatchSource:
    """Makes the batches of `source` on the device; reads the cases into memory if there is room.

    Args:
        source: Whose samplers decide which patches are cut.
        plan: The configuration of `source`.
        channels: Of its images.
        device: That computes.
        previous: The stage whose predictions `source` opens with the cases, if it does.
        placement: Where to keep the cases; None: the fastest place with room.

    Raises:
        RunError: A case is missing or damaged.
    """
    samplers = (source.training.sampler, source.validation.sampler)
    names = sorted({name for sampler in samplers for name in sampler.case_names})
    read_case = samplers[0].open_case
    placement = placement or find_placement(plan, names, read_case, device=device)
    memory = device if placement.where == "device" else None
    open_case = read_case if placement.where == "disk" else hold_cases(names, read_case, memory).__getitem__
    masked = tuple(index for index, channel in enumerate(channels) if channel.inside_nonzero_only)
    plan_of_changes = plan.training.augmentation
    augmentation = DeviceAugmentation(plan=plan_of_changes, patch_voxels=plan.patch_voxels, masked_channels=masked)
    training, validation = (
        DevicePatchSource(
            sampler=replace(sampler, open_case=open_case),
            augmentation=change,
            masks=None
            if previous is None
            else DeviceMasks(input=previous.input, plan=None if change is None else plan_of_changes),
            channels=len(channels),
            is_2d=plan.dimensions == 2,
            device=device,
            buffer_device=memory or torch.device("cpu"),
        )
        for sampler, change in zip(samplers, (augmentation, None), strict=True)
    )
    return DeviceBatchSource(
        training=training,
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
        threads: That cut patches (at least one); where the device cuts, one thread tells it to.

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


def paste(target: Tensor, source: LazyArray, start: tuple[int, ...]) -> None:
    """Copies the part of a case that a cut covers; `target` lies where the case does, and is filled beforehand."""
    covered, inside = find_overlap(source.shape[-3:], start, tuple(target.shape[-3:]))
    leading = [slice(None)] * (len(source.shape) - 3)
    from_source, to_target = (*leading, *covered), (*leading, *inside)
    if isinstance(source, DeviceArray):
        target[to_target] = source.tensor[from_source]
    else:  # not through torch, whose copy would start threads beside these
        target.numpy()[to_target] = source[from_source]


def _list_samples(patches: Patches) -> list[tuple[Tensor, Tensor]]:
    return list(zip(patches.image, patches.label_maps, strict=True))
