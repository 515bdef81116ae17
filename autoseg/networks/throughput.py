"""Measures the training throughput of a device with a few typical layers, forward and backward."""

import logging
import math
import time
from collections.abc import Callable
from statistics import median
from typing import Final

import psutil
import torch
from torch import Tensor, nn

from autoseg.fingerprint import DeviceThroughput
from autoseg.network_cost import OPERATIONS_PER_PRODUCT, PASSES
from autoseg.networks.blocks import InstanceNormalization
from autoseg.networks.families import build_network
from autoseg.plan.network.base import NetworkPlan
from autoseg.runtime.cpu_threads import adapt_threads, adaptive_cpu_threads
from autoseg.runtime.cpu_time import CpuClock, compare_readings, count_usable_cpus
from autoseg.runtime.device import select_kernels, translate_memory_errors
from autoseg.runtime.host_memory import keep_freed_memory
from autoseg.runtime.precision import DTYPES, autocast, find_dtype

CPU: Final = torch.device("cpu")
WIDTHS: Final = (16, 32, 64)
EXTENT_VOXELS: Final = (32, 48, 48)
SAMPLES: Final = 2
FEWEST_REPETITIONS: Final = 8
AGREEING_REPETITIONS: Final = 3
AGREEMENT_FRACTION: Final = 0.05
LONGEST_SECONDS: Final = 3.0
"""A layer is repeated until the fastest repetitions agree within this fraction, or until this time is over."""
KERNEL_VOXELS: Final = 27
GPU_WIDTHS: Final = (16, 32, 64, 128, 256)
LARGEST_EXTENT_VOXELS: Final = 128
EXTENT_FEATURES: Final = 4096
"""Extent times width of the layers of a GPU: as in a U-Net of 32 features for patches of 128 cubed. Smaller ones would
measure the launches of kernels."""
SMALL_EXTENT_VOXELS: Final = 4
CALLS_IN_A_ROW: Final = 5  # which the GPU executes while the next are launched, as in training
PLAUSIBLE_FLOPS_PER_CORE: Final = (2e9, 1e12)
PLAUSIBLE_ELEMENTS_PER_CORE: Final = (3e7, 1e10)
"""Rates of a slow laptop in single precision and of a server with matrix units (guess, wide on purpose): others were
disturbed, or the machine is of an unknown kind."""

logger = logging.getLogger(__name__)


def measure_host() -> DeviceThroughput:
    """Measures the throughput of the CPU for this process; takes about two seconds, longer beside other programs.

    The rates are sustained ones: those of undisturbed repetitions, times the fraction of the CPU time that the threads
    received while they were ready to run. Implausible rates are logged as a warning.
    """
    keep_freed_memory()
    clock = CpuClock()
    granted = clock.read().granted
    cores = min(torch.get_num_threads(), math.ceil(granted))
    with adaptive_cpu_threads(CPU):
        began = clock.read()
        convolution_flops = {width: _measure_convolution(width) for width in WIDTHS}
        elementwise_rate = _measure_elementwise()
        use = compare_readings(began, clock.read())
    share = min(1.0, use.received / (use.received + use.missed))
    host = DeviceThroughput(
        cores=cores,
        memory_gb=psutil.virtual_memory().total / 1e9,
        number_type=find_dtype(CPU, "auto"),
        convolution_flops={width: share * rate for width, rate in convolution_flops.items()},
        elementwise_rate=share * elementwise_rate,
        received_share=min(1.0, use.received / min(cores, granted)),
    )
    warn_of_implausible_rates(host)
    return host


def measure_gpu(device: torch.device, *, name: str, memory_bytes: int) -> DeviceThroughput:
    """Measures the throughput of a GPU; takes a few seconds.

    Convolutions run with channels last and channels first, and the faster one counts, as training tries both.

    Args:
        device: The GPU.
        name: Its name.
        memory_bytes: Its memory.

    Raises:
        DeviceError: Its free memory does not hold the measured layers.
    """
    advice = "close what else uses it, or plan with --planner default"
    with translate_memory_errors(device, purpose="the layers by which its speed is measured", advice=advice):
        select_kernels(device, deterministic=False)
        convolution_flops = {width: _measure_convolution_on(device, width) for width in GPU_WIDTHS}
        elementwise_rate = _measure_elementwise_on(device)
        layer_seconds = _measure_small_layer(device)
    return DeviceThroughput(
        device=name,
        cores=count_usable_cpus(),
        memory_gb=round(memory_bytes / 1e9, 1),
        number_type=find_dtype(device, "auto"),
        convolution_flops=convolution_flops,
        elementwise_rate=elementwise_rate,
        layer_seconds=layer_seconds,
    )


def warn_of_implausible_rates(host: DeviceThroughput) -> None:
    """Logs a warning if a rate is implausible for a CPU."""
    found = [
        (f"{rate / 1e9:.3g} GFLOP/s for convolutions of {width} channels", rate, PLAUSIBLE_FLOPS_PER_CORE)
        for width, rate in host.convolution_flops.items()
    ]
    million = host.elementwise_rate / 1e6
    found.append((f"{million:.3g} million normalized elements/s", host.elementwise_rate, PLAUSIBLE_ELEMENTS_PER_CORE))
    odd = [text for text, rate, (lowest, highest) in found if not lowest <= rate / host.cores <= highest]
    if odd:
        logger.warning(
            "the CPU (%d cores, of whose time this process got %.0f %%) was measured at %s, which is implausible for a "
            "CPU: plans based on it will not fit; measure again when no other program runs",
            host.cores,
            100 * host.received_share,
            ", ".join(odd),
        )


