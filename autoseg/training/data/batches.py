"""Batches for the network, made by worker processes while it computes.

One stream of batch keys runs through the whole training: the training batches of an epoch, its validation batches,
the next epoch. So the workers live as long as the training and prepare the next phase while the current one ends.

Workers come from a fork server, or are spawned where there is none: a plain fork copies a process in which torch's and
TensorBoard's threads, and possibly CUDA, already run, and may wait forever for a lock that no thread of the copy
holds. The price is one start of Python and torch per worker (seconds, once per training), and that a script must
start its training under `if __name__ == "__main__":`.
"""

import itertools
import logging
import math
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch.utils.data import DataLoader, Dataset

from autoseg.dataset.folds import Fold
from autoseg.errors import AutosegError, TrainingError
from autoseg.geometry import add_slice_axis
from autoseg.network_cost import count_voxel_bytes
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.preprocessing import ChannelPlan
from autoseg.preprocessing.cache import CachedCase, open_case
from autoseg.processes.fork_server import defer_interruptions, exit_on_thread_errors, prepare_worker_context
from autoseg.processes.library_output import silence_libraries
from autoseg.processes.parent_watch import exit_with_parent
from autoseg.processes.signals import CTRL_C, TERMINATION_SIGNALS
from autoseg.stages.training_cases import StoredStageInput
from autoseg.training.augmentation.enlarged_patch import compute_enlarged_patch
from autoseg.training.augmentation.pipeline import SampleAugmentation
from autoseg.training.augmentation.transforms import build_transforms
from autoseg.training.data.batch import Batch
from autoseg.training.data.handover import (
    BATCHES_AHEAD_PER_WORKER,
    MEMORY_ADVICE,
    SHARED_ADVICE,
    LeftToCaller,
    SharedBatches,
    WorkerLoad,
    describe_reduction,
    fit_into_shared_memory,
    measure_free_shared_memory,
)
from autoseg.training.data.randomness import BatchKey, Phase, Stream, derive_seeds, seeded_global_generators
from autoseg.training.data.sampling import PatchSampler
from autoseg.training.data.synthetic_cases import SyntheticCases

