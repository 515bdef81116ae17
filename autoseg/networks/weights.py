"""Reading and writing the weights of a network in a checkpoint, and the checksums of tensors in it.

The checksums are a tensor of the same file, so that neither is there without the other. Files of earlier versions, and
of other tools, have none.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from autoseg.errors import RunError
from autoseg.files.checksums import compute_crc32, compute_sha256
from autoseg.remote.local_files import use_local
from autoseg.run_folder import write_atomically

NETWORK_PREFIX: Final = "network."
LABEL_AUTOENCODER_PREFIX: Final = "label_autoencoder."
"""Beginning of the names of a label autoencoder that is no part of the network, but was used to train it."""

CHECKSUMS_NAME: Final = "checksums"
WEIGHT_DTYPES: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_weights(path: Path, wanted: Container[str] | None = None) -> dict[str, Tensor]:
    """Reads a network's weights from a checkpoint into RAM; whatever else is in the file is not loaded.

    Args:
        path: A checkpoint.
        wanted: Names of the weights to read, of which the file may lack some; None reads all.

    Returns:
        The tensors whose names start with `NETWORK_PREFIX`, under the names that the network's `load_state_dict` takes.

    Raises:
        RunError: The file is missing, damaged, or holds no network.
    """
    weights = _read_named(path, NETWORK_PREFIX, wanted)
    if not weights:
        msg = f"{path} holds no network: expected tensors named {NETWORK_PREFIX}..., found none; is it a checkpoint?"
        raise RunError(msg)
    return weights


def read_label_autoencoder(path: Path) -> dict[str, Tensor]:
    """Reads the weights of the label autoencoder with which a network was trained; empty if there are none.

    Raises:
        RunError: The file is missing or damaged.
    """
    return _read_named(path, LABEL_AUTOENCODER_PREFIX, None)


def _read_named(path: Path, prefix: str, wanted: Container[str] | None) -> dict[str, Tensor]:
    try:
        with use_local(path), safe_open(path, framework="pt", device="cpu") as checkpoint:
            found = [name for name in checkpoint.keys() if name.startswith(prefix)]  # noqa: SIM118 (no mapping)
            names = [name for name in found if wanted is None or name.removeprefix(prefix) in wanted]
            return {name.removeprefix(prefix): tensor for name, tensor in read_tensors(checkpoint, names)}
    except FileNotFoundError as error:
        msg = f"no checkpoint at {path}; train this fold first, or copy the file there"
        raise RunError(msg) from error
    except (SafetensorError, OSError, ValueError) as error:
        msg = f"the checkpoint {path} cannot be read ({error}); copy it again, or train this fold again"
        raise RunError(msg) from error


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
        if not tensor.is_floating_point():
            continue
        if tensor.dtype not in WEIGHT_DTYPES:
            return f"{name} holds {tensor.dtype}, expected one of {', '.join(map(str, WEIGHT_DTYPES))}"
        if not bool(torch.isfinite(tensor).all()):
            return f"{name} holds NaN or infinite values, as after a training that diverged"
    return None


def hash_weights(path: Path) -> str:
    """Computes the SHA-256 of a checkpoint, which identifies its weights.

    Raises:
        RunError: It is missing or cannot be read.
    """
    try:
        with use_local(path):
            return compute_sha256(path)
    except OSError as error:
        msg = (
            f"the checkpoint {path} cannot be read ({error.strerror or error}); train this fold again, or copy it there"
        )
        raise RunError(msg) from error


def serialize_weights(weights: Mapping[str, Tensor], label_autoencoder: Mapping[str, Tensor]) -> bytes:
    """Returns the content of the file that `write_weights` writes, with an autoencoder beside the network."""
    return save(_name_tensors(weights, label_autoencoder))


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
            save_file(_name_tensors(weights, {}), temporary)
    except SafetensorError as error:
        msg = f"cannot write {path}: {error}; free space or choose another place"
        raise RunError(msg) from error


def add_checksums(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """Adds the checksums of the header (names and metadata) and of the tensors, which must be contiguous."""
    checksums = [_compute_header_checksum(tensors, metadata)]
    checksums += [_compute_checksum(name, tensor) for name, tensor in sorted(tensors.items())]
    return {**tensors, CHECKSUMS_NAME: torch.tensor(checksums, dtype=torch.int64)}


def read_tensors(file: Any, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Reads tensors of an opened safetensors file and compares each with its checksum.

    Raises:
        SafetensorError: A tensor cannot be read.
        ValueError: A tensor, or the header, has changed since it was written.
    """
    checksums = _read_checksums(file)
    for name in names:
        tensor = file.get_tensor(name)
        if checksums:
            _compare(f"the tensor {name}", _compute_checksum(name, tensor), checksums[name])
        yield name, tensor


def read_metadata(file: Any) -> dict[str, str]:
    """Reads the metadata in the header of an opened safetensors file.

    Raises:
        SafetensorError: The checksum cannot be read.
        ValueError: The header has changed since it was written.
    """
    _read_checksums(file)
    return file.metadata() or {}


def _read_checksums(file: Any) -> dict[str, int]:
    """Reads the checksum of every tensor and checks that of the header; empty for files of earlier versions."""
    names = sorted(set(file.keys()) - {CHECKSUMS_NAME})
    if CHECKSUMS_NAME not in file.keys():  # noqa: SIM118 (no mapping)
        return {}
    stored = file.get_tensor(CHECKSUMS_NAME)
    if stored.dtype != torch.int64 or stored.shape != (1 + len(names),):
        msg = f"its checksums are {tuple(stored.shape)} numbers of {stored.dtype}, expected {1 + len(names)} of int64"
        raise ValueError(msg)
    header, *checksums = stored.tolist()
    _compare("the header", _compute_header_checksum(names, file.metadata() or {}), header)
    return dict(zip(names, checksums, strict=True))


def _compare(subject: str, found: int, expected: int) -> None:
    if found != expected:
        msg = f"{subject} has changed since it was written: its CRC-32 is {found:08x}, expected {expected:08x}"
        raise ValueError(msg)


def _compute_header_checksum(names: Iterable[str], metadata: Mapping[str, str]) -> int:
    return compute_crc32(repr((sorted(names), sorted(metadata.items()))).encode())


def _compute_checksum(name: str, tensor: Tensor) -> int:
    kind = compute_crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    return compute_crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, kind)


def _name_tensors(weights: Mapping[str, Tensor], label_autoencoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parts = ((NETWORK_PREFIX, weights), (LABEL_AUTOENCODER_PREFIX, label_autoencoder))
    named = {f"{prefix}{name}": tensor.contiguous() for prefix, part in parts for name, tensor in part.items()}
    return add_checksums(named, metadata={})
