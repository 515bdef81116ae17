"""Reads nnU-Net's checkpoints: weights, trainer, configuration and mirroring axes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from autoseg.errors import ExchangeError
from autoseg.exchange.safe_unpickling import read_checkpoint_safely

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
        epochs=_get_value(content, "current_epoch", path, int) if "current_epoch" in content else 0,
    )


def _get_value(content: Mapping[Any, Any], key: str, path: Path, kind: type[Any]) -> Any:
    value = content.get(key)
    if not isinstance(value, kind):
        known = ", ".join(sorted(str(name) for name in content)) or "nothing"
        msg = (
            f"{path} is no checkpoint of nnU-Net v2: expected {key!r} ({kind.__name__}) in it, found "
            f"{'none' if value is None else type(value).__name__}; it holds: {known:.300}"
        )
        raise ExchangeError(msg)
    return value


def _get_weights(content: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    weights = {}
    for name, tensor in _get_value(content, "network_weights", path, Mapping).items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            msg = f"{path}: network_weights must map names to tensors, found {name!r}: {type(tensor).__name__}"
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
    return weights


def _get_axes(axes: object, path: Path) -> tuple[int, ...]:
    if axes is None:
        return ()
    if not isinstance(axes, (tuple, list)) or not all(isinstance(axis, int) for axis in axes):
        msg = f"{path}: inference_allowed_mirroring_axes must list axes, found {axes!r:.80}"
        raise ExchangeError(msg)
    return tuple(axes)
