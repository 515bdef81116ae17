"""Measures the use of a CUDA device, and finds out whether several processes may compute on it side by side."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

QUERY: Final = ("--query-gpu=utilization.gpu", "--format=csv,noheader,nounits")
LONGEST_SECONDS: Final = 5.0
MPS_VARIABLE: Final = "CUDA_MPS_PIPE_DIRECTORY"
MPS_FOLDER: Final = "/tmp/nvidia-mps"  # the default of NVIDIA's Multi-Process Service
MPS_PIPE: Final = "control"
SHARING_VARIABLE: Final = "AUTOSEG_PROCESSES_ON_DEVICE"
"""Environment variable that tells a process how many compute on its device, itself included."""


def measure_device_use(index: int = 0) -> float | None:
    """Measures the fraction of the last moments in which a CUDA device computed; None where its driver does not tell.

    Args:
        index: Number of the device, as PyTorch counts.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    name = visible[index] if index < len(visible) else str(index)
    command = [program, *QUERY, f"--id={name}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST_SECONDS)
        return float(answer.stdout) / 100
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def count_processes_on_device() -> int:
    """Returns how many processes of one command share the device of this one, itself included."""
    text = os.environ.get(SHARING_VARIABLE, "")
    return max(1, int(text)) if text.isdecimal() else 1


def describe_sharing() -> str:
    """Describes how processes share a CUDA device: side by side with NVIDIA's Multi-Process Service, or in turn."""
    folder = Path(os.environ.get(MPS_VARIABLE) or MPS_FOLDER)
    if (folder / MPS_PIPE).exists():
        return f"NVIDIA's Multi-Process Service runs ({folder}), so that they compute side by side"
    return "NVIDIA's Multi-Process Service does not run (nvidia-cuda-mps-control -d starts it), so that they take turns"
