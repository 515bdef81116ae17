"""Networks that OpenVINO runs on the processor (`pip install autoseg[openvino]`)."""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Final

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from autoseg.networks.precision import NumberType

PRECISION_HINTS: Final[dict[NumberType, str]] = {"float32": "f32", "bfloat16": "bf16"}
"""Said explicitly: by itself, OpenVINO computes in bfloat16 wherever the processor can."""
KEPT_COMPILATIONS: Final = 2


class OpenvinoNetwork(nn.Module):
    """A network that OpenVINO compiles, for passes of any size.

    OpenVINO fixes the number of threads when it compiles, so another number of PyTorch's threads is another
    compilation. The last `KEPT_COMPILATIONS` are kept, as a number that changes often changes back.
    """

    def __init__(self, compile_for: Callable[[int], Any]) -> None:
        super().__init__()
        self.compile_for = lru_cache(KEPT_COMPILATIONS)(compile_for)
        self.compile_for(torch.get_num_threads())

    def forward(self, image: Float32[Tensor, "batch channel *space"]) -> tuple[Float32[Tensor, "batch output *space"]]:
        """Returns logits of the full resolution, and nothing else."""
        compiled = self.compile_for(torch.get_num_threads())
        return (torch.from_numpy(compiled(image.contiguous().numpy())[0]),)


def find_openvino_version() -> str | None:
    """The installed version; None if there is none."""
    return version("openvino") if importlib.util.find_spec("openvino") else None


def convert_network(
    network: nn.Module, *, channels: int, patch_voxels: tuple[int, ...], number_type: NumberType
) -> OpenvinoNetwork:
    """Converts a network in single precision, as `build_network` builds it; the network stays as it is.

    Args:
        network: On the processor, set to predict.
        channels: Of its input.
        patch_voxels: Of its input.
        number_type: In which OpenVINO is to compute.

    Raises:
        RuntimeError: OpenVINO does not know an operation.
    """
    import openvino  # an extra, and slow to load

    batch = {0: torch.export.Dim("batch", min=1)}
    example = torch.zeros((2, channels, *patch_voxels))  # an example of one patch would fix the number
    with _hide_warnings(), torch.no_grad():
        exported = torch.export.export(_FirstOutput(network), (example,), dynamic_shapes=(batch,), strict=False)
        converted = _convert(exported)
    settings = {
        "INFERENCE_PRECISION_HINT": PRECISION_HINTS[number_type],
        "ENABLE_CPU_PINNING": False,  # pinned threads wait for each other on a busy machine: 3 times as slow (measured)
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    return OpenvinoNetwork(
        lambda threads: core.compile_model(converted, "CPU", {**settings, "INFERENCE_NUM_THREADS": threads})
    )


def _convert(exported: torch.export.ExportedProgram) -> Any:
    # Not by openvino.convert_model, which reports its use to its makers over the network without asking.
    from openvino.frontend import FrontEndManager, GeneralFailure, OpConversionFailure, OpValidationFailure
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchFXPythonDecoder.from_exported_program(exported)  # must live until the end of the conversion
    try:
        return frontend.convert(frontend.load(decoder))
    except (GeneralFailure, OpConversionFailure, OpValidationFailure) as error:
        msg = f"OpenVINO cannot convert the network: {error}"
        raise RuntimeError(msg) from error


@contextmanager
def _hide_warnings() -> Iterator[None]:
    """Of PyTorch about its own code, and of OpenVINO about operations of PyTorch that no network has.

    OpenVINO writes its own to the root of all loggers, whose filters concern nothing else.
    """
    root = logging.getLogger()
    root.addFilter(_is_error)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        root.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


class _FirstOutput(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image)[0]
        return logits
