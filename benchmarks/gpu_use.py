"""How busy the first GPU is, read with the tool that comes with its driver."""

import shutil
import subprocess
from typing import Final

QUERY: Final = ("--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0")


def measure_gpu_use() -> float | None:
    """Percent of the last moments in which a kernel ran; None where the driver does not tell."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    answer = subprocess.run([program, *QUERY], capture_output=True, text=True, check=False)
    try:
        return float(answer.stdout)
    except ValueError:
        return None