SECONDS_TO_END: Final = 5.0  # after SIGKILL
Patch = tuple[np.ndarray, np.ndarray]
Announce = Callable[[str], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchSource:
    """Makes finished patches of one stream.

    Attributes:
        augmentation: Turns a cut (image, label map, in a cascade the previous stage's) into a patch.
        is_2d: Cuts are one slice thick, patches have no such axis.
        stacks_slices: The slices of a cut become channels of a patch, whose reference is that of the middle one.
    """

    sampler: PatchSampler
    augmentation: SampleAugmentation
    is_2d: bool
    stacks_slices: bool = False

    def make_patch(self, seeds: np.random.SeedSequence, index: int) -> Patch:
        """Draws sample `index` of a batch and finishes it."""
        image, *label_maps = self.sampler.draw(index, np.random.default_rng(seeds))
        with seeded_global_generators(seeds):
            if self.is_2d:
                return self.augmentation(image[:, 0], *(label_map[0] for label_map in label_maps))
            patch, reference = self.augmentation(image, *label_maps)
        if self.stacks_slices:
            return patch.reshape(-1, *patch.shape[2:]), np.ascontiguousarray(reference[len(reference) // 2])
        return patch, reference


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSource(Dataset[Batch | AutosegError]):
    """Makes any batch of a training from its key alone.

    Attributes:
        batch_bytes: Memory of a batch.
        planes: Number of axes across which the slices of batches lie in turn; 1: those of each sample are drawn.
        training: Makes the patches that are changed by all transforms.
        plain: Makes the training patches after the end of augmentation.
    """

    training: PatchSource
    plain: PatchSource
    validation: PatchSource
    seed: int
    batch_bytes: int
    planes: int = 1

    def __getitem__(self, key: BatchKey) -> Batch | AutosegError:
        """Makes a batch; returns user errors, which would lose their type if a worker process raised them."""
        try:
            return self.make_batch(key)
        except AutosegError as error:
            return error

    def make_batch(self, key: BatchKey) -> Batch:
        """Draws and stacks the samples of a batch."""
        source = key.select(training=self.training, plain=self.plain, validation=self.validation)
        plane = key.find_plane(self.planes)
        source = replace(source, sampler=source.sampler.choose(key, planes=self.planes))
        patches = [source.make_patch(derive_seeds(self.seed, key, index), index) for index in source.sampler.indices]
        return Batch(
            image=torch.from_numpy(np.stack([image for image, _ in patches])),
            label_map=torch.from_numpy(np.stack([label_map for _, label_map in patches])),
            plane=plane,
        )


def build_batch_source(
    plan: ConfigurationPlan,
    channels: Sequence[ChannelPlan],
    *,
    data_folder: Path,
    fold: Fold,
    seed: int,
    previous: StoredStageInput | None = None,
    synthetic: SyntheticCases | None = None,
    part: range | None = None,
) -> BatchSource:
    """Prepares the random patches of a configuration and fold; validation patches are not augmented.

    Args:
        synthetic: Cases that train beside those of the fold; None without them.
        part: Samples of every batch that are made here; None: all.
    """
    assert previous is None or synthetic is None, "no previous stage has predicted synthetic cases"
    transforms, patch = plan.training.transforms, plan.sample_voxels
    lasting = tuple(transform for transform in transforms if transform.lasts)
    masked = tuple(index for index, channel in enumerate(channels) if channel.inside_nonzero_only)
    training, validation = (
        cases if previous is None else previous.list_cases(data_folder, cases)
        for cases in (fold.training, fold.validation)
    )
    samplers = [
        PatchSampler(
            case_names=cases,
            open_case=_choose_opening(data_folder, previous) if drawn is None else drawn.build_opening(data_folder),
            cut_voxels=add_slice_axis(cut, 1),
            patch_voxels=add_slice_axis(patch, 1),
            batch_size=plan.training.batch_size,
            foreground_fraction=plan.training.foreground_fraction,
            foreground_placement=plan.training.foreground_placement,
            foreground_choice=plan.training.foreground_choice,
            margin_voxels=plan.sample_margin_voxels,
            border=plan.sample_border,
            plane_axes=plan.plane_axes,
            part=part,
            synthetic_names=() if drawn is None else drawn.names,
            synthetic_fraction=0.0 if drawn is None else plan.training.synthetic_fraction,
        )
        for cases, cut, drawn in (
            (training, compute_enlarged_patch(patch, transforms), synthetic),
            (training, patch, synthetic),
            (validation, patch, None),
        )
    ]
    is_2d = len(patch) == 2
    stage_input = None if previous is None or not previous.input.plan.has_channels else previous.input
    labels = () if stage_input is None else stage_input.labels.foreground_labels
    augmentations = (
        *(
            SampleAugmentation(
                transforms=build_transforms(chosen, patch, labels), masked_channels=masked, stage_input=stage_input
            )
            for chosen in (transforms, lasting)
        ),
        # Not masked, as in prediction and in the reference implementation.
        SampleAugmentation(transforms=(), masked_channels=(), stage_input=stage_input),
    )
    sources = (
        PatchSource(sampler=sampler, augmentation=augmentation, is_2d=is_2d, stacks_slices=len(patch) > plan.dimensions)
        for sampler, augmentation in zip(samplers, augmentations, strict=True)
    )
    batch_bytes = (
        len(samplers[0].indices) * math.prod(plan.patch_voxels) * count_voxel_bytes(plan.network.input_channels)
    )
    changed, plain, unchanged = sources
    return BatchSource(
        training=changed,
        plain=plain,
        validation=unchanged,
        seed=seed,
        batch_bytes=batch_bytes,
        planes=plan.network.planes,
    )


def _choose_opening(data_folder: Path, previous: StoredStageInput | None) -> Callable[[str], CachedCase]:
    return partial(open_case if previous is None else previous.open_case, data_folder)


def list_batch_keys(
    iterations_per_epoch: int,
    validation_iterations_per_epoch: int,
    *,
    first_epoch: int,
    first_iteration: int = 0,
    find_phase: Callable[[int], Phase] = lambda epoch: Phase(),
) -> Iterator[BatchKey]:
    """Yields the keys of all batches from the first epoch on, without end, in the order of training.

    Args:
        first_iteration: Training iteration at which the first epoch begins.
        find_phase: Finds the phase of an epoch; called when its keys are needed.
    """
    counts: dict[Stream, int] = {"training": iterations_per_epoch, "validation": validation_iterations_per_epoch}
    for epoch in itertools.count(first_epoch):
        keys = (
            BatchKey(stream=stream, epoch=epoch, iteration=iteration, phase=find_phase(epoch))
            for stream, count in counts.items()
            for iteration in range(count)
        )
        yield from itertools.islice(keys, first_iteration if epoch == first_epoch else 0, None)


def stream_batches(
    source: Dataset[Batch | AutosegError],
    keys: Iterable[BatchKey],
    *,
    workers: int,
    device: torch.device,
    batch_bytes: int = 0,
    announce: Announce = logger.info,
) -> Iterator[Batch]:
    """Yields the batches of the keys, in order, made in `workers` processes (0: in this one).

    Fewer processes, or fewer batches ahead, are used where shared memory is short. A batch that does not fit when it
    is made is made again in this process. Both are announced; they change no batch.

    Args:
        source: Makes them.
        keys: May be endless.
        workers: Processes that make batches.
        device: Device that will use the batches.
        batch_bytes: Memory of a batch; 0: unknown.
        announce: Called with what is short, in words.

    Raises:
        AutosegError: A case could not be read, or a worker has died.
    """
    load = _choose_load(WorkerLoad(workers, BATCHES_AHEAD_PER_WORKER), batch_bytes, announce)
    others = multiprocessing.active_children()
    with defer_interruptions():
        try:
            outcomes = iter(_build_loader(source, keys, load, device=device))
        except OSError as error:  # locks lie in shared memory, too
            announce(
                f"worker processes cannot be started ({error}): batches are made between the steps; {SHARED_ADVICE}"
            )
            outcomes = iter(_build_loader(source, keys, WorkerLoad(0, 0), device=device))
    started = [process for process in multiprocessing.active_children() if process not in others]
    is_told = False
    try:
        for outcome in _translate_handover_errors(outcomes, started):
            if isinstance(outcome, LeftToCaller):
                if not is_told:
                    announce(outcome.describe())
                    is_told = True
                outcome = source[outcome.key]
            if isinstance(outcome, AutosegError):
                raise outcome
            yield outcome
    finally:
        _end_workers(outcomes, started)


@contextmanager
def translate_worker_crashes() -> Iterator[None]:
    """Translates torch's report of a dead worker, which may interrupt any line of the main process.

    Raises:
        TrainingError: A worker has died.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(_describe_crash(str(error).splitlines()[0])) from error


def _translate_handover_errors(outcomes: Iterator[Any], workers: Sequence[BaseProcess]) -> Iterator[Any]:
    """Passes the outcomes on; a worker that dies while it hands one over breaks the connection in some way."""
    try:
        yield from outcomes
    except (EOFError, OSError) as error:
        if all(worker.is_alive() for worker in workers):
            raise
        raise TrainingError(_describe_crash(f"{type(error).__name__}: {error}")) from error


def _describe_crash(reason: str) -> str:
    return (
        f"a process that prepares patches has died ({reason}); this is mostly a lack of RAM or, in a container, of "
        f"shared memory (/dev/shm); {MEMORY_ADVICE}"
    )


def _choose_load(wanted: WorkerLoad, batch_bytes: int, announce: Announce) -> WorkerLoad:
    free_bytes = measure_free_shared_memory()
    load = fit_into_shared_memory(wanted, batch_bytes=batch_bytes, free_bytes=free_bytes)
    if load != wanted:
        announce(describe_reduction(wanted, load, batch_bytes=batch_bytes, free_bytes=free_bytes or 0))
    return load


def _build_loader(
    source: Dataset[Batch | AutosegError], keys: Iterable[BatchKey], load: WorkerLoad, *, device: torch.device
) -> DataLoader[Any]:
    return DataLoader(
        SharedBatches(source) if load.workers else source,
        batch_size=None,
        sampler=keys,
        num_workers=load.workers,
        collate_fn=_keep,
        pin_memory=device.type == "cuda",
        prefetch_factor=load.batches_ahead if load.workers else None,
        worker_init_fn=_prepare_worker,
        multiprocessing_context=prepare_worker_context([__name__]) if load.workers else None,
    )


def _end_workers(outcomes: Any, workers: Sequence[BaseProcess]) -> None:
    """Ends the workers: torch asks them to and waits a while for each, and sends a signal that ours ignore."""
    if not workers:
        return
    outcomes._shutdown_workers()
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join(SECONDS_TO_END)


def _prepare_worker(worker: int) -> None:
    """Sets up a worker: one thread, as workers compute in parallel; only the main process handles signals.

    Torch lets SIGTERM end a worker, unseen by Python. Schedulers send it to all processes, and the main one, which
    still finishes its iteration and saves, must not miss what a worker holds. It tells workers to end without signals.
    """
    del worker
    exit_with_parent()
    exit_on_thread_errors()
    silence_libraries()
    torch.set_num_threads(1)
    threadpool_limits(1)
    for name in (CTRL_C, *TERMINATION_SIGNALS):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _keep(outcome: Any) -> Any:
    return outcome
