"""Sliding-window inference: logits of a whole preprocessed volume from overlapping windows.

2D and 3D configurations share one path: for a 2D network a window is one slice thick, so that a batch holds
neighbouring slices.
"""

import gc
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeVar

import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.nn import functional

from autoseg.errors import PredictionError
from autoseg.geometry import Borders, find_border_sources, list_borders
from autoseg.inference.sliding_window.mirroring import (
    ChannelExchange,
    list_mirrored_axes,
    predict_mirrored,
    restore_views,
)
from autoseg.inference.sliding_window.windows import Window, WindowPlan, compute_blending_weights, compute_window_plan
from autoseg.plan.document import ConfigurationPlan
from autoseg.runtime.captured_network import release_captured
from autoseg.runtime.cpu_threads import adaptive_cpu_threads
from autoseg.runtime.device import is_out_of_memory, measure_free_memory, translate_memory_errors
from autoseg.runtime.streams import copy_to_device, start_copy_to_cpu

OnWindow = Callable[[int, int], None]

FLOAT_BYTES: Final = 4
STORAGE_SHARE: Final = 0.5
"""Fraction of the free device memory that image and logits may take (guess); the rest is for the network."""
CPU_BATCH_VOXELS: Final = 2**15
"""Voxels of a batch on the CPU where nothing was measured. With a U-Net of four stages in single precision on two
cores, slices of 56 x 40 voxels take 8.6 ms each alone and 3.7 ms in a batch of 8; 256 x 256 slices and 40 x 56 x 40
patches are as fast in a batch of 2 and slower in larger ones."""
CPU: Final = torch.device("cpu")
MEMORY_ADVICE: Final = (
    "close what else uses it, predict with fewer folds (--fold), or on another device (--device cpu needs RAM instead)"
)

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    networks: tuple[nn.Module, ...]
    image: Tensor
    configuration: ConfigurationPlan
    window_plan: WindowPlan
    mirror_axes: tuple[int, ...]
    exchange: ChannelExchange | None
    inference_batch_size: int
    device: torch.device
    on_window: OnWindow | None


def predict_logits(
    networks: nn.Module | Sequence[nn.Module],
    image: Float32[Tensor, "channel z y x"],
    *,
    configuration: ConfigurationPlan,
    mirror_axes: Sequence[int],
    exchange: ChannelExchange | None = None,
    device: torch.device,
    step_fraction: float = 0.5,
    inference_batch_size: int | None = None,
    on_window: OnWindow | None = None,
) -> Float32[Tensor, "class z y x"]:
    """Averages the logits of all networks, windows and mirrored views.

    The result has the grid of the image. It is on `device` if it fits there beside the network, else in RAM, which is
    logged. All sums are in single precision: in half precision, the smallest weights of a window vanish. Consecutive
    windows in which every channel has the same constant value, such as clipped air, are predicted only once and without
    mirrored views.

    Args:
        networks: One network, or the folds of an ensemble, on `device`. They return a tuple of logits, the highest
            resolution first. They are in evaluation mode while predicting.
        image: The preprocessed image in plan axes, on any device.
        configuration: Plan of the configuration.
        mirror_axes: Axes of the patch for test-time mirroring; empty for none.
        exchange: Channels that mirroring along its axis exchanges.
        device: The device of the networks.
        step_fraction: Distance of neighbouring windows as a fraction of a window, which has the extents of the output.
        inference_batch_size: Inference batch size, counting every mirrored view; None for that of
            `compute_inference_batch_size`.
        on_window: Called after each batch with the number of finished windows and of all windows.

    Raises:
        DeviceError: Not even one patch fits on the device.
        PredictionError: The network's output is not finite.
    """
    members = (networks,) if isinstance(networks, nn.Module) else tuple(networks)
    job = _Job(
        networks=members,
        image=image,
        configuration=configuration,
        window_plan=compute_window_plan(image.shape[1:], configuration, step_fraction),
        mirror_axes=tuple(mirror_axes),
        exchange=exchange,
        inference_batch_size=inference_batch_size or compute_inference_batch_size(configuration, device),
        device=device,
        on_window=on_window,
    )
    with torch.inference_mode(), switch_to_evaluation(members), adaptive_cpu_threads(device):
        padded = _blend_in_memory(job)
        _check_finite_output(job, padded)
    return _remove_padding(padded, job.window_plan)


