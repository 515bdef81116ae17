"""Training of one configuration on one fold, from the first epoch or the latest checkpoint to the final one."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Final

import torch
from torch import Tensor

from autoseg.errors import TrainingError
from autoseg.labels import LabelScheme
from autoseg.networks.families import build_network
from autoseg.networks.pretrained import check_pretrained, fit_initial_weights
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.losses import find_initial_probabilities
from autoseg.plan.training import TrainingPlan
from autoseg.run_folder import FoldFolder
from autoseg.runtime.device import collect_garbage, select_kernels, translate_memory_errors
from autoseg.runtime.distributed import SINGLE_PROCESS
from autoseg.training.budget.execution_decision import decide_execution
from autoseg.training.budget.pace import (
    Budget,
    Forecast,
    StepTimes,
    estimate_epoch_seconds,
    reschedule_remaining,
    schedule_within_budget,
)
from autoseg.training.calibration import MOST_ITERATIONS, measure_step_times
from autoseg.training.checkpoint import identify_training
from autoseg.training.compiling_beside import CompilingBeside
from autoseg.training.data.batch import Batch
from autoseg.training.data.batch_making import build_source, keep_phase_current, make_batches
from autoseg.training.data.batches import BatchSource, list_batch_keys, translate_worker_crashes
from autoseg.training.data.device_batches import DeviceBatchSource
from autoseg.training.data.randomness import Phase
from autoseg.training.data.training_data import TrainingData
from autoseg.training.execution import TrainingExecution
from autoseg.training.learner import Learner
from autoseg.training.loop import TrainingLoop
from autoseg.training.loop_state import LoopState, Start
from autoseg.training.monitoring.events import Event
from autoseg.training.optimization.schedule import Schedule, build_schedule, find_phase
from autoseg.training.options import Length, TrainingOptions
from autoseg.training.start import find_start
from autoseg.training.step import build_learner

ITERATIONS_WORTH_A_FORECAST: Final = 1000
WHAT_NEEDS_MEMORY: Final = "the planned network and batch"
ADVICE: Final = (
    "close what else uses it and give the same command to continue, or plan for less with: autoseg plan --memory-gb"
)


def train(
    plan: ConfigurationPlan, data: TrainingData, *, output: FoldFolder, options: TrainingOptions
) -> Iterator[Event]:
    """Trains and yields what happens, while it happens.

    Continues from the latest checkpoint of `output`; yields nothing if the final one exists and no more is asked for.
    May be closed at any time: the latest checkpoint stays valid.

    Raises:
        TrainingError: The checkpoint does not belong to this training, the loss is lost, or a worker has died.
        DeviceError: The device's memory does not hold the network and a batch.
        RunError: A preprocessed case is missing or damaged, the disk is full, or the initial weights do not fit.
        PlanError: The file of pretrained weights is missing, has changed, or does not fit.
        ExchangeError: That file is damaged.
    """
    assert (data.previous is None) == (plan.previous_stage is None), "a cascade is trained on predictions"
    identity = identify_training(
        plan, data, seed=options.seed, initial_digest=options.initial_digest, teacher_digest=options.teacher_digest
    )
    with options.process_group.main_process_first():
        start = find_start(output, identity, options.length)
    if start is None:
        return
    check_teacher(output, options)
    check_synthetic_cases(output, data)
    is_new = start.checkpoint is None
    initial = _find_first_weights(plan, options) if is_new else None
    select_kernels(options.device, deterministic=options.deterministic)
    beside = CompilingBeside(plan=plan, labels=data.labels, options=options)
    memory = translate_memory_errors(options.device, purpose=WHAT_NEEDS_MEMORY, advice=ADVICE)
    with memory, translate_worker_crashes(), closing(beside):
        source = build_source(
            plan,
            data.channels,
            data_folder=data.folder,
            fold=data.fold,
            seed=options.seed,
            device=options.device,
            announce=options.announce,
            previous=data.previous,
            synthetic=data.synthetic,
            part=options.process_group.select_samples(plan.training.batch_size),
        )
        training = plan.training.model_copy(update={"epochs": options.length.epochs or plan.training.epochs})
        schedule = start.schedule or build_schedule(training, epochs=_count_epochs(training, options.length))
        build = partial(_build_learner, plan, data.labels, options)
        execution = decide_execution(
            build, source.make_batch, plan=plan, schedule=schedule, options=options, beside=beside
        )
        first: Event = schedule
        expected_epoch_seconds = 0.0
        if options.process_group.is_main_process and (
            options.budget is not None or is_worth_a_forecast(schedule, start)
        ):
            alone = replace(options, process_group=SINGLE_PROCESS)  # nobody waits for anybody else's clock
            learner = _build_learner(plan, data.labels, alone, execution)
            keys = list_batch_keys(MOST_ITERATIONS, 1, first_epoch=0)
            times = measure_step_times(
                learner,
                make_batches(source, keys, workers=options.workers, device=learner.device),
                source.make_batch,
                budget_seconds=math.inf if options.budget is None else options.budget.seconds,
            )
            del learner  # and its graph, whose memory the next one needs
            collect_garbage(options.device)
            first = make_forecast(training, times, schedule, start=start, budget=options.budget)
            schedule = first.schedule
            expected_epoch_seconds = estimate_epoch_seconds(schedule, times)
        schedule = options.process_group.share(schedule)
        yield first
        learner = _build_learner(plan, data.labels, options, execution, with_pretrained=is_new, initial=initial)
        loop = TrainingLoop(
            plan=training,
            state=LoopState(learner=learner, identity=identity, schedule=schedule),
            output=output,
            options=options,
            expected_epoch_seconds=expected_epoch_seconds,
            find_faster=partial(_find_faster, beside, build),
        )
        loop.restore(start)
        if is_new and initial is None:
            _announce_outputs(plan, learner, options)
        del learner  # the loop may replace it by a faster one
        yield from loop.run(_make_batches(loop, source, start, options))


def check_teacher(output: FoldFolder, options: TrainingOptions) -> None:
    """Checks that a training that learns from a teacher has it.

    Raises:
        TrainingError: It has not.
    """
    if options.teacher is None and options.teacher_digest is not None:
        msg = (
            f"the training in {output.root} learns from a teacher, which is no longer where it was, or was "
            f"trained anew; give the run to which it was moved with --teacher, or begin again with --restart"
        )
        raise TrainingError(msg)


def check_synthetic_cases(output: FoldFolder, data: TrainingData) -> None:
    """Checks that a training that takes synthetic cases has them.

    Raises:
        TrainingError: It has not.
    """
    if data.synthetic is not None and not data.synthetic.names:
        msg = f"the training in {output.root} takes synthetic cases; give --synthetic to train it for longer"
        raise TrainingError(msg)


def _make_batches(
    loop: TrainingLoop, source: BatchSource | DeviceBatchSource, start: Start, options: TrainingOptions
) -> Iterator[Batch]:
    """Makes the batches of all remaining epochs, in the phases that the schedule of the moment says."""
    find_present_phase = partial(_find_present_phase, loop, bool(source.training.sampler.synthetic_names))
    keys = list_batch_keys(
        loop.state.schedule.iterations_per_epoch,
        loop.state.schedule.validation_iterations_per_epoch,
        first_epoch=start.epochs_done,
        first_iteration=start.iterations_done,
        find_phase=find_present_phase,
    )
    return keep_phase_current(
        keys,
        stream=partial(make_batches, source, workers=options.workers, device=options.device, announce=options.announce),
        make_batch=source.make_batch,
        find_phase=find_present_phase,
    )


def _find_faster(beside: CompilingBeside, build: Callable[[TrainingExecution], Learner]) -> Learner | None:
    execution = beside.take()
    return None if execution is None else build(execution)


def _find_present_phase(loop: TrainingLoop, has_synthetic: bool, epoch: int) -> Phase:
    """Without synthetic cases their end makes no difference, and no batch has to be made again."""
    phase = find_phase(loop.plan, loop.state.schedule, epoch)
    return phase if has_synthetic else replace(phase, takes_synthetic=True)


def _build_learner(
    plan: ConfigurationPlan,
    labels: LabelScheme,
    options: TrainingOptions,
    execution: TrainingExecution,
    *,
    with_pretrained: bool = False,
    initial: Mapping[str, Tensor] | None = None,
) -> Learner:
    return build_learner(
        plan,
        labels,
        device=options.device,
        seed=options.seed,
        dtype=options.dtype,
        process_group=options.process_group,
        execution=execution,
        with_pretrained=with_pretrained,
        announce=options.announce,
        initial=initial,
        label_autoencoder=options.label_autoencoder,
        teacher=options.teacher,
    )


def _find_first_weights(plan: ConfigurationPlan, options: TrainingOptions) -> Mapping[str, Tensor] | None:
    """Reads the weights that a new training is to begin with; None if they are drawn, but for those of the plan."""
    if options.initial_weights is None:
        check_pretrained(plan.network)
        return None
    with torch.device("meta"):
        expected = build_network(plan.network).state_dict()
    adds_channels = plan.previous_stage is not None and plan.previous_stage.begins_with_previous
    weights, description = fit_initial_weights(options.initial_weights, expected, adds_channels=adds_channels)
    if options.process_group.is_main_process:
        options.announce(description)
    return weights


def _announce_outputs(plan: ConfigurationPlan, learner: Learner, options: TrainingOptions) -> None:
    """Announces that planned probabilities of the classes cannot be set in the layers of the network."""
    if find_initial_probabilities(plan.training.losses) and learner.network.output_layers is None:
        options.announce(
            f"the output layers of {plan.network.family} begin with random weights: the planned initial probabilities "
            f"of the classes can be set only where each output has a layer of its own"
        )


def _count_epochs(plan: TrainingPlan, length: Length) -> int | None:
    return None if length.until_plateau else plan.epochs


def is_worth_a_forecast(schedule: Schedule, start: Start) -> bool:
    """Returns whether so much is left that measuring the pace, up to twenty iterations, costs little."""
    if schedule.end_epoch is None:
        return False
    iterations = (schedule.end_epoch - start.epochs_done) * schedule.iterations_per_epoch
    return iterations >= ITERATIONS_WORTH_A_FORECAST


def make_forecast(
    plan: TrainingPlan, times: StepTimes, schedule: Schedule, *, start: Start, budget: Budget | None
) -> Forecast:
    """Schedules a training, or the rest of it, so that it ends in time; returns the forecast."""
    if budget is not None and schedule.end_epoch is not None:
        seconds = max(0.0, budget.remaining_seconds)
        if start.schedule is None:
            schedule = schedule_within_budget(plan, times, seconds)
        else:
            schedule = reschedule_remaining(plan, schedule, times, seconds, epochs_done=start.epochs_done)
    epochs_left = (schedule.end_epoch or plan.epochs) - start.epochs_done
    return Forecast(
        times=times,
        schedule=schedule,
        budget_seconds=None if budget is None else budget.seconds,
        training_seconds=epochs_left * estimate_epoch_seconds(schedule, times),
        reserved_seconds=None if budget is None else budget.reserved_seconds,
    )
