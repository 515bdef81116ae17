"""Reads PyTorch checkpoints, which are pickles, without executing anything that a file names.

A pickle can call any function that it names. PyTorch's restricted unpickler (`weights_only`) accepts tensors,
containers and numbers, and refuses every other name before anything is called. nnU-Net's checkpoints also contain
numpy scalars in their logs; these become placeholders here, so that numpy is not called either.
"""

import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from typing import Final

import torch
from torch import Tensor

from autoseg.errors import ExchangeError
from autoseg.networks.weights import WEIGHT_DTYPES


class Placeholder:
    """Placeholder for a value that is not needed; it ignores its content in the file."""

    def __init__(self, *arguments: object) -> None:
        del arguments

    def __setstate__(self, state: object) -> None:
        """Forgets the state."""


HARMLESS_NAMES: Final = (
    "numpy.core.multiarray.scalar",  # numpy 1
    "numpy._core.multiarray.scalar",  # numpy 2
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
)
"""Names in checkpoints of nnU-Net and Stable Diffusion besides PyTorch's own types; each is read as a `Placeholder`."""

PICKLE_NAME: Final = "data.pkl"
LARGEST_PICKLE_BYTES: Final = 2**26  # without tensors; nnU-Net's have less than 1 MiB
ZIP_BEGINNING: Final = b"PK\x03\x04"
LEGACY_BEGINNING: Final = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of PyTorch before 1.6
ZIP_ERRORS: Final = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError, OSError)

# Errors on damaged or hostile files, whose bytes are taken for pickle instructions.
READING_ERRORS: Final = (
    UnpicklingError, RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError, EOFError,
    OSError, ArithmeticError, MemoryError, struct.error,
)  # fmt: skip


def read_checkpoint_safely(path: Path, *, is_legacy_allowed: bool = False) -> object:
    """Reads a file of `torch.save` to the CPU: tensors, containers, strings and numbers.

    Args:
        path: The file.
        is_legacy_allowed: Whether it may have the form without a zip file, which has no checksums.

    Raises:
        ExchangeError: The file is missing, damaged or of another format, or names anything else. Nothing that it names
            was called.
    """
    if not path.is_file():
        msg = f"no checkpoint at {path}; copy the model folder again"
        raise ExchangeError(msg)
    if not (is_legacy_allowed and _is_legacy(path)):
        _check_zip(path)
    try:
        with _ignore_warnings(), torch.serialization.safe_globals([(Placeholder, name) for name in HARMLESS_NAMES]):
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except READING_ERRORS as error:
        raise ExchangeError(_describe(path)) from error
    return content


def find_storage_problem(tensor: Tensor) -> str | None:
    """Finds what a pickle can make of a few bytes: tensors without memory, or of more elements than were stored."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in WEIGHT_DTYPES:
        return f"are {tensor.dtype} on {tensor.device.type} ({tensor.layout}), expected floating-point numbers"
    needed, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if needed > stored:
        return f"have {needed} bytes in the shape {tuple(tensor.shape)}, but only {stored} bytes were stored"
    return None


def _is_legacy(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(len(LEGACY_BEGINNING)) == LEGACY_BEGINNING


def _check_zip(path: Path) -> None:
    """Checks the zip file and the checksums of its members, which PyTorch does not verify."""
    problem = _find_zip_problem(path)
    if problem is not None:
        msg = f"{path} cannot be read as a checkpoint: {problem}"
        raise ExchangeError(msg)


def _find_zip_problem(path: Path) -> str | None:
    try:
        with path.open("rb") as handle:
            beginning = handle.read(len(ZIP_BEGINNING))
        if not beginning:
            return "it is empty; copy it again"
        if beginning != ZIP_BEGINNING:
            return (
                "it is not in the zip form that torch.save writes since PyTorch 1.6 and that checkpoints of nnU-Net v2 "
                "always have; it was not opened and nothing was run. Copy it again, or save it in that form where it "
                "was made"
            )
        if not zipfile.is_zipfile(path):
            return "it begins as a zip file but is cut short; copy it again"
        with zipfile.ZipFile(path) as archive:
            problem = _find_member_problem(archive.infolist(), path.stat().st_size)
            damaged = archive.testzip() if problem is None else None
    except ZIP_ERRORS:
        return "it is a damaged zip file; copy it again"
    if problem is not None:
        return problem
    return None if damaged is None else f"its part {damaged} is damaged (wrong checksum); copy it again"


def _find_member_problem(members: Sequence[zipfile.ZipInfo], file_bytes: int) -> str | None:
    """Compares the sizes of all parts with the file: torch.save compresses nothing."""
    unpacked = sum(member.file_size for member in members)
    if unpacked > file_bytes:
        return (
            f"its parts unpack to {unpacked / 2**20:.0f} MiB, more than the {file_bytes / 2**20:.1f} MiB of the file, "
            f"but torch.save compresses nothing; it was not opened and nothing was run"
        )
    pickles = [member for member in members if PurePosixPath(member.filename).name == PICKLE_NAME]
    if any(member.file_size > LARGEST_PICKLE_BYTES for member in pickles):
        return f"its list of tensors has more than {LARGEST_PICKLE_BYTES / 2**20:.0f} MiB; nothing was run"
    if len({member.filename for member in members}) < len(members):
        return "it holds a part twice; nothing was run"
    return None


@contextmanager
def _ignore_warnings() -> Iterator[None]:
    """Ignores warnings about old or unusual pickles, as anything that cannot be read is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _describe(path: Path) -> str:
    names = _list_refused_names(path)
    if names:
        return (
            f"{path} is refused: beside weights it names {', '.join(names)}, which a full pickle reader would import "
            f"and may call; nothing was run. A checkpoint written by nnU-Net names no such thing: do not open this "
            f"file with other tools unless you trust who made it"
        )
    return (
        f"{path} cannot be read as a checkpoint: its content is not what torch.save writes of weights; nothing was "
        f"run. Copy it again, and do not open it with other tools unless you trust who made it"
    )


def _list_refused_names(path: Path) -> list[str]:
    """Lists names in a file that are neither PyTorch's nor harmless; empty if it is not a checkpoint."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except READING_ERRORS:
        return []
    return sorted(set(names) - set(HARMLESS_NAMES))
