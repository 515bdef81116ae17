"""Measurement of the time of an iteration, with the network, patches and device of the training."""

import math
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Final

import torch
from torch import Tensor

from autoseg.training.budget.pace import StepTimes
from autoseg.training.data.batch import Batch
from autoseg.training.data.randomness import BatchKey
from autoseg.training.learner import Learner
from autoseg.training.step import run_training_step, run_validation_step

WARMING_ITERATIONS: Final = 2  # the first ones reserve memory and look for kernels
FEWEST_ITERATIONS: Final = 3
MOST_ITERATIONS: Final = 20
LONGEST_SECONDS: Final = 20.0
LARGEST_SHARE: Final = 0.03  # of a budget


def measure_step_times(
    learner: Learner,
    batches: Iterator[Batch],
    make_batch: Callable[[BatchKey], Batch],
    *,
    budget_seconds: float = math.inf,
) -> StepTimes:
    """Trains a few iterations and times them. The learner must be thrown away: it has learnt.

    The whole iteration is timed first, with patches made beside it by as many processes as in training; its parts are
    timed on a batch that is already there.

    Args:
        learner: Learner on its device.
        batches: Batches of at least `MOST_ITERATIONS` iterations, made as in training.
        make_batch: Makes a single batch in this process.
        budget_seconds: Time that the training has, of which the measurement may take a small share.
    """
    learner.train()
    longest = min(LONGEST_SECONDS, LARGEST_SHARE * budget_seconds)
    last, seconds = _time_iterations(learner, batches, longest)
    forward, backward = _time_parts(learner, last)
    begin = _read_clock(learner.device)
    make_batch(BatchKey(stream="training", epoch=0, iteration=0))
    data = _read_clock(learner.device) - begin
    return StepTimes(
        data_seconds=data,
        forward_seconds=forward,
        backward_seconds=backward,
        iteration_seconds=seconds,
        validation_seconds=_time_validation(learner, last),
    )


def _time_iterations(learner: Learner, batches: Iterator[Batch], longest_seconds: float) -> tuple[Batch, float]:
    times: list[float] = []
    begin = time.perf_counter()
    while True:
        batch = next(batches)
        run_training_step(learner, batch)
        end = time.perf_counter()
        times.append(end - begin)
        begin = end
        measured = times[WARMING_ITERATIONS:]
        if len(measured) >= FEWEST_ITERATIONS and (len(measured) >= MOST_ITERATIONS or sum(times) > longest_seconds):
            return batch, median(measured)


def _time_parts(learner: Learner, batch: Batch) -> tuple[float, float]:
    is_replayed = learner.graph is not None and learner.graph.is_captured
    forward = (_time_evaluation if is_replayed else _time_network)(learner, batch.move_to(learner.device))
    begin = _read_clock(learner.device)
    run_training_step(learner, batch)
    seconds = _read_clock(learner.device) - begin
    forward = min(forward, seconds)
    return forward, seconds - forward


@torch.no_grad()
def _time_evaluation(learner: Learner, batch: Batch) -> float:
    """Times the network without what a backward pass needs, for which there may be no memory beside a captured step."""
    learner.train(is_training=False)
    _time_network(learner, batch)  # looks for kernels
    seconds = _time_network(learner, batch)
    learner.train()
    return seconds


def _time_network(learner: Learner, batch: Batch) -> float:
    """Times the objective's calls of the network; with gradients, for which a network is compiled."""
    seconds = 0.0

    def call(image: Tensor, *further: Tensor, **named: bool) -> tuple[Tensor, ...]:
        nonlocal seconds
        begin = _read_clock(learner.device)
        outputs = learner.call_network(image, *further, **named)
        seconds += _read_clock(learner.device) - begin
        return outputs

    learner.objective(call, batch)
    return seconds


def _time_validation(learner: Learner, batch: Batch) -> float:
    learner.train(is_training=False)
    if learner.device.type == "cuda":
        run_validation_step(learner, batch)  # looks for kernels, which takes seconds
    begin = _read_clock(learner.device)
    run_validation_step(learner, batch)
    return _read_clock(learner.device) - begin


def _read_clock(device: torch.device) -> float:
    """Reads the clock when the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
