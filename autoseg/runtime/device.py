"""Finds the device that runs a network, and selects deterministic or fastest kernels on it."""

import gc
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from autoseg.errors import DeviceError
from autoseg.runtime.device_use import count_processes_on_device

# Without it, matrix products of cuBLAS may differ from run to run; read when CUDA is first used by the process
# (https://docs.nvidia.com/cuda/cublas, "Results reproducibility").
CUBLAS_VARIABLE: Final = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_VALUE: Final = ":4096:8"
MOST_CHARACTERS: Final = 200  # of a message of PyTorch
# Beside torch.OutOfMemoryError: PyTorch on a CPU, MPS, and libraries of CUDA raise a RuntimeError.
SIGNS_OF_FULL_MEMORY: Final = (
    "can't allocate memory",  # DefaultCPUAllocator, on Linux and macOS
    "not enough memory",  # the same on Windows
    "out of memory",
    "_ALLOC_FAILED",  # cuBLAS, cuDNN
)

logger = logging.getLogger(__name__)


def find_device(name: str) -> torch.device:
    """Turns "auto", "cpu", "cuda", "cuda:1" or "mps" into a device that exists.

    "auto" takes the first CUDA device, else Apple's MPS, else the CPU.

    Raises:
        DeviceError: The name is unknown, or the computer has no such device.
    """
    if name == "auto":
        return _find_best_device()
    device = _parse_device(name)
    if device.type == "cuda":
        return _check_cuda(device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        msg = "no MPS device: PyTorch finds no Apple GPU here; use --device cpu"
        raise DeviceError(msg)
    return device


def is_cuda_available() -> bool:
    """Returns whether PyTorch can use CUDA; a driver that is there and cannot be used is a warning in the log."""
    is_available, messages = try_cuda()
    for message in messages if not is_available else ():
        logger.warning("no GPU is used, although there is a driver: %s", message)
    return is_available


def try_cuda() -> tuple[bool, tuple[str, ...]]:
    """Returns whether PyTorch can use CUDA, and its warnings, one line each."""
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        is_available = torch.cuda.is_available()
    return is_available, tuple(" ".join(str(entry.message).split()) for entry in messages)


def _find_best_device() -> torch.device:
    if is_cuda_available():
        return torch.device("cuda", 0)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _parse_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in {"cpu", "cuda", "mps"}:
        msg = f"the device must be auto, cpu, cuda, cuda:N or mps, found {name!r}"
        raise DeviceError(msg)
    return device


def _check_cuda(device: torch.device) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.index or 0
    if index < count:
        return torch.device("cuda", index)
    found = f"PyTorch {torch.__version__} finds {count or 'no'} CUDA device{'' if count == 1 else 's'}"
    hint = "use --device cpu, or install a PyTorch built for CUDA and check the driver with nvidia-smi"
    msg = f"no device {device}: {found}; {hint if count == 0 else f'use cuda:0 to cuda:{count - 1}'}"
    raise DeviceError(msg)


def measure_free_memory(device: torch.device) -> int:
    """Measures the free bytes of a CUDA device, those that PyTorch keeps for reuse included.

    Of processes of one command that share it each has an equal part: what another one will need is free until then.
    """
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    own_bytes = torch.cuda.memory_allocated(device)
    part_bytes = total_bytes // count_processes_on_device()
    return max(0, min(free_bytes + torch.cuda.memory_reserved(device), part_bytes) - own_bytes)


def wait_for_device(device: torch.device) -> None:
    """Waits until a CUDA device has done what it was given; other devices are waited for anyway."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def collect_garbage(device: torch.device) -> None:
    """Frees what of a CUDA device's memory is held by reference cycles, as those of a compiled network are."""
    if device.type == "cuda":
        gc.collect()


def benchmark_kernels(device: torch.device) -> None:
    """Has a CUDA device try, for the rest of the process, every kernel of a convolution when a shape is first seen."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that the memory of a device or of the computer does not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS_OF_FULL_MEMORY)


@contextmanager
def translate_memory_errors(device: torch.device, *, purpose: str, advice: str) -> Iterator[None]:
    """Translates errors for lack of memory within the block.

    Args:
        device: Device that computes.
        purpose: Purpose of the memory, in words.
        advice: Advice for the user.

    Raises:
        DeviceError: The memory does not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        msg = f"{device} has too little memory for {purpose} ({_find_first_line(error)}); {advice}"
        raise DeviceError(msg) from error


def describe_error(error: BaseException) -> str:
    """Describes an error of PyTorch in one line: its kind, and the first line of its message."""
    line = _find_first_line(error)
    return line if line == type(error).__name__ else f"{type(error).__name__}: {line}"


def _find_first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:MOST_CHARACTERS]


def prepare_determinism() -> None:
    """Configures cuBLAS for reproducible results; must be called before the process first uses CUDA."""
    os.environ.setdefault(CUBLAS_VARIABLE, CUBLAS_VALUE)


def select_kernels(device: torch.device, *, deterministic: bool) -> None:
    """Selects deterministic or fastest kernels for the whole process.

    Results on a CPU are deterministic anyway. On a GPU, benchmarking the kernels pays, as all batches have one shape,
    but the kernel that is selected may differ from run to run, and fast kernels add in any order.
    """
    is_strict = deterministic and device.type == "cuda"
    if is_strict:
        prepare_determinism()
    torch.use_deterministic_algorithms(is_strict)
    torch.backends.cudnn.deterministic = is_strict
    torch.backends.cudnn.benchmark = not is_strict
