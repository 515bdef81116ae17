"""Execution of a network in training: its memory format, and whether it is compiled."""

import functools
import logging
import os
from dataclasses import dataclass
from typing import Final

import torch

from autoseg.networks.blocks import CHANNELS_LAST, InstanceNormalization, has_fused_normalization
from autoseg.networks.families import build_network
from autoseg.networks.first_convolution import FirstConvolution
from autoseg.plan.document import ConfigurationPlan
from autoseg.runtime.device import describe_error
from autoseg.runtime.measurement_cache import find_measurement_cache
from autoseg.runtime.precision import DTYPES, DtypeName

CACHE_VARIABLE: Final = "TORCHINDUCTOR_CACHE_DIR"
COMPILED_CODE: Final = "compiled_code"
# Else torch.compile keeps as many processes as there are cores, beside a training that needs none.
ONE_COMPILING_PROCESS: Final = ("TORCHINDUCTOR_COMPILE_THREADS", "1")
FUSING_TOLERANCE: Final = 0.03
"""Largest difference of the fused normalization, as a part of the largest value. Rounding to bfloat16 makes 0.006
(measured, by Triton's interpreter)."""

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


def find_execution(plan: ConfigurationPlan, device: torch.device, dtype: DtypeName) -> TrainingExecution:
    """The usual way, without measuring: channels first; on a GPU in reduced precision channels last where the fused
    normalization works and the network has use for it.

    Matrix units of a GPU need channels last, but PyTorch's instance normalization converts them, which costs more: a
    step of a U-Net with patches of 128 cubed took 108 ms with channels last and 85 ms without (H100, bfloat16). The
    fused kernel adds up in a fixed order, so that it also serves where results are to repeat themselves.

    On a CPU convolutions are up to 1.2 times as fast with channels last, but normalization loses more than that
    (a step of the default Hippocampus plan in bfloat16: 1.84 s with channels last, 1.43 s without), and a compiled
    network is not faster.
    """
    if device.type == "cuda" and dtype != "float32" and _has_instance_normalization(plan):
        problem = find_fusing_problem(device, dtype)
        if problem is None:
            return TrainingExecution(memory_format=CHANNELS_LAST[plan.dimensions], is_norm_fused=True)
        logger.info("the fused normalization is not used: %s", problem)
    return TrainingExecution(memory_format=torch.contiguous_format)


def _has_instance_normalization(plan: ConfigurationPlan) -> bool:
    with torch.device("meta"):
        network = build_network(plan.network)
    return any(isinstance(module, InstanceNormalization) for module in network.modules())


@functools.cache
def find_fusing_problem(device: torch.device, dtype: DtypeName) -> str | None:
    """Tries the fused normalization on a few features; returns why it cannot be used, None if it can.

    Its kernels are compiled on the way, which may fail for want of a compiler or of Python's headers.
    """
    if not has_fused_normalization():
        return "Triton is not installed"
    try:
        from autoseg.networks.fused_normalization import measure_difference  # needs Triton

        difference = measure_difference(device, DTYPES[dtype])
    except Exception as error:  # whatever Triton raises, there is another way
        return f"it failed ({describe_error(error)})"
    # Not a number is no small difference.
    return None if difference <= FUSING_TOLERANCE else f"its values differ by {difference:.2g} from PyTorch's"


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
