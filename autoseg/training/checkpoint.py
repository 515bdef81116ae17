"""The state of a training in one safetensors file: tensors, and a JSON description in the header. No pickle.

Tensors: `network.<name>` for every entry of the network's state, `optimizer.<index>.momentum_buffer` for the weights
in the optimizer's order. No random state is needed: see `randomness.py`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import autoseg
from autoseg.document import Document, Part
from autoseg.errors import RunError, TrainingError
from autoseg.labels import LabelScheme
from autoseg.networks import NETWORK_PREFIX
from autoseg.plan import ChannelPlan, ConfigurationPlan
from autoseg.run_folder import write_atomically
from autoseg.training.folds import Fold
from autoseg.training.history import EpochRecord
from autoseg.training.step import Learner

SCHEMA_VERSION: Final = 1
DESCRIPTION_KEY: Final = "autoseg"
OPTIMIZER_PREFIX: Final = "optimizer."
MOMENTUM: Final = "momentum_buffer"


class TrainingIdentity(Part):
    """What must not change between the parts of an interrupted training.

    Attributes:
        plan_digest: Of the configuration's plan, the labels and the channels.
        fold_digest: Of the names of the training and validation cases.
    """

    plan_digest: str
    fold_digest: str
    epochs: int
    seed: int


class ScalerState(Part):
    """Of the gradient scaler that half precision needs.

    Attributes:
        scale: Factor on the loss.
        growth_tracker: Steps since the factor last changed.
    """

    scale: float
    growth_tracker: int


class CheckpointDescription(Document):
    """The JSON in the header of the file.

    Attributes:
        history: Of all finished epochs, whose number is where training continues.
        scaler: None outside CUDA.
    """

    schema_version: Literal[1] = 1
    autoseg_version: str
    identity: TrainingIdentity
    history: tuple[EpochRecord, ...]
    scaler: ScalerState | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What was read from a file.

    Attributes:
        tensors: By their names in the file, on the processor.
    """

    path: Path
    description: CheckpointDescription
    tensors: dict[str, Tensor]


def identify_training(
    plan: ConfigurationPlan, labels: LabelScheme, channels: Sequence[ChannelPlan], *, fold: Fold, epochs: int, seed: int
) -> TrainingIdentity:
    """Digests what decides about the course of a training."""
    return TrainingIdentity(
        plan_digest=_digest(plan, labels, *channels), fold_digest=_digest(fold), epochs=epochs, seed=seed
    )