def time_window(plan: NetworkPlan, patch_voxels: tuple[int, ...]) -> float:
    """Measures the seconds that the CPU takes for one window of prediction in single precision; the median of three."""
    network = build_network(plan).eval()
    image = torch.randn((1, plan.input_channels, *patch_voxels), generator=torch.Generator().manual_seed(0))
    seconds = []
    with adaptive_cpu_threads(CPU), torch.inference_mode(), network.single_output():
        network(image)  # memory is reserved, kernels are chosen
        for _ in range(3):
            began = time.perf_counter()
            network(image)
            seconds.append(time.perf_counter() - began)
    return median(seconds)


def _measure_convolution(width: int) -> float:
    layer = nn.Conv3d(width, width, 3, padding=1)
    image = _make_features(width)
    voxels = image.numel() // width
    operations = OPERATIONS_PER_PRODUCT * PASSES * KERNEL_VOXELS * width * width * voxels
    return operations / _time(lambda: layer(image))


def _measure_elementwise() -> float:
    layer = nn.Sequential(InstanceNormalization(WIDTHS[0]), nn.LeakyReLU(0.01, inplace=True))
    image = _make_features(WIDTHS[0]).detach().to(_find_dtype()).requires_grad_()
    return image.numel() / _time(lambda: layer(image))


def _measure_convolution_on(device: torch.device, width: int) -> float:
    layer = nn.Conv3d(width, width, 3, padding=1).to(device)
    features = _make_device_features(device, width, min(LARGEST_EXTENT_VOXELS, EXTENT_FEATURES // width))
    voxels = features.numel() // width
    operations = OPERATIONS_PER_PRODUCT * PASSES * KERNEL_VOXELS * width * width * voxels
    formats = (torch.channels_last_3d, torch.contiguous_format)
    return operations / min(_time_on(device, layer, features.to(memory_format=each)) for each in formats)


def _measure_elementwise_on(device: torch.device) -> float:
    width = GPU_WIDTHS[1]
    layer = nn.Sequential(InstanceNormalization(width), nn.LeakyReLU(0.01)).to(device)
    features = _make_device_features(device, width, min(LARGEST_EXTENT_VOXELS, EXTENT_FEATURES // width))
    return features.numel() / _time_on(device, layer, features)


def _measure_small_layer(device: torch.device) -> float:
    width = GPU_WIDTHS[1]
    layer = nn.Sequential(nn.Conv3d(width, width, 3, padding=1), InstanceNormalization(width), nn.LeakyReLU(0.01)).to(
        device
    )
    return _time_on(device, layer, _make_device_features(device, width, SMALL_EXTENT_VOXELS))


def _make_device_features(device: torch.device, width: int, extent_voxels: int) -> Tensor:
    dtype = DTYPES[find_dtype(device, "auto")]
    return torch.randn((SAMPLES, width, *(extent_voxels,) * 3), device=device, dtype=dtype)


def _time_on(device: torch.device, layer: nn.Module, features: Tensor) -> float:
    """Measures the seconds of forward and backward of a layer, the fastest of some rows of calls."""
    features = features.detach().requires_grad_()
    gradient: Tensor | None = None
    seconds = []
    for _ in range(1 + FEWEST_REPETITIONS):
        _wait_for(device)
        begin = time.perf_counter()
        for _ in range(CALLS_IN_A_ROW):
            with autocast(device, "auto"):
                output = layer(features)
            gradient = torch.ones_like(output) if gradient is None else gradient
            torch.autograd.backward(output, gradient)
        _wait_for(device)
        seconds.append((time.perf_counter() - begin) / CALLS_IN_A_ROW)
    return min(seconds[1:])  # the first ones look for kernels


def _wait_for(device: torch.device) -> None:
    """Waits until the GPU has finished its work; a CPU has when a call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _make_features(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn((SAMPLES, width, *EXTENT_VOXELS), generator=generator).requires_grad_()


def _find_dtype() -> torch.dtype:
    return torch.bfloat16 if find_dtype(CPU, "auto") == "bfloat16" else torch.float32


def _time(compute: Callable[[], Tensor]) -> float:
    """Measures the seconds of forward and backward that the fastest repetitions agree on."""
    seconds: list[float] = []
    threads, end = 0, time.perf_counter() + LONGEST_SECONDS
    while True:
        adapt_threads()
        if torch.get_num_threads() != threads:
            seconds, threads = [], torch.get_num_threads()
        seconds.append(_time_once(compute))
        fastest = sorted(seconds)[:AGREEING_REPETITIONS]
        agree = fastest[-1] <= (1 + AGREEMENT_FRACTION) * fastest[0]
        if len(seconds) >= FEWEST_REPETITIONS and (agree or time.perf_counter() > end):
            return fastest[0]


def _time_once(compute: Callable[[], Tensor]) -> float:
    begin = time.perf_counter()
    with autocast(CPU, "auto"):
        output = compute()
    torch.autograd.backward(output, torch.ones_like(output))
    return time.perf_counter() - begin
