"""The state of a training in one safetensors file: tensors, and a JSON description in the header. No pickle.

Tensors: `network.<name>` for every entry of the network's state; in a checkpoint to continue from also
`optimizer.<index>.<name>` for what the optimizer keeps of each weight, `average.<index>` for the moving average of the
network's weights, both in the optimizer's order, behind them of its averaged buffers, and `objective.<name>` for every
entry of the objective's state, if it has one. A checkpoint to predict with holds the average as its network. No random
state is needed: see `autoseg.training.data.randomness`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import autoseg
from autoseg.document import Document, Part, Upgrade, upgrade_content
from autoseg.errors import DocumentError, RunError, TrainingError
from autoseg.labels import LabelScheme
from autoseg.networks.weights import (
    CHECKSUMS_NAME,
    LABEL_AUTOENCODER_PREFIX,
    NETWORK_PREFIX,
    add_checksums,
    find_weight_problem,
    read_metadata,
    read_tensors,
)
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.preprocessing import ChannelPlan
from autoseg.remote.local_files import use_local
from autoseg.run_folder import write_atomically
from autoseg.training.data.training_data import TrainingData
from autoseg.training.learner import Learner
from autoseg.training.loop_state import LoopState, TrainingIdentity
from autoseg.training.monitoring.history import EpochRecord, PartialEpoch
from autoseg.training.optimization.optimizer import find_count_device, keeps_moments
from autoseg.training.optimization.schedule import Schedule
from autoseg.untrusted.json_reading import parse_json

DESCRIPTION_KEY: Final = "autoseg"
OPTIMIZER_PREFIX: Final = "optimizer."
AVERAGE_PREFIX: Final = "average."
OBJECTIVE_PREFIX: Final = "objective."
WITHOUT_INFLUENCE: Final = {
    "training": {"sufficient_iterations", "plausibility", "synthetic_fraction", "synthetic_end_fraction"}
}
"""Fields of a plan that decide nothing about a training; the last two are told by the digest of synthetic cases."""


class ScalerState(Part):
    """State of the gradient scaler that half precision needs.

    Attributes:
        scale: Factor on the loss.
        growth_tracker: Steps since the factor last changed.
    """

    scale: float
    growth_tracker: int


def _drop_digest(description: dict[str, Any]) -> dict[str, Any]:
    """Drops the digest of an earlier version, which was of a plan in another form and so cannot be compared."""
    identity = description.get("identity")
    if isinstance(identity, dict):
        identity = identity | {"plan_digest": None}
    return description | {"identity": identity, "schema_version": 3}


class CheckpointDescription(Document):
    """The JSON in the header of the file.

    Attributes:
        schedule: The schedule when the file was written.
        history: Records of all finished epochs, whose number is where training continues.
        partial_epoch: The finished part of the epoch after them; None between two epochs.
        scaler: Only for training in float16.
        average_updates: Number of updates of the moving average; None without one.
    """

    upgrades: ClassVar[Mapping[int | None, Upgrade]] = {1: _drop_digest, 2: _drop_digest}

    schema_version: Literal[3] = 3
    autoseg_version: str
    identity: TrainingIdentity
    schedule: Schedule
    history: tuple[EpochRecord, ...]
    partial_epoch: PartialEpoch | None = None
    scaler: ScalerState | None
    average_updates: int | None

    @property
    def reached(self) -> tuple[int, int]:
        """Finished epochs, and training iterations of the epoch after them; of two states the later one has more."""
        return len(self.history), 0 if self.partial_epoch is None else len(self.partial_epoch.train_losses)

    @property
    def trained_iterations(self) -> int:
        """Training iterations of all finished epochs."""
        return len(self.history) * self.schedule.iterations_per_epoch

    @property
    def spent_seconds(self) -> float:
        """Seconds spent on training so far, without saving."""
        begun = 0.0 if self.partial_epoch is None else self.partial_epoch.seconds
        return sum(record.seconds for record in self.history) + begun


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was read from a file.

    Attributes:
        tensors: Tensors by their names in the file, on the CPU.
    """

    path: Path
    description: CheckpointDescription
    tensors: dict[str, Tensor]


def identify_training(
    plan: ConfigurationPlan,
    data: TrainingData,
    *,
    seed: int,
    initial_digest: str | None = None,
    teacher_digest: str | None = None,
) -> TrainingIdentity:
    """Computes the digests of everything that affects the course of a training."""
    return TrainingIdentity(
        plan_digest=digest_plan(plan, data.labels, data.channels),
        fold_digest=_digest(data.fold),
        seed=seed,
        previous_digest=data.previous_digest,
        initial_digest=initial_digest,
        synthetic_digest=data.synthetic_digest,
        teacher_digest=teacher_digest,
    )


