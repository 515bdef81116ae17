"""Time and memory of training and predicting with a planned network on a device, measured on random patches."""

import gc
import logging
import math
import time
from functools import partial
from statistics import median
from typing import Final

import torch

from autoseg.labels import LabelScheme
from autoseg.network_cost import StepCost, estimate_host_training_bytes
from autoseg.networks.cost import measure_cost
from autoseg.plan.document import ConfigurationPlan
from autoseg.runtime.device import select_kernels
from autoseg.runtime.precision import DtypeName
from autoseg.training.data.batch import Batch, draw_random_batch
from autoseg.training.execution_choice import choose_execution
from autoseg.training.learner import Learner
from autoseg.training.step import build_learner, run_training_step, run_validation_step

WARMING_STEPS: Final = 2  # kernels are chosen, memory is reserved
MOST_STEPS: Final = 5
LONGEST_SECONDS: Final = 20.0

logger = logging.getLogger(__name__)


def time_network(plan: ConfigurationPlan, labels: LabelScheme, *, device: torch.device, dtype: DtypeName) -> StepCost:
    """Trains a few steps and validates one, with weights that are thrown away; frees what that took.

    A GPU executes the network as training would, but that it neither compiles nor tries variants of the fastest
    execution. Patches are not made: a GPU makes the next ones while the network trains.

    Raises:
        torch.OutOfMemoryError: The device's memory does not hold the network and a batch.
    """
    select_kernels(device, deterministic=False)
    build = partial(build_learner, plan, labels, device=device, seed=0, dtype=dtype)
    batch = draw_random_batch(
        plan.training.batch_size,
        plan.network.input_channels,
        plan.patch_voxels,
        highest_label=len(labels.foreground_labels) + 1,
    )
    try:
        execution = None
        if measures_execution(device):
            execution = choose_execution(
                lambda execution: build(execution=execution),
                batch,
                iterations=1,
                announce=logger.info,
                pays_from_seconds=math.inf,
            )
            _free_memory(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        return _time(plan, build(execution=execution), batch)
    finally:
        _free_memory(device)


def measures_execution(device: torch.device) -> bool:
    """Returns whether training measures the fastest execution on a device."""
    return device.type == "cuda"


def _free_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _time(plan: ConfigurationPlan, learner: Learner, batch: Batch) -> StepCost:
    learner.train()
    step = _time_steps(learner, batch)
    peak_bytes = _read_peak(plan, learner.device, learner.dtype)
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


def _time_steps(learner: Learner, batch: Batch) -> float:
    """Returns the median time of the steps after the first ones; every step returns its loss and so synchronizes."""
    times: list[float] = []
    warming = WARMING_STEPS if learner.graph is None else WARMING_STEPS + 1  # in which it is captured
    while len(times) <= warming or (len(times) < warming + MOST_STEPS and sum(times) < LONGEST_SECONDS):
        begin = time.perf_counter()
        run_training_step(learner, batch)
        times.append(time.perf_counter() - begin)
    return median(times[warming:])


def _read_peak(plan: ConfigurationPlan, device: torch.device, dtype: DtypeName) -> int:
    """Returns the peak memory that PyTorch reserved; estimated for devices that share the computer's RAM."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    cost = measure_cost(plan.network, plan.patch_voxels, plan.training.batch_size)
    return estimate_host_training_bytes(plan, dtype, cost)
