"""Execution of a network in training: its memory format, and whether it is compiled."""

import logging
import os
from dataclasses import dataclass
from typing import Final

import torch

from autoseg.networks.blocks import CHANNELS_LAST
from autoseg.networks.first_convolution import FirstConvolution
from autoseg.runtime.measurement_cache import find_measurement_cache
from autoseg.runtime.precision import DtypeName

CACHE_VARIABLE: Final = "TORCHINDUCTOR_CACHE_DIR"
COMPILED_CODE: Final = "compiled_code"
# Else torch.compile keeps as many processes as there are cores, beside a training that needs none.
ONE_COMPILING_PROCESS: Final = ("TORCHINDUCTOR_COMPILE_THREADS", "1")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingExecution:
    """One way to execute a network; all ways compute the same up to rounding.

    Attributes:
        memory_format: Memory format of inputs and weights.
        compiler: Backend of torch.compile; None: PyTorch executes one operation after the other.
        is_captured: Whether training steps are captured as a CUDA graph and replayed.
        is_norm_fused: Whether instance normalizations, with the activations after them, are computed by a kernel for
            channels last.
        first_convolution: Form of the convolutions of the image; None: as all others.
        dtype: The dtype in which the network computes; None: that of the options.
    """

    memory_format: torch.memory_format
    compiler: str | None = None
    is_captured: bool = False
    is_norm_fused: bool = False
    first_convolution: FirstConvolution | None = None
    dtype: DtypeName | None = None

    def describe(self) -> str:
        """Describes the execution in messages."""
        order = "channels first" if self.memory_format == torch.contiguous_format else "channels last"
        choices = {
            f"first convolution {self.first_convolution}": self.first_convolution is not None,
            f"{self.dtype}": self.dtype is not None,
            "fused normalization": self.is_norm_fused,
            "compiled": self.compiler is not None,
            "CUDA graph": self.is_captured,
        }
        return ", ".join([order, *(name for name, is_chosen in choices.items() if is_chosen)])


def find_execution(dimensions: int, device: torch.device, dtype: DtypeName) -> TrainingExecution:
    """The usual way, without measuring: channels last on a GPU in reduced precision, whose matrix units need it; else
    channels first.

    On a CPU convolutions are up to 1.2 times as fast with channels last, but normalization loses more than that
    (a step of the default Hippocampus plan in bfloat16: 1.84 s with channels last, 1.43 s without), and a compiled
    network is not faster.
    """
    if device.type == "cuda" and dtype != "float32":
        return TrainingExecution(memory_format=CHANNELS_LAST[dimensions])
    return TrainingExecution(memory_format=torch.contiguous_format)


def prepare_compiler() -> None:
    """Has torch.compile keep its code in the user's cache folder, where the next training of a plan finds it.

    By itself PyTorch keeps it in the folder for temporary files, which a computer empties. A folder that is named by
    the environment is respected, and so is the number of processes that compile.
    """
    os.environ.setdefault(*ONE_COMPILING_PROCESS)
    folder = find_measurement_cache(COMPILED_CODE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning("compiled code is not kept for the next training: %s", error)
    else:
        os.environ.setdefault(CACHE_VARIABLE, str(folder))
