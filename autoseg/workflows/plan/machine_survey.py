"""Surveys what training the configurations of a plan costs on this computer: time and memory."""

import ctypes
import logging
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, Literal

import autoseg
from autoseg.document import Document, Part
from autoseg.errors import AutosegError
from autoseg.fingerprint import DeviceThroughput, TimedSteps
from autoseg.labels import LabelScheme
from autoseg.network_cost import MeasureCost, NetworkCost, StepCost
from autoseg.plan.document import ConfigurationPlan, Plan
from autoseg.processes.progress import Progress
from autoseg.runtime.cpu_time import count_usable_cpus
from autoseg.runtime.host_memory import find_available_ram
from autoseg.runtime.measurement_cache import (
    find_cpu_name,
    find_measurement,
    find_measurement_cache,
    read_measurement,
    write_measurement,
)
from autoseg.workflows.plan.host_speed import find_host_speed

if TYPE_CHECKING:
    import torch

CostEstimate = Callable[[ConfigurationPlan, DeviceThroughput, NetworkCost], StepCost]
CUDA_LIBRARIES: Final = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSurvey:
    """Costs of configurations on this computer.

    Attributes:
        device: Device that would train, in words.
        has_gpu: Whether the device is a GPU.
        memory_bytes: Memory of the device.
        costs: Costs by configuration.
        problems: Reasons of missing costs by configuration.
        how: The way the time was determined, in words.
    """

    device: str
    has_gpu: bool
    memory_bytes: int
    costs: Mapping[str, StepCost]
    problems: Mapping[str, str] = field(default_factory=dict)
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU that would train."""

    device: "torch.device"
    name: str
    memory_bytes: int


class TimingCircumstances(Part):
    """Everything that the costs of a configuration on a GPU depend on."""

    device: str
    torch: str
    autoseg: str
    dtype: str
    labels: LabelScheme
    configuration: ConfigurationPlan


class TimingRecord(Document):
    """A cached measurement on a GPU."""

    schema_version: Literal[1] = 1
    circumstances: TimingCircumstances
    cost: StepCost


def survey_machine(
    plan: Plan,
    names: Sequence[str],
    *,
    estimate: CostEstimate,
    measure: Callable[[], DeviceThroughput],
    measure_cost: MeasureCost,
    progress: Progress,
) -> MachineSurvey:
    """Times real steps on a GPU if there is one; otherwise estimates them from the speed of the CPU.

    Args:
        plan: Plan with the configurations.
        names: Names of the configurations.
        estimate: Estimates the costs of a configuration on the CPU.
        measure: Measures the speed of the CPU; called if no measurement of this computer is cached.
        measure_cost: Counts what a network costs.
        progress: Receives notes.
    """
    if may_have_gpu():
        gpu = find_gpu()
        if gpu is not None:
            return survey_gpu(names, gpu, time=partial(time_on_gpu, plan, gpu), progress=progress)
    return survey_cpu(plan, names, estimate=estimate, measure=measure, measure_cost=measure_cost)


def survey_cpu(
    plan: Plan,
    names: Sequence[str],
    *,
    estimate: CostEstimate,
    measure: Callable[[], DeviceThroughput],
    measure_cost: MeasureCost,
) -> MachineSurvey:
    """Estimates the costs on the CPU; if its speed cannot be measured, reports why."""
    cores = count_usable_cpus()
    device, memory = f"{find_cpu_name()}, {cores} core{'s' if cores > 1 else ''}", find_available_ram()
    try:
        host = find_host_speed(find_measurement_cache("host_speed"), measure=measure)
    except (AutosegError, ImportError, OSError, RuntimeError) as error:
        reason = f"the speed of the CPU could not be measured ({_get_first_line(error)})"
        problems = dict.fromkeys(names, reason)
        return MachineSurvey(device=device, has_gpu=False, memory_bytes=memory, costs={}, problems=problems, how=reason)
    how = "estimated from the measured speed of this CPU, right within about a third"
    if not host.is_undisturbed:
        how = (
            f"estimated from the speed of this CPU, of whose time other programs left {host.received_share:.0%} "
            f"while it was measured: training alone may be several times as fast; plan again when they have ended"
        )
    chosen = {name: plan.configurations[name] for name in names}
    costs = {
        name: estimate(each, host, measure_cost(each.network, each.patch_voxels, each.training.batch_size))
        for name, each in chosen.items()
    }
    return MachineSurvey(device=device, has_gpu=False, memory_bytes=memory, costs=costs, how=how)


def may_have_gpu(torch_version: str | None = None) -> bool:
    """Whether it is worth importing torch to look for a GPU; asking the driver takes milliseconds."""
    build = version("torch") if torch_version is None else torch_version
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if build.endswith("+cpu"):
        return False
    return "+rocm" in build or _count_cuda_devices(CUDA_LIBRARIES.get(sys.platform)) > 0


def _count_cuda_devices(library: str | None) -> int:
    if library is None:
        return 0
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return 0
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def _get_first_line(error: Exception) -> str:
    """Returns the first line of an error message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def survey_gpu(names: Sequence[str], gpu: Gpu, *, time: Callable[[str], StepCost], progress: Progress) -> MachineSurvey:
    """Times every configuration; one that does not fit into the GPU's memory does not prevent the others."""
    costs: dict[str, StepCost] = {}
    problems: dict[str, str] = {}
    for name in names:
        progress.note(f"timing a few steps of {name} on {gpu.name}")
        try:
            costs[name] = time(name)
        except RuntimeError as error:  # too little memory, or a failing driver: training would fail likewise
            problems[name] = (
                f"{name} could not be timed on {gpu.name}, and may not be trained there ({_get_first_line(error)}); "
                f"autoseg plan --memory-gb plans for less memory"
            )
    return MachineSurvey(
        device=gpu.name,
        has_gpu=True,
        memory_bytes=gpu.memory_bytes,
        costs=costs,
        problems=problems,
        how="measured on this GPU, with patches of random numbers",
    )


