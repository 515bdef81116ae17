"""How busy the GPU is that PyTorch calls the first, read with the tool that comes with its driver."""

import os
import shutil
import subprocess
from typing import Final

QUERY: Final = ("--query-gpu=utilization.gpu", "--format=csv,noheader,nounits")


def measure_gpu_use() -> float | None:
    """Percent of the last moments in which a kernel ran; None where the driver does not tell."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"
    answer = subprocess.run([program, *QUERY, f"--id={visible}"], capture_output=True, text=True, check=False)
    try:
        return float(answer.stdout)
    except ValueError:
        return None
