"""Reading and writing the weights of a network in a checkpoint."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from autoseg.errors import RunError
from autoseg.run_folder import write_atomically

NETWORK_PREFIX: Final = "network."


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads a network's weights from a checkpoint into RAM; whatever else is in the file is not loaded.

    Returns:
        The tensors whose names start with `NETWORK_PREFIX`, under the names that the network's `load_state_dict` takes.

    Raises:
        RunError: The file is missing, damaged, or holds no network.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as checkpoint:
            names = [name for name in checkpoint.keys() if name.startswith(NETWORK_PREFIX)]  # noqa: SIM118 (no mapping)
            weights = {name.removeprefix(NETWORK_PREFIX): checkpoint.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        msg = f"no checkpoint at {path}; train this fold first, or copy the file there"
        raise RunError(msg) from error
    except (SafetensorError, OSError) as error:
        msg = f"the checkpoint {path} cannot be read ({error}); copy it again, or train this fold again"
        raise RunError(msg) from error
    if not weights:
        msg = f"{path} holds no network: expected tensors named {NETWORK_PREFIX}..., found none; is it a checkpoint?"
        raise RunError(msg)
    return weights


def find_weight_problem(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """Returns why weights cannot be those of a network, although their names and shapes may fit; None if they can.

    Args:
        weights: Tensors that were read.
        expected: State of the network, which may lie on the meta device.
    """
    for name, tensor in weights.items():
        wanted = expected.get(name)
        if wanted is not None and wanted.is_floating_point() != tensor.is_floating_point():
            return f"{name} holds {tensor.dtype}, expected {wanted.dtype}"
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return f"{name} holds NaN or infinite values, as after a training that diverged"
    return None


def hash_weights(path: Path) -> str:
    """Computes the SHA-256 of a checkpoint, which identifies its weights.

    Raises:
        RunError: It is missing or cannot be read.
    """
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        msg = (
            f"the checkpoint {path} cannot be read ({error.strerror or error}); train this fold again, or copy it there"
        )
        raise RunError(msg) from error


def serialize_weights(weights: Mapping[str, Tensor]) -> bytes:
    """Returns the content of the file that `write_weights` writes."""
    return save(_name_tensors(weights))


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes a network's weights alone, atomically: enough to predict with, not enough to continue a training.

    Equal weights become equal files.

    Args:
        path: File to write.
        weights: Tensors under the names of the network's `state_dict`.

    Raises:
        RunError: The folder cannot be written or the disk is full.
    """
    try:
        with write_atomically(path) as temporary:
            save_file(_name_tensors(weights), temporary)
    except SafetensorError as error:
        msg = f"cannot write {path}: {error}; free space or choose another place"
        raise RunError(msg) from error


def _name_tensors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{NETWORK_PREFIX}{name}": tensor.contiguous() for name, tensor in weights.items()}
