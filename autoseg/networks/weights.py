"""Reading and writing the weights of a network in a checkpoint, and the checksums of tensors in it.

The checksums are a tensor of the same file, so that neither is there without the other. Files of earlier versions have
none.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from isal import isal_zlib
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from autoseg.errors import RunError
from autoseg.run_folder import write_atomically
from autoseg.runtime.file_digests import compute_sha256

NETWORK_PREFIX: Final = "network."
CHECKSUMS_NAME: Final = "checksums"


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
            weights = {name.removeprefix(NETWORK_PREFIX): tensor for name, tensor in read_tensors(checkpoint, names)}
    except FileNotFoundError as error:
        msg = f"no checkpoint at {path}; train this fold first, or copy the file there"
        raise RunError(msg) from error
    except (SafetensorError, OSError, ValueError) as error:
        msg = f"the checkpoint {path} cannot be read ({error}); copy it again, or train this fold again"
        raise RunError(msg) from error
    if not weights:
        msg = f"{path} holds no network: expected tensors named {NETWORK_PREFIX}..., found none; is it a checkpoint?"
        raise RunError(msg)
    return weights


def hash_weights(path: Path) -> str:
    """Computes the SHA-256 of a checkpoint, which identifies its weights.

    Raises:
        RunError: It is missing or cannot be read.
    """
    try:
        return compute_sha256(path)
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


def add_checksums(tensors: Mapping[str, Tensor], description: str | None = None) -> dict[str, Tensor]:
    """Adds a tensor of checksums: a row for each tensor, and one for the description in the header of the file.

    A row has the CRC-32 of the name (empty for the description) and that of the content. Tensors must be contiguous.
    """
    rows = [(_compute_text_checksum(name), _compute_checksum(tensor)) for name, tensor in sorted(tensors.items())]
    if description is not None:
        rows.append((_compute_text_checksum(""), _compute_text_checksum(description)))
    return {**tensors, CHECKSUMS_NAME: torch.tensor(rows, dtype=torch.int64)}


def read_tensors(file: Any, names: Iterable[str]) -> Iterable[tuple[str, Tensor]]:
    """Reads tensors of an opened safetensors file and compares each with its checksum.

    Raises:
        SafetensorError: A tensor cannot be read.
        ValueError: A tensor has changed since it was written.
    """
    checksums = _read_checksums(file)
    for name in names:
        tensor = file.get_tensor(name)
        _compare(name, _compute_checksum(tensor), checksums)
        yield name, tensor


def check_description(file: Any, description: str) -> None:
    """Compares the description in the header of an opened safetensors file with its checksum.

    Raises:
        SafetensorError: The checksum cannot be read.
        ValueError: The description has changed since it was written.
    """
    _compare("", _compute_text_checksum(description), _read_checksums(file))


def _read_checksums(file: Any) -> Mapping[int, int]:
    """Reads the checksums by those of the names; none in files of earlier versions."""
    return dict(file.get_tensor(CHECKSUMS_NAME).tolist()) if CHECKSUMS_NAME in file.keys() else {}  # noqa: SIM118 (no mapping)


def _compare(name: str, found: int, checksums: Mapping[int, int]) -> None:
    expected = checksums.get(_compute_text_checksum(name), found)
    if found != expected:
        subject = f"the tensor {name}" if name else "the description in its header"
        msg = f"{subject} has changed since it was written: its CRC-32 is {found:08x}, expected {expected:08x}"
        raise ValueError(msg)


def _compute_checksum(tensor: Tensor) -> int:
    kind = _compute_text_checksum(f"{tensor.dtype} {tuple(tensor.shape)}")
    return isal_zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), kind)


def _compute_text_checksum(text: str) -> int:
    return isal_zlib.crc32(text.encode())


def _name_tensors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return add_checksums({f"{NETWORK_PREFIX}{name}": tensor.contiguous() for name, tensor in weights.items()})