def time_on_gpu(plan: Plan, gpu: Gpu, name: str) -> StepCost:
    """Returns the cached costs of a configuration; measures and caches them if there are none.

    Raises:
        RuntimeError: The network and a batch do not fit into the GPU's memory, or the GPU fails.
    """
    from autoseg.runtime.precision import find_dtype
    from autoseg.training.network_timing import time_network

    configuration, dtype = plan.configurations[name], find_dtype(gpu.device, "auto")
    circumstances = TimingCircumstances(
        device=gpu.name,
        torch=version("torch"),
        autoseg=autoseg.__version__,
        dtype=dtype,
        labels=configuration.choose_network_labels(plan.labels),
        configuration=configuration,
    )
    path = find_measurement(find_measurement_cache("gpu_steps"), circumstances)
    record = read_measurement(path, TimingRecord)
    if record is not None and record.circumstances == circumstances:
        return record.cost
    cost = time_network(configuration, circumstances.labels, device=gpu.device, dtype=dtype)
    write_measurement(path, TimingRecord(circumstances=circumstances, cost=cost), what="the time of a step on the GPU")
    return cost


def time_planned_steps(plan: Plan) -> TimedSteps | None:
    """Times steps of the first configuration with one patch and with two, as training would execute them.

    Returns None where no CUDA device trains, or none of the steps runs, which the log tells.
    """
    gpu = find_gpu()
    if gpu is None or gpu.device.type != "cuda":
        return None
    name, configuration = next(iter(plan.configurations.items()))
    seconds: list[float] = []
    for batch_size in (1, 2):
        training = configuration.training.model_copy(update={"batch_size": batch_size})
        timed = {name: configuration.model_copy(update={"training": training})}
        try:
            cost = time_on_gpu(plan.model_copy(update={"configurations": timed}), gpu, name)
        except RuntimeError as error:  # too little memory, or a failing driver
            logger.warning(
                "a step of %s with a batch of %d could not be timed on %s (%s): planning without it",
                name,
                batch_size,
                gpu.name,
                _get_first_line(error),
            )
            break
        seconds.append(cost.iteration_seconds)
    return TimedSteps(configuration=name, seconds=tuple(seconds)) if seconds else None


def find_gpu() -> Gpu | None:
    """Finds the GPU that would train; None if torch finds none that it can use."""
    import torch

    from autoseg.runtime.device import find_device

    device = find_device("auto")
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return Gpu(device=device, name=f"{find_cpu_name()} ({device.type})", memory_bytes=find_available_ram())
    properties = torch.cuda.get_device_properties(device)
    return Gpu(device=device, name=properties.name, memory_bytes=int(properties.total_memory))
