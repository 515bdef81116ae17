"""Trains folds at a place whose tasks continue when the command ends: their needs, and how they can be repeated."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import prod
from typing import Final

from autoseg.dataset.folds import Splits
from autoseg.document import read_document
from autoseg.errors import OptionError
from autoseg.fingerprint import Fingerprint
from autoseg.network_cost import (
    BATCHES_IN_MEMORY,
    PATCH_MAKER_BYTES,
    PROCESS_BYTES,
    count_voxel_bytes,
    estimate_host_training_bytes,
)
from autoseg.places.local import ThisComputer
from autoseg.places.place import Place, Resources, Task
from autoseg.plan.document import Plan
from autoseg.plan.training import TrainingPlan
from autoseg.preprocessing.pipeline import compute_preprocessed_shape
from autoseg.processes.fold_lock import lock_fold
from autoseg.remote.cache_folder import is_in_cache
from autoseg.run_folder import FoldFolder, RunFolder, write_text
from autoseg.training.checkpoint import read_description
from autoseg.training.monitoring.history import read_last_record
from autoseg.workflows.cases.image_memory import BYTES_PER_LOGIT, LOGITS_IN_MEMORY, MARGIN
from autoseg.workflows.folds.state import find_restart_mark, read_state
from autoseg.workflows.folds.status import has_final_model
from autoseg.workflows.plan.planning import find_network_cost
from autoseg.workflows.train.fold_options import MOST_WORKERS
from autoseg.workflows.train.queue import TrainingQueue, build_task
from autoseg.workflows.train.request import TrainingRequest
from autoseg.workflows.train.units import Unit, is_up_to_date, limit_request

CPU: Final = "cpu"  # name of the device
CPU_CORES: Final = 8  # guess: for a training without a GPU
TIME_MARGIN: Final = 2.0  # guess: of the time of another fold, for a slower node and the validation of the fold
CPU_FORECAST: Final = "the forecast of autoseg plan for this computer's CPU"
LONGEST_SECONDS: Final = 23.75 * 3600  # guess: most sites refuse more than a day; what takes longer is queued again


ForecastCpu = Callable[[RunFolder, Plan, str, int | None], float | None]
"""Forecasts a fold of a configuration on a CPU in seconds, by its epochs or those of the plan; None if not known."""


def build_detached_queue(
    run: RunFolder,
    units: Sequence[Unit],
    request: TrainingRequest,
    place: Place,
    *,
    autoseg: Sequence[str] | None,
    forecast_cpu: ForecastCpu | None = None,
) -> TrainingQueue:
    """Builds the queue of folds that are not up to date, and of the selection after them.

    Args:
        run: Run folder.
        units: All units.
        request: Options of all trainings.
        place: The place.
        autoseg: The command that is `autoseg`; None: `python -m autoseg`.
        forecast_cpu: Forecasts folds on a CPU of which no other one was trained.

    Raises:
        OptionError: The run is given by URL, so that jobs would change a copy that nobody publishes.
    """
    run = RunFolder(run.root.resolve())
    if is_in_cache(run.root):
        msg = f"--on: jobs need a run in a folder that all nodes see, found {run.root}; copy it there"
        raise OptionError(msg)
    plan = read_document(run.plan, Plan)
    waiting = [unit for unit in units if not is_up_to_date(run, unit, request)]
    needed = {
        name: estimate_resources(run, plan, name, request, forecast_cpu=forecast_cpu)
        for name in {unit.configuration for unit in waiting}
    }
    tasks = {
        unit: build_task(
            run,
            unit,
            make_repeatable(run, unit, request),
            others=waiting,
            common=list_common_options(request),
            autoseg=autoseg,
            resources=needed[unit.configuration],
        )
        for unit in waiting
    }
    following: tuple[Task, ...] = ()
    if tasks and request.folds is None:
        largest = max(needed.values(), key=lambda one: one.ram_bytes)
        names = tuple(task.name for task in tasks.values())
        options = list_device_options(request.device)
        following = (build_selection_task(run, largest, needs=names, autoseg=autoseg, options=options),)
    return TrainingQueue(run=run, units=tuple(units), tasks=tasks, following=following, place=place)


def list_common_options(request: TrainingRequest) -> list[str]:
    """Lists the options that concern the computer of a task."""
    options = [] if request.workers is None else ["--workers", str(request.workers)]
    return [*options, *list_device_options(request.device), *(["--parallel"] if request.parallel else [])]


def list_device_options(device: str) -> tuple[str, ...]:
    """Lists the option that names a device."""
    return () if device == "auto" else ("--device", device)


def build_selection_task(
    run: RunFolder,
    needed: Resources,
    *,
    needs: tuple[str, ...],
    autoseg: Sequence[str] | None,
    options: tuple[str, ...] = (),
) -> Task:
    """Builds the command that selects models.

    Args:
        run: Run folder.
        needed: Needs of a training of the run.
        needs: Names of the tasks that must succeed first.
        autoseg: The command that is `autoseg`; None: `python -m autoseg`.
        options: Options of the command.
    """
    return Task(
        name="select",
        command=(*(autoseg or (sys.executable, "-m", "autoseg")), "select", str(run.root), *options),
        log=run.logs / "select.log",
        needs=needs,
        resources=replace(
            needed, nodes=1, is_parallel=False, most_processes=None, seconds=None, time_origin=None, may_be_cut=True
        ),
    )


def estimate_resources(
    run: RunFolder, plan: Plan, name: str, request: TrainingRequest, *, forecast_cpu: ForecastCpu | None = None
) -> Resources:
    """Estimates what the training and validation of a fold of a configuration needs.

    Args:
        run: Run folder.
        plan: Plan of the run.
        name: Name of the configuration.
        request: Options of the training.
        forecast_cpu: Forecasts a fold on a CPU where no other one was trained.
    """
    configuration = plan.configurations[name]
    training, uses_gpu = configuration.training, request.device != CPU
    workers = request.workers if request.workers is not None else MOST_WORKERS if uses_gpu else 1
    cost = find_network_cost(configuration.network, configuration.patch_voxels, training.batch_size)
    voxels = training.batch_size * prod(configuration.patch_voxels) * BATCHES_IN_MEMORY
    ram = (
        PROCESS_BYTES + workers * PATCH_MAKER_BYTES + voxels * count_voxel_bytes(len(plan.channels))
        if uses_gpu
        else estimate_host_training_bytes(configuration, "float32", cost)
    )
    cases = read_document(run.fingerprint, Fingerprint).cases
    largest = max(prod(compute_preprocessed_shape(case, plan, configuration.data_of)) for case in cases)
    logits = largest * plan.labels.output_channel_count * BYTES_PER_LOGIT * LOGITS_IN_MEMORY
    planned = training.budget_seconds if request.length.epochs is None else None
    budget = request.budget_seconds or planned
    known = budget or forecast_seconds(run, name, training, request)
    forecast = None if known else _forecast_by_cpu(run, plan, name, request=request, forecast_cpu=forecast_cpu)
    return Resources(
        gpu_bytes=round(plan.accelerator_memory_gb * 1e9) if uses_gpu else 0,
        cores=1 + workers if uses_gpu else CPU_CORES,
        ram_bytes=round(MARGIN * (ram + logits)),
        seconds=known or forecast,
        time_origin=CPU_FORECAST if forecast else None,
        may_be_cut=budget is None,
        nodes=request.nodes,
        is_parallel=request.parallel,
        most_processes=training.batch_size,
    )


def _forecast_by_cpu(
    run: RunFolder, plan: Plan, name: str, *, request: TrainingRequest, forecast_cpu: ForecastCpu | None
) -> float | None:
    if forecast_cpu is None or request.device != CPU or request.length.more_epochs is not None:
        return None
    seconds = forecast_cpu(run, plan, name, request.length.epochs)
    return None if seconds is None else min(LONGEST_SECONDS, TIME_MARGIN * seconds)


def forecast_seconds(run: RunFolder, name: str, training: TrainingPlan, request: TrainingRequest) -> float | None:
    """Forecasts the time of a fold from the pace of those that were trained on a device of the same kind.

    None where there are none.
    """
    iterations = (request.length.epochs or training.epochs) * training.iterations_per_epoch
    count = len(read_document(run.splits, Splits).folds)
    folders = [run.fold(name, str(fold)) for fold in range(count)]
    alike = [folder for folder in folders if _was_on_cpu(folder) == (request.device == CPU)]
    last = [read_last_record(folder.training_log) for folder in alike]
    paces = [record.seconds_per_iteration for record in last if record is not None]
    if not paces or request.length.more_epochs is not None:
        return None
    return min(LONGEST_SECONDS, TIME_MARGIN * iterations * max(paces))


def _was_on_cpu(folder: FoldFolder) -> bool | None:
    """Returns whether a fold was last trained on a CPU, or on several together; None where that is not known."""
    state = read_state(folder)
    return None if state is None else state.device.endswith(CPU)


def make_repeatable(run: RunFolder, unit: Unit, request: TrainingRequest) -> TrainingRequest:
    """Replaces what a repeated command would do once more: `--restart`, and `--extend` by the number of epochs.

    As on this computer, only a finished training is extended, and none that begins again.

    Raises:
        TrainingError: A checkpoint is damaged.
    """
    limited = limit_request(request, unit)
    more = limited.length.more_epochs
    if more is not None:
        folder = run.fold(unit.configuration, unit.fold)
        begins_again = limited.restart or find_restart_mark(folder).exists()
        is_extended = has_final_model(folder) and not begins_again
        epochs = len(read_description(folder.final_checkpoint).history) + more if is_extended else None
        limited = replace(limited, length=replace(limited.length, more_epochs=None, epochs=epochs))
    return replace(limited, restart=False)


def mark_restarts(run: RunFolder, queue: TrainingQueue, request: TrainingRequest) -> None:
    """Marks the trainings that are to begin again, before their tasks are given to the place.

    A task that begins one removes its mark, so that repeating the task continues.

    Raises:
        TrainingError: A process trains one of them; none is marked.
        OptionError: The tasks cannot be submitted; none is marked.
    """
    if not request.restart:
        return
    queue.place.describe_tasks(queue.list_tasks())
    folders = [run.fold(unit.configuration, unit.fold) for unit in queue.tasks if not unit.is_only_needed]
    with ExitStack() as locks:
        for folder in folders:
            locks.enter_context(lock_fold(folder, device=""))
        for folder in folders:
            write_text(find_restart_mark(folder), "")


def check_place(request: TrainingRequest, place: Place | None, devices: str | None) -> None:
    """Checks that the options fit the place.

    Raises:
        OptionError: The place is for single cases, devices are named by number for another computer, or several
            computers for this one.
    """
    is_detached = place is not None and place.is_detached
    if not (place is None or is_detached or isinstance(place, ThisComputer)):
        msg = "--on: that place works on single cases; train the folds here, or as jobs with --on slurm"
        raise OptionError(msg)
    if is_detached and devices is not None:
        msg = f"--devices {devices} are of this computer; leave it out with --on (GPUs of a task: --slurm gres=gpu:2)"
        raise OptionError(msg)
    if is_detached:
        check_device_kind(request.device)
    if request.nodes > 1 and not is_detached:
        msg = "--nodes needs a cluster: give --on slurm, or start the processes with torchrun"
        raise OptionError(msg)


def check_device_kind(device: str) -> None:
    """Checks that the device of a job is named by its kind alone.

    Raises:
        OptionError: It is named by its number on this computer.
    """
    kind, has_number, _ = device.partition(":")
    if has_number:
        msg = f"--device {device} is of this computer; with --on, Slurm chooses the GPU: give --device {kind}"
        raise OptionError(msg)
