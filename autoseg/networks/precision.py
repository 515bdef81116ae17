"""Floating-point dtypes for mixed precision; weights and sums stay in single precision."""

from contextlib import AbstractContextManager
from typing import Final, Literal

import torch

from autoseg.errors import DeviceError

Precision = Literal["auto", "float32", "bfloat16", "float16"]
"""What the user may ask for."""

NumberType = Literal["float32", "bfloat16", "float16"]
"""What a network computes in."""

NUMBER_TYPES: Final[dict[NumberType, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
NATIVE_BFLOAT16: Final = ("avx512_bf16", "amx_bf16")
"""Instructions that multiply bfloat16 (x86), as PyTorch names them; without them it is emulated and slower."""


def find_number_type(device: torch.device, precision: Precision) -> NumberType:
    """What a network computes in on a device; "auto" is the fastest of which training and labels are known to be kept.

    CUDA: bfloat16 where the GPU computes in it (Ampere and later), else float16. Processors: bfloat16 where they have
    instructions for it (2 to 3 times as fast as float32, 0.01 % of the labels differ: measured), else float32. MPS:
    float32, as nothing else was measured.

    Raises:
        DeviceError: The device has no fast way to compute in the wanted numbers.
    """
    if precision == "auto":
        return _find_fastest(device)
    if precision == "float16" and device.type == "cpu":
        msg = "float16 needs a GPU (processors compute in it slowly or not at all); use --precision bfloat16 or float32"
        raise DeviceError(msg)
    return precision


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Within it, networks on this device compute in the given numbers; see `find_number_type`.

    Raises:
        DeviceError: The device has no fast way to compute in the wanted numbers.
    """
    number_type = find_number_type(device, precision)
    is_reduced = number_type != "float32"
    return torch.autocast(device.type, dtype=NUMBER_TYPES[number_type] if is_reduced else None, enabled=is_reduced)


def _find_fastest(device: torch.device) -> NumberType:
    if device.type == "cuda":
        with torch.cuda.device(device):
            return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if device.type == "cpu" and _has_native_bfloat16() else "float32"


def _has_native_bfloat16() -> bool:
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in NATIVE_BFLOAT16)
    # Earlier versions of PyTorch answer the same question without a public name.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
