"""Time and memory of training and predicting with a planned network on a device, measured on random patches."""

import gc
import time
from statistics import median
from typing import Final

import torch

from autoseg.labels import LabelScheme
from autoseg.network_cost import StepCost, estimate_host_training_bytes
from autoseg.networks.cost import measure_cost
from autoseg.plan.document import ConfigurationPlan
from autoseg.runtime.device import select_kernels
from autoseg.runtime.precision import DtypeName
from autoseg.training.data.batch import Batch
from autoseg.training.learner import Learner
from autoseg.training.step import build_learner, run_training_step, run_validation_step

WARMING_STEPS: Final = 2  # kernels are chosen, memory is reserved
MOST_STEPS: Final = 5
LONGEST_SECONDS: Final = 20.0


def time_network(plan: ConfigurationPlan, labels: LabelScheme, *, device: torch.device, dtype: DtypeName) -> StepCost:
    """Trains a few steps and validates one, with weights that are thrown away; frees what that took.

    Patches are not made: a GPU makes the next ones while the network trains.

    Raises:
        torch.OutOfMemoryError: The device's memory does not hold the network and a batch.
    """
    select_kernels(device, deterministic=False)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        return _time(plan, labels, device, dtype)
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _time(plan: ConfigurationPlan, labels: LabelScheme, device: torch.device, dtype: DtypeName) -> StepCost:
    learner = build_learner(plan, labels, device=device, seed=0, dtype=dtype)
    batch = draw_random_batch(plan, labels)
    learner.train()
    step = _time_steps(learner, batch)
    peak_bytes = _read_peak(plan, device, dtype)
    learner.train(is_training=False)
    run_validation_step(learner, batch)  # looks for kernels
    begin = time.perf_counter()
    run_validation_step(learner, batch)
    validation = time.perf_counter() - begin
    return StepCost(
        iteration_seconds=step,
        validation_seconds=validation,
        window_seconds=validation / plan.training.batch_size,
        memory_bytes=peak_bytes,
    )


def draw_random_batch(plan: ConfigurationPlan, labels: LabelScheme) -> Batch:
    """Draws a batch of noise on the CPU."""
    generator = torch.Generator().manual_seed(0)
    size, patch = plan.training.batch_size, plan.patch_voxels
    highest = len(labels.foreground_labels) + 1
    return Batch(
        image=torch.randn((size, plan.network.input_channels, *patch), generator=generator),
        label_map=torch.randint(highest, (size, *patch), generator=generator, dtype=torch.int16),
    )


def _time_steps(learner: Learner, batch: Batch) -> float:
    """Returns the median time of the steps after the first ones; every step returns its loss and so synchronizes."""
    times: list[float] = []
    while len(times) <= WARMING_STEPS or (len(times) < WARMING_STEPS + MOST_STEPS and sum(times) < LONGEST_SECONDS):
        begin = time.perf_counter()
        run_training_step(learner, batch)
        times.append(time.perf_counter() - begin)
    return median(times[WARMING_STEPS:])


def _read_peak(plan: ConfigurationPlan, device: torch.device, dtype: DtypeName) -> int:
    """Returns the peak memory that PyTorch reserved; estimated for devices that share the computer's RAM."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    cost = measure_cost(plan.network, plan.patch_voxels, plan.training.batch_size)
    return estimate_host_training_bytes(plan, dtype, cost)
