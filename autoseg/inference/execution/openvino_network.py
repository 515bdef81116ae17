"""Networks that OpenVINO runs on the CPU (`pip install autoseg[openvino]`)."""

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

from autoseg.runtime.precision import DtypeName

PRECISION_HINTS: Final[dict[DtypeName, str]] = {"float32": "f32", "bfloat16": "bf16"}
"""Always set: by default OpenVINO computes in bfloat16 wherever the CPU can."""
KEPT_COMPILATIONS: Final = 2


class OpenvinoNetwork(nn.Module):
    """A network that OpenVINO compiles, for any batch size.

    OpenVINO fixes the number of threads when it compiles, so another number of PyTorch's threads needs another
    compilation. The last `KEPT_COMPILATIONS` are kept, as a number that changes often changes back.
    """

    def __init__(self, compile_for: Callable[[int], Any]) -> None:
        super().__init__()
        self.compile_for = lru_cache(KEPT_COMPILATIONS)(compile_for)
        self.compile_for(torch.get_num_threads())

    def forward(self, image: Float32[Tensor, "batch channel *space"]) -> tuple[Float32[Tensor, "batch output ..."]]:
        """Returns logits of the full resolution, and nothing else."""
        compiled = self.compile_for(torch.get_num_threads())
        return (torch.from_numpy(compiled(image.contiguous().numpy())[0]),)


def find_openvino_version() -> str | None:
    """Returns the installed version; None if there is none."""
    return version("openvino") if importlib.util.find_spec("openvino") else None


def convert_network(
    network: nn.Module, *, channels: int, patch_voxels: tuple[int, ...], dtype: DtypeName
) -> OpenvinoNetwork:
    """Converts a network in single precision, as `build_network` builds it; the network itself is not changed.

    Args:
        network: Network on the CPU, in evaluation mode, with a single output.
        channels: Channels of the input.
        patch_voxels: Extents of the input.
        dtype: The dtype in which OpenVINO computes.

    Raises:
        RuntimeError: OpenVINO does not know an operation.
    """
    import openvino  # an extra, and slow to load

    batch = {0: torch.export.Dim("batch", min=1)}
    example = torch.zeros((2, channels, *patch_voxels))  # a batch of one would fix the batch size
    with _hide_warnings(), torch.no_grad():
        exported = torch.export.export(_FirstOutput(network), (example,), dynamic_shapes=(batch,), strict=False)
        converted = _convert(exported)
    settings = {
        "INFERENCE_PRECISION_HINT": PRECISION_HINTS[dtype],
        "ENABLE_CPU_PINNING": False,  # pinned threads wait for each other on a busy machine: 3 times as slow (measured)
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    return OpenvinoNetwork(
        lambda threads: core.compile_model(converted, "CPU", {**settings, "INFERENCE_NUM_THREADS": threads})
    )


def _convert(exported: torch.export.ExportedProgram) -> Any:
    # Not by openvino.convert_model, which sends usage statistics over the internet without asking.
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
    """Hides PyTorch's warnings about its own code, and OpenVINO's about operations that no network has.

    OpenVINO logs to the root logger, whose filters apply to its own records alone.
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
