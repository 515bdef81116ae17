"""Selects deterministic or fastest GPU kernels."""

import os
from typing import Final

import torch

# Without it, matrix products of cuBLAS may differ from run to run; read when CUDA is first used by the process
# (https://docs.nvidia.com/cuda/cublas, "Results reproducibility").
CUBLAS_VARIABLE: Final = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_VALUE: Final = ":4096:8"


def prepare_determinism() -> None:
    """Must come before the process uses CUDA for anything, such as measuring how long predictions will take."""
    os.environ.setdefault(CUBLAS_VARIABLE, CUBLAS_VALUE)


def choose_kernels(device: torch.device, *, deterministic: bool) -> None:
    """Decides for the whole process which kernels the device may use.

    Processors give the same result every time anyway. On a GPU, looking for the fastest kernels pays, as all batches
    have one shape, but which one is found may differ from run to run, and fast ones add in any order.
    """
    is_strict = deterministic and device.type == "cuda"
    if is_strict:
        prepare_determinism()
    torch.use_deterministic_algorithms(is_strict)
    torch.backends.cudnn.deterministic = is_strict
    torch.backends.cudnn.benchmark = not is_strict