def compute_inference_batch_size(configuration: ConfigurationPlan, device: torch.device) -> int:
    """Computes the inference batch size where nothing was measured.

    On a GPU it is that of training, which fits, as prediction keeps nothing for a backward pass. On a CPU only small
    patches are faster in batches, see `CPU_BATCH_VOXELS`.
    """
    if device.type == "cpu":
        return max(1, CPU_BATCH_VOXELS // math.prod(configuration.patch_voxels))
    return configuration.training.batch_size


def _blend_in_memory(job: _Job) -> Tensor:
    """Blends the windows; where memory does not suffice, with fewer patches at once, then with the sums in RAM.

    Raises:
        DeviceError: Not even one patch fits.
    """

    def blend(count: int) -> Tensor:
        work = partial(_blend_windows, replace(job, inference_batch_size=count))
        storage = select_storage_device(job.device, _count_stored_bytes(job))
        return retry_in_ram(work, storage) if count == 1 else work(storage)

    return retry_with_fewer_patches(blend, job.inference_batch_size, device=job.device, networks=job.networks)


def retry_with_fewer_patches(
    work: Callable[[int], Result], count: int, *, device: torch.device, networks: Sequence[nn.Module]
) -> Result:
    """Computes with so many patches at once, and again with half of them while memory does not suffice for several."""
    while count > 1:
        try:
            return work(count)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        count //= 2
        logger.warning("%s ran out of memory; predicting this volume again with the batch size %d", device, count)
        release_captured(networks)
        _release_memory()
    return work(count)


def retry_in_ram(work: Callable[[torch.device], Tensor], storage: torch.device) -> Tensor:
    """Computes with the sums on `storage`, and again with them in RAM if the device is out of memory.

    Raises:
        DeviceError: The device is too small nevertheless.
    """
    if storage.type != "cpu":
        try:
            return work(storage)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        logger.warning("%s ran out of memory; predicting this volume again with the sums in RAM", storage)
        _release_memory()
    with translate_memory_errors(storage, purpose="the network and one patch", advice=MEMORY_ADVICE):
        return work(CPU)


def _release_memory() -> None:
    """Returns the memory of failed attempts to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def select_storage_device(device: torch.device, needed_bytes: int) -> torch.device:
    """Selects the device for image and logits: `device` if they take at most `STORAGE_SHARE` of its free memory."""
    if device.type != "cuda":
        return device
    if needed_bytes <= STORAGE_SHARE * measure_free_memory(device):
        return device
    logger.info("image and logits need %.1f GiB: they are kept in RAM", needed_bytes / 2**30)
    return CPU


def _count_stored_bytes(job: _Job) -> int:
    channels = job.image.shape[0] + job.configuration.network.output_channels
    return FLOAT_BYTES * channels * job.image[0].numel()


def _blend_windows(job: _Job, storage: torch.device) -> Tensor:
    plan = job.window_plan
    padded = _add_padding(job.image, plan, border=job.configuration.sample_border)
    image = padded.to(storage)
    extents = (sum(counts) + extent for counts, extent in zip(plan.padding_voxels, job.image.shape[1:], strict=True))
    logits = torch.zeros((job.configuration.network.output_channels, *extents), device=storage)
    shares = [
        copy_to_device(torch.from_numpy(compute_blending_weights(starts, extent)), job.device)
        for starts, extent in zip(plan.starts, plan.window_voxels, strict=True)
    ]
    done, late = 0, _LateSums(logits=logits)
    for windows, predictions in _predict_windows(job, image, seen=padded):
        for window, prediction in zip(windows, predictions, strict=True):
            z, y, x = (axis[index] for axis, index in zip(shares, window, strict=True))
            share = z[:, None, None] * y[:, None] * x
            if storage == job.device:
                logits[plan.locate(window)].addcmul_(prediction, share)
            else:
                late.add(plan.locate(window), prediction.mul_(share))
        late.finish(but=len(windows))
        done += len(windows)
        if job.on_window is not None:
            job.on_window(done, len(plan.windows))
    late.finish()
    return logits


@dataclass(slots=True, kw_only=True)
class _LateSums:
    """Adds what the device computed to logits in RAM while it computes the next windows, in their order."""

    logits: Tensor
    _waiting: list[tuple[tuple[slice, ...], Callable[[], Tensor]]] = field(default_factory=list)

    def add(self, place: tuple[slice, ...], values: Tensor) -> None:
        """Starts to copy values that are to be added."""
        self._waiting.append((place, start_copy_to_cpu(values)))

    def finish(self, *, but: int = 0) -> None:
        """Adds all values but the last ones."""
        while len(self._waiting) > but:
            place, wait = self._waiting.pop(0)
            self.logits[place].add_(wait().to(self.logits.device))


def _predict_windows(job: _Job, image: Tensor, *, seen: Tensor) -> Iterator[tuple[list[Window], Tensor]]:
    """Yields groups of windows with their logits, every window once.

    Args:
        seen: The image on its original device. Reading one on the GPU would synchronize with all its computations.
    """
    views = len(list(list_mirrored_axes(job.mirror_axes)))
    group_size = max(1, job.inference_batch_size // views)
    waiting: list[Window] = []
    last: tuple[tuple[float, ...], Tensor] | None = None
    for window in job.window_plan.windows:
        constants = _find_constants(seen[job.window_plan.locate_patch(window)])
        if constants is None:
            waiting.append(window)
            if len(waiting) == group_size:
                yield waiting, _predict_patches(job, _cut(job, image, waiting))
                waiting = []
        else:
            if last is None or last[0] != constants:
                last = constants, _predict_constant(job, _cut(job, image, [window]))
            yield [window], last[1].clone()
    if waiting:
        yield waiting, _predict_patches(job, _cut(job, image, waiting))


def _find_constants(patch: Tensor) -> tuple[float, ...] | None:
    """Returns the value of every channel if all are constant, else None."""
    corner = patch[:, 0, 0, 0]
    # Opposite corners of a window are seldom equal unless the window is constant: most windows need no further check.
    if not torch.equal(corner, patch[:, -1, -1, -1]):
        return None
    is_constant = bool((patch == corner[:, None, None, None]).all())
    return tuple(corner.tolist()) if is_constant else None


def _cut(job: _Job, image: Tensor, windows: Sequence[Window]) -> Tensor:
    patches = torch.stack([image[job.window_plan.locate_patch(window)] for window in windows])
    return copy_to_device(patches, job.device)


def _predict_patches(job: _Job, patches: Tensor) -> Tensor:
    """Averages over networks and mirrored views; a slice loses its first axis for a 2D network."""
    is_slice = len(job.configuration.sample_voxels) == 2
    inputs = patches.squeeze(2) if is_slice else patches
    logits = _average(
        predict_mirrored(
            network, inputs, job.mirror_axes, inference_batch_size=job.inference_batch_size, exchange=job.exchange
        )
        for network in _list_networks(job)
    )
    return logits.unsqueeze(2) if is_slice else logits


def _predict_constant(job: _Job, patch: Tensor) -> Tensor:
    """Does as `_predict_patches` for a patch that equals its mirrored views: one pass per network is enough."""
    is_slice = len(job.configuration.sample_voxels) == 2
    inputs = patch.squeeze(2) if is_slice else patch
    views = list(list_mirrored_axes(job.mirror_axes))
    logits = _average(
        _average(restore_views(plain, axes, job.exchange) for axes in views)
        for plain in (network(inputs)[0] for network in _list_networks(job))
    )
    return logits.unsqueeze(2) if is_slice else logits


def _list_networks(job: _Job) -> list[Callable[[Tensor], Sequence[Tensor]]]:
    """Lists the networks as functions of patches; slices become channels, in the order in which a view shows them."""
    if not job.configuration.context_slices:
        return list(job.networks)
    return [partial(_predict_middle_slice, network) for network in job.networks]


def _predict_middle_slice(network: nn.Module, patches: Tensor) -> Sequence[Tensor]:
    return (network(patches.flatten(1, 2))[0].unsqueeze(2),)


def _average(predictions: Iterable[Tensor]) -> Tensor:
    count, total = 0, torch.zeros(())
    for prediction in predictions:
        total = total.add_(prediction) if count else prediction.float().clone()
        count += 1
    return total.div_(count)


def _add_padding(image: Tensor, plan: WindowPlan, *, border: Borders) -> Tensor:
    zeros = []
    for axis, ((below, above), rule) in enumerate(
        zip(plan.image_padding_voxels, list_borders(border), strict=True), start=1
    ):
        zeros.append((below, above) if rule == "zeros" else (0, 0))
        if rule != "zeros" and below + above:
            extent = image.shape[axis]
            sources = find_border_sources(extent, -below, below + extent + above, border=rule)
            image = image.index_select(axis, torch.from_numpy(sources).to(image.device))
    counts = [count for pair in reversed(zeros) for count in pair]
    return functional.pad(image, counts) if any(counts) else image


def _remove_padding(padded: Tensor, plan: WindowPlan) -> Tensor:
    inside = (
        slice(below, extent - above)
        for (below, above), extent in zip(plan.padding_voxels, padded.shape[1:], strict=True)
    )
    return padded[(slice(None), *inside)]


def _check_finite_output(job: _Job, logits: Tensor) -> None:
    """Checks that all logits are finite, by a sum per class, which needs no mask.

    Raises:
        PredictionError: Some logit is infinite or not a number.
    """
    sums = torch.stack([volume.sum() for volume in logits])  # read at once, so that a GPU is waited for once
    broken = [index for index, is_finite in enumerate(torch.isfinite(sums).tolist()) if not is_finite]
    if broken:
        msg = (
            f"the network's output must be finite, found infinite values or NaN in channel(s) {broken}; "
            f"{explain_broken_output(job.image, job.networks, job.device)}"
        )
        raise PredictionError(msg)


def explain_broken_output(image: Tensor, networks: Sequence[nn.Module], device: torch.device) -> str:
    """Explains where infinite values or NaN in the output of networks come from, and what to do."""
    if not bool(torch.isfinite(image).all()):
        return (
            "the preprocessed image holds some itself: check the case (autoseg check DATASET), remove its files from "
            "the folder preprocessed of the run, and write them again (autoseg preprocess RUN)"
        )
    if not all(bool(torch.isfinite(weight).all()) for network in networks for weight in network.parameters()):
        return "the weights of the network hold some, so its training diverged: train again"
    if device.type == "cpu":
        largest = float(image.abs().max())
        return (
            f"image (at most {largest:.3g} after preprocessing) and weights are finite, so numbers overflow inside the "
            f"network: look for odd intensities in the image, or train again"
        )
    return "half precision may have overflowed: predict with --precision float32, or train again if that does not help"


@contextmanager
def switch_to_evaluation(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Puts networks into evaluation mode, and back at the end."""
    modes = [network.training for network in networks]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for network, is_training in zip(networks, modes, strict=True):
            network.train(is_training)