def write_checkpoint(
    path: Path, learner: Learner, *, identity: TrainingIdentity, history: Sequence[EpochRecord], with_optimizer: bool
) -> None:
    """Writes the file atomically; only one with the optimizer's state can be continued from.

    Raises:
        RunError: The folder cannot be written or the disk is full.
    """
    description = CheckpointDescription(
        autoseg_version=autoseg.__version__,
        identity=identity,
        history=tuple(history),
        scaler=_describe_scaler(learner.scaler),
    )
    tensors = {f"{NETWORK_PREFIX}{name}": _copy(value) for name, value in learner.network.state_dict().items()}
    if with_optimizer:
        tensors |= _collect_momentum(learner)
    try:
        with write_atomically(path) as temporary:
            save_file(tensors, temporary, metadata={DESCRIPTION_KEY: description.model_dump_json()})
    except SafetensorError as error:
        msg = f"cannot write {path}: {error}; free space or choose another place"
        raise RunError(msg) from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint whole.

    Raises:
        TrainingError: It is damaged, not of autoseg, or of another version.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(DESCRIPTION_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        msg = f"{path} is damaged or no checkpoint: {error}; {_advise(path)}"
        raise TrainingError(msg) from error
    return Checkpoint(path=path, description=_parse_description(path, text), tensors=tensors)


def read_description(path: Path) -> CheckpointDescription:
    """Reads the JSON in the header, without the tensors.

    Raises:
        TrainingError: The file is damaged, not of autoseg, or of another version.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(DESCRIPTION_KEY)
    except (SafetensorError, OSError) as error:
        msg = f"{path} is damaged or no checkpoint: {error}; {_advise(path)}"
        raise TrainingError(msg) from error
    return _parse_description(path, text)


def restore_learner(checkpoint: Checkpoint, learner: Learner) -> None:
    """Puts weights, momentum and gradient scale back.

    Raises:
        TrainingError: The file does not hold the state of such a network and optimizer.
    """
    momentum_names = _name_momentum(learner)
    networks = {
        name.removeprefix(NETWORK_PREFIX): value
        for name, value in checkpoint.tensors.items()
        if name.startswith(NETWORK_PREFIX)
    }
    if checkpoint.description.history and not any(name in checkpoint.tensors for name in momentum_names):
        msg = f"{checkpoint.path} lacks the optimizer's state, so training cannot go on; {_advise(checkpoint.path)}"
        raise TrainingError(msg)
    try:
        learner.network.load_state_dict(networks)
    except RuntimeError as error:
        msg = f"{checkpoint.path} does not fit the planned network: {error}; {_advise(checkpoint.path)}"
        raise TrainingError(msg) from error
    for name, parameter in zip(momentum_names, learner.parameters, strict=True):
        if name in checkpoint.tensors:
            momentum = torch.empty_like(parameter, requires_grad=False).copy_(checkpoint.tensors[name])
            learner.optimizer.state[parameter][MOMENTUM] = momentum
    _restore_scaler(checkpoint.description.scaler, learner.scaler)


def check_identity(path: Path, stored: TrainingIdentity, identity: TrainingIdentity) -> None:
    """Checks that what is asked for is the training that a checkpoint belongs to.

    Raises:
        TrainingError: Names everything that differs.
    """
    problems = [
        f"{field} was {getattr(stored, field)}, now {getattr(identity, field)}"
        for field in ("epochs", "seed")
        if getattr(stored, field) != getattr(identity, field)
    ]
    changed = {"plan_digest": "the plan", "fold_digest": "the cases of the fold"}
    problems += [
        f"{subject} changed" for field, subject in changed.items() if getattr(stored, field) != getattr(identity, field)
    ]
    if problems:
        msg = (
            f"the training in {path.parent} is another one than is asked for and cannot be continued: "
            f"{'; '.join(problems)}; give what it was begun with, or begin again with --restart"
        )
        raise TrainingError(msg)


def _digest(*parts: Part) -> str:
    text = "\n".join(part.model_dump_json() for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()


def _copy(tensor: Tensor) -> Tensor:
    """A contiguous copy of its own on the processor; safetensors stores neither strides nor shared memory."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _name_momentum(learner: Learner) -> list[str]:
    return [f"{OPTIMIZER_PREFIX}{index}.{MOMENTUM}" for index in range(len(learner.parameters))]


def _collect_momentum(learner: Learner) -> dict[str, Tensor]:
    states = [learner.optimizer.state[parameter].get(MOMENTUM) for parameter in learner.parameters]
    pairs = zip(_name_momentum(learner), states, strict=True)
    return {name: _copy(state) for name, state in pairs if state is not None}


def _describe_scaler(scaler: torch.amp.GradScaler) -> ScalerState | None:
    state = scaler.state_dict()
    return ScalerState(scale=state["scale"], growth_tracker=state["_growth_tracker"]) if state else None


def _restore_scaler(state: ScalerState | None, scaler: torch.amp.GradScaler) -> None:
    if state is not None and scaler.is_enabled():
        scaler.load_state_dict({**scaler.state_dict(), "scale": state.scale, "_growth_tracker": state.growth_tracker})


def _parse_description(path: Path, text: str | None) -> CheckpointDescription:
    if text is None:
        msg = f"{path} was not written by autoseg's training; {_advise(path)}"
        raise TrainingError(msg)
    try:
        return CheckpointDescription.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(step) for step in problem["loc"])
        msg = (
            f"{path} was written by another version of autoseg ({field}: {problem['msg']}); "
            f"continue with the version that wrote it, or begin again with --restart"
        )
        raise TrainingError(msg) from error


def _advise(path: Path) -> str:
    return f"remove {path.name} or begin again with --restart"