def digest_plan(plan: ConfigurationPlan, labels: LabelScheme, channels: Sequence[ChannelPlan]) -> str:
    """Computes the digest of everything in a plan that affects the course of a training."""
    return _digest(plan, labels, *channels, exclude=WITHOUT_INFLUENCE)


def write_resumable_checkpoint(path: Path, state: LoopState) -> None:
    """Writes everything that is needed to resume training, atomically.

    Raises:
        RunError: The folder cannot be written or the disk is full.
    """
    learner = state.learner
    tensors = _collect_weights(learner) | _collect_optimizer_state(learner) | _collect_average(learner)
    _write(path, state, tensors | _collect_objective(learner))


def write_network_checkpoint(path: Path, state: LoopState) -> None:
    """Writes what prediction needs, atomically: the network with its moving average, where there is one, and the label
    autoencoder beside it.

    Raises:
        RunError: The folder cannot be written or the disk is full.
    """
    with state.learner.averaged_weights():
        _write(path, state, _collect_weights(state.learner) | _collect_label_autoencoder(state.learner))


def _write(path: Path, state: LoopState, tensors: dict[str, Tensor]) -> None:
    average = state.learner.average
    description = CheckpointDescription(
        autoseg_version=autoseg.__version__,
        identity=state.identity,
        schedule=state.schedule,
        history=tuple(state.history),
        partial_epoch=state.partial_epoch,
        scaler=_describe_scaler(state.learner.scaler),
        average_updates=None if average is None else average.updates,
    )
    try:
        with write_atomically(path) as temporary:
            metadata = {DESCRIPTION_KEY: description.model_dump_json()}
            save_file(add_checksums(tensors, metadata), temporary, metadata=metadata)
    except SafetensorError as error:
        msg = f"cannot write {path}: {error}; free space or choose another place"
        raise RunError(msg) from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a whole checkpoint.

    Raises:
        TrainingError: It is damaged, not of autoseg, or of another version.
    """
    try:
        with use_local(path), safe_open(path, framework="pt", device="cpu") as file:
            text = read_metadata(file).get(DESCRIPTION_KEY)
            tensors = dict(read_tensors(file, [name for name in file.keys() if name != CHECKSUMS_NAME]))  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        msg = f"{path} is damaged or no checkpoint: {error}; {_advise(path)}"
        raise TrainingError(msg) from error
    return Checkpoint(path=path, description=_parse_description(path, text), tensors=tensors)


def read_description(path: Path) -> CheckpointDescription:
    """Reads the JSON in the header, without the tensors.

    Raises:
        TrainingError: The file is damaged, not of autoseg, or of another version.
    """
    try:
        with use_local(path), safe_open(path, framework="pt", device="cpu") as file:
            text = read_metadata(file).get(DESCRIPTION_KEY)
    except (SafetensorError, OSError, ValueError) as error:
        msg = f"{path} is damaged or no checkpoint: {error}; {_advise(path)}"
        raise TrainingError(msg) from error
    return _parse_description(path, text)


def restore_learner(checkpoint: Checkpoint, learner: Learner) -> None:
    """Restores weights, their average, the optimizer's state and the gradient scale.

    Raises:
        TrainingError: The file does not hold the state of such a network and optimizer.
    """
    is_begun = checkpoint.description.reached > (0, 0) and keeps_moments(learner.optimizer)
    if is_begun and not any(name.startswith(OPTIMIZER_PREFIX) for name in checkpoint.tensors):
        msg = (
            f"{checkpoint.path} lacks the optimizer's state, so training cannot be resumed; {_advise(checkpoint.path)}"
        )
        raise TrainingError(msg)
    restore_weights(checkpoint, learner)
    _check_optimizer_state(checkpoint, learner)
    _load_state(checkpoint, learner.objective, OBJECTIVE_PREFIX, subject="objective")
    for index, parameter in enumerate(learner.parameters):
        prefix = f"{OPTIMIZER_PREFIX}{index}."
        state = {
            name.removeprefix(prefix): _place_like(value, parameter, learner.optimizer)
            for name, value in checkpoint.tensors.items()
            if name.startswith(prefix)
        }
        if state:
            learner.optimizer.state[parameter] = state
    if learner.average is not None:
        for name, value in _list_stored_averages(checkpoint, learner).items():
            value.copy_(checkpoint.tensors[name])
        learner.average.updates = checkpoint.description.average_updates or 0
    _restore_scaler(checkpoint.description.scaler, learner.scaler)


def _check_optimizer_state(checkpoint: Checkpoint, learner: Learner) -> None:
    """Checks the tensors that belong to single weights: moments and averages have their shape, counts one value."""
    averaged = _list_stored_averages(checkpoint, learner)
    problem = find_weight_problem(checkpoint.tensors, averaged)
    for name, value in averaged.items():
        if name not in checkpoint.tensors or checkpoint.tensors[name].shape != value.shape:
            problem = problem or f"{name} is missing or has another shape than {tuple(value.shape)}"
    for index, parameter in enumerate(learner.parameters):
        prefix = f"{OPTIMIZER_PREFIX}{index}."
        for name, value in checkpoint.tensors.items():
            if name.startswith(prefix) and value.numel() != 1 and value.shape != parameter.shape:
                problem = problem or f"{name} has the shape {tuple(value.shape)}, its weight {tuple(parameter.shape)}"
    if problem is not None:
        msg = f"{checkpoint.path} does not fit the planned optimizer: {problem}; {_advise(checkpoint.path)}"
        raise TrainingError(msg)


def _list_stored_averages(checkpoint: Checkpoint, learner: Learner) -> dict[str, Tensor]:
    count = sum(name.startswith(AVERAGE_PREFIX) for name in checkpoint.tensors)
    values = [] if learner.average is None else learner.average.list_stored(count)
    return {f"{AVERAGE_PREFIX}{index}": value for index, value in enumerate(values)}


def restore_weights(checkpoint: Checkpoint, learner: Learner) -> None:
    """Restores the weights, and starts their average with them.

    Raises:
        TrainingError: They belong to another network.
    """
    _load_state(checkpoint, learner.network, NETWORK_PREFIX, subject="network")
    if learner.average is not None:
        for value, tensor in zip(learner.average.values, learner.average.averaged, strict=True):
            value.copy_(tensor.detach())


def _load_state(checkpoint: Checkpoint, module: nn.Module, prefix: str, *, subject: str) -> None:
    state = {name.removeprefix(prefix): value for name, value in checkpoint.tensors.items() if name.startswith(prefix)}
    problem = find_weight_problem(state, module.state_dict())
    if problem is not None:
        msg = f"{checkpoint.path} cannot be used: {problem}; {_advise(checkpoint.path)}"
        raise TrainingError(msg)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        msg = f"{checkpoint.path} does not fit the planned {subject}: {error}; {_advise(checkpoint.path)}"
        raise TrainingError(msg) from error


def _digest(*parts: Part, exclude: dict[str, set[str]] | None = None) -> str:
    text = "\n".join(part.model_dump_json(exclude=exclude) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()


def _collect_objective(learner: Learner) -> dict[str, Tensor]:
    return {f"{OBJECTIVE_PREFIX}{name}": _copy(value) for name, value in learner.objective.state_dict().items()}


def _collect_label_autoencoder(learner: Learner) -> dict[str, Tensor]:
    return {f"{LABEL_AUTOENCODER_PREFIX}{name}": _copy(value) for name, value in learner.label_autoencoder.items()}


def _copy(tensor: Tensor) -> Tensor:
    """Returns a contiguous copy on the CPU; safetensors stores neither strides nor shared memory."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _collect_weights(learner: Learner) -> dict[str, Tensor]:
    return {f"{NETWORK_PREFIX}{name}": _copy(value) for name, value in learner.network.state_dict().items()}


