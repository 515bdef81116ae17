"""Measures the training throughput of the CPU with a few typical layers, forward and backward."""

import logging
import math
import time
from collections.abc import Callable
from statistics import median
from typing import Final

import psutil
import torch
from torch import Tensor, nn

from autoseg.fingerprint import HostThroughput
from autoseg.network_cost import OPERATIONS_PER_PRODUCT, PASSES
from autoseg.networks.blocks import InstanceNormalization
from autoseg.networks.families import build_network
from autoseg.plan.network.base import NetworkPlan
from autoseg.runtime.cpu_threads import adapt_threads, adaptive_cpu_threads
from autoseg.runtime.cpu_time import CpuClock, compare_readings
from autoseg.runtime.host_memory import keep_freed_memory
from autoseg.runtime.precision import autocast, find_dtype

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
PLAUSIBLE_FLOPS_PER_CORE: Final = (2e9, 1e12)
PLAUSIBLE_ELEMENTS_PER_CORE: Final = (3e7, 1e10)
"""Rates of a slow laptop in single precision and of a server with matrix units (guess, wide on purpose): others were
disturbed, or the machine is of an unknown kind."""

logger = logging.getLogger(__name__)


def measure_host() -> HostThroughput:
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
    host = HostThroughput(
        cores=cores,
        memory_gb=psutil.virtual_memory().total / 1e9,
        number_type=find_dtype(CPU, "auto"),
        convolution_flops={width: share * rate for width, rate in convolution_flops.items()},
        elementwise_rate=share * elementwise_rate,
        received_share=min(1.0, use.received / min(cores, granted)),
    )
    warn_of_implausible_rates(host)
    return host


def warn_of_implausible_rates(host: HostThroughput) -> None:
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
