"""Reads nnU-Net's checkpoints: weights, trainer, configuration and mirroring axes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from autoseg.errors import ExchangeError
from autoseg.networks.safe_unpickling import find_storage_problem, read_checkpoint_safely
from autoseg.plan.values import LONGEST_TRAINING

MOST_AXES: Final = 3
MOST_REPETITIONS: Final = 16  # nnU-Net's own names repeat a tensor up to four times
WRAPPER_PREFIXES: Final = ("module.", "_orig_mod.")  # of distributed and of compiled networks


@dataclass(frozen=True, slots=True, kw_only=True)
class NnunetCheckpoint:
    """The part of a checkpoint that prediction needs.

    Attributes:
        weights: Weights by nnU-Net's names, on the CPU.
        trainer: Name of the trainer class.
        configuration: Name of the configuration that the network was built from.
        mirror_axes: Axes of the patch for test-time mirroring.
        epochs: Number of finished epochs.
    """

    path: Path
    weights: dict[str, Tensor]
    trainer: str
    configuration: str
    mirror_axes: tuple[int, ...]
    epochs: int


def read_nnunet_checkpoint(path: Path) -> NnunetCheckpoint:
    """Reads a checkpoint of nnU-Net v2; nothing in it is executed.

    Raises:
        ExchangeError: It is missing, damaged, refused, not of nnU-Net v2, or holds weights that are not finite.
    """
    content = read_checkpoint_safely(path)
    if not isinstance(content, Mapping):
        msg = f"{path} is no checkpoint of nnU-Net v2: expected a dictionary, found {type(content).__name__}"
        raise ExchangeError(msg)
    arguments = _get_value(content, "init_args", path, Mapping)
    return NnunetCheckpoint(
        path=path,
        weights=_get_weights(content, path),
        trainer=_get_value(content, "trainer_name", path, str),
        configuration=_get_value(arguments, "configuration", path, str),
        mirror_axes=_get_axes(content.get("inference_allowed_mirroring_axes"), path),
        epochs=_get_epochs(content, path),
    )


def _get_value(content: Mapping[Any, Any], key: str, path: Path, kind: type[Any]) -> Any:
    value = content.get(key)
    if not isinstance(value, kind):
        known = ", ".join(sorted(name for name in content if isinstance(name, str))) or "nothing"
        msg = (
            f"{path} is no checkpoint of nnU-Net v2: expected {key!r} ({kind.__name__}) in it, found "
            f"{'none' if value is None else type(value).__name__}; it holds: {known:.300}"
        )
        raise ExchangeError(msg)
    return value


def _get_epochs(content: Mapping[Any, Any], path: Path) -> int:
    epochs: int = _get_value(content, "current_epoch", path, int) if "current_epoch" in content else 0
    if not 0 <= epochs <= LONGEST_TRAINING:
        msg = f"{path}: current_epoch must lie between 0 and {LONGEST_TRAINING}; is it a checkpoint of nnU-Net v2?"
        raise ExchangeError(msg)
    return epochs


def _get_weights(content: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    weights = {}
    for name, tensor in _get_value(content, "network_weights", path, Mapping).items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            msg = f"{path}: network_weights must map names to tensors, found {name!r}: {type(tensor).__name__}"
            raise ExchangeError(msg)
        problem = find_storage_problem(tensor)
        if problem is not None:
            msg = f"{path}: the weights {name:.200} {problem}; no checkpoint of nnU-Net holds such, so it is refused"
            raise ExchangeError(msg)
        if not bool(torch.isfinite(tensor).all()):
            msg = (
                f"{path}: all weights must be finite, found NaN or infinite values in {name}; copy it again, or take "
                f"another checkpoint or fold if the training had diverged"
            )
            raise ExchangeError(msg)
        for prefix in WRAPPER_PREFIXES:
            name = name.removeprefix(prefix)
        weights[name] = tensor
    _check_repetitions(weights, path)
    return weights


def _check_repetitions(weights: Mapping[str, Tensor], path: Path) -> None:
    """Checks that names do not share memory more often than nnU-Net's do, as a copy of each is made."""
    needed = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    stored = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in weights.values()}
    if needed > MOST_REPETITIONS * sum(stored.values()):
        msg = (
            f"{path}: {len(weights)} tensors of {needed / 2**20:.0f} MiB share {sum(stored.values()) / 2**20:.1f} MiB "
            f"of memory; no checkpoint of nnU-Net does so, and it is refused"
        )
        raise ExchangeError(msg)


def _get_axes(axes: object, path: Path) -> tuple[int, ...]:
    if axes is None:
        return ()
    if not isinstance(axes, (tuple, list)) or not all(type(axis) is int and 0 <= axis < MOST_AXES for axis in axes):
        msg = f"{path}: inference_allowed_mirroring_axes must list axes from 0 to 2, found {_describe_value(axes)}"
        raise ExchangeError(msg)
    return tuple(axes)


def _describe_value(value: object) -> str:
    """Describes a value of a pickle, which may contain itself or refer to a part of it any number of times."""
    if isinstance(value, (tuple, list)) and len(value) <= MOST_AXES:
        return f"[{', '.join(str(part) if isinstance(part, int) else type(part).__name__ for part in value)}]"
    return str(value) if isinstance(value, int) else type(value).__name__
