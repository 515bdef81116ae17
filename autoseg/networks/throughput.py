"""How fast the processor trains: a few layers like those of the networks, forward and backward."""

import time
from collections.abc import Callable
from typing import Final

import psutil
import torch
from torch import Tensor, nn

from autoseg.fingerprint import HostThroughput
from autoseg.host_memory import keep_freed_memory
from autoseg.networks.blocks import InstanceNormalization
from autoseg.networks.precision import autocast, find_number_type

CPU: Final = torch.device("cpu")
WIDTHS: Final = (16, 32, 64)
EXTENT_VOXELS: Final = (32, 48, 48)
SAMPLES: Final = 2
REPETITIONS: Final = 8
KERNEL_VOXELS: Final = 27
PASSES: Final = 3  # forward, gradient of the input, gradient of the weights: as many operations each
OPERATIONS_PER_PRODUCT: Final = 2  # a multiplication and an addition


def measure_host() -> HostThroughput:
    """Measures the processor; takes about two seconds."""
    keep_freed_memory()
    number_type, cores = find_number_type(CPU, "auto"), torch.get_num_threads()
    began, used = time.perf_counter(), time.process_time()
    convolution_flops = {width: _measure_convolution(width) for width in WIDTHS}
    received = (time.process_time() - used) / (time.perf_counter() - began) / cores
    return HostThroughput(
        cores=cores,
        memory_gb=psutil.virtual_memory().total / 1e9,
        number_type=number_type,
        convolution_flops=convolution_flops,
        elementwise_rate=_measure_elementwise(),
        received_share=min(1.0, received),
    )


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
    return torch.bfloat16 if find_number_type(CPU, "auto") == "bfloat16" else torch.float32


def _time(compute: Callable[[], Tensor]) -> float:
    """Fewest seconds of forward and backward: whatever else runs on the computer can only slow them down."""
    seconds = []
    for _ in range(REPETITIONS):
        begin = time.perf_counter()
        with autocast(CPU, "auto"):
            output = compute()
        torch.autograd.backward(output, torch.ones_like(output))
        seconds.append(time.perf_counter() - begin)
    return min(seconds)