def _collect_optimizer_state(learner: Learner) -> dict[str, Tensor]:
    return {
        f"{OPTIMIZER_PREFIX}{index}.{name}": _copy(value)
        for index, parameter in enumerate(learner.parameters)
        for name, value in learner.optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }


def _collect_average(learner: Learner) -> dict[str, Tensor]:
    values = [] if learner.average is None else learner.average.values
    return {f"{AVERAGE_PREFIX}{index}": _copy(value) for index, value in enumerate(values)}


def _place_like(value: Tensor, parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> Tensor:
    """Copies a value to the device and memory format of its parameter; a step count, of another shape, where the
    optimizer keeps it."""
    if value.shape != parameter.shape:
        return value.to(find_count_device(optimizer, parameter))
    return torch.empty_like(parameter, requires_grad=False).copy_(value)


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
        content = upgrade_content(_parse_header(path, text), CheckpointDescription)
        return CheckpointDescription.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(step) for step in problem["loc"])
        msg = (
            f"{path} was written by another version of autoseg ({field}: {problem['msg']}); "
            f"continue with the version that wrote it, or begin again with --restart"
        )
        raise TrainingError(msg) from error


def _parse_header(path: Path, text: str) -> dict[str, Any]:
    try:
        content = parse_json(text, where=f"the header of {path}")
    except DocumentError as error:
        msg = f"{error}; {_advise(path)}"
        raise TrainingError(msg) from error
    if not isinstance(content, dict):
        msg = f"the header of {path} must hold a JSON object, found {type(content).__name__}; {_advise(path)}"
        raise TrainingError(msg)
    return content


def _advise(path: Path) -> str:
    return f"remove {path.name} or begin again with --restart"
