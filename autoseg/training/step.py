"""One step of optimization, one step of validation."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, cast

import torch
from torch import Tensor, nn

from autoseg.labels import LabelScheme
from autoseg.networks import SegmentationNetwork, build_network
from autoseg.plan import ConfigurationPlan
from autoseg.runtime.cpu_threads import adapt_threads
from autoseg.runtime.distributed import ALONE, Team, build_batch_part, replicate
from autoseg.runtime.precision import NumberType, autocast
from autoseg.training.data.batch import Batch, BatchPart
from autoseg.training.execution import TrainingExecution, find_execution
from autoseg.training.monitoring.pseudo_dice import OverlapCounts, count_overlaps
from autoseg.training.objectives import build_objective
from autoseg.training.objectives.objective import Objective
from autoseg.training.optimization.optimizer import build_optimizer, list_trainable_parameters
from autoseg.training.optimization.weight_average import WeightAverage

# Else torch.compile keeps as many processes as there are cores, beside a training that needs none.
ONE_COMPILING_PROCESS: Final = ("TORCHINDUCTOR_COMPILE_THREADS", "1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """Everything that changes in training.

    Attributes:
        replica: What is called in training: the network, compiled, or a wrapper that sums gradients over processes.
        objective: What is minimized; may have parameters and a state of its own.
        part: Of every batch, that this process sees.
        scaler: Keeps gradients in float16 in range; does nothing in other dtypes.
        average: Of the network's weights, where one is planned.
        number_type: The dtype in which the network computes.
        memory_format: Of the network's inputs and weights.
        gradient_norm_limit: Longer gradients are shortened to this norm.
    """

    network: SegmentationNetwork
    replica: nn.Module
    objective: Objective
    part: BatchPart
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: WeightAverage | None
    labels: LabelScheme
    device: torch.device
    number_type: NumberType
    memory_format: torch.memory_format
    gradient_norm_limit: float

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is optimized, in the optimizer's order: the network's weights, then the objective's."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def set_learning_rate(self, learning_rate: float) -> None:
        """Sets it for all weights."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within it, the network has the weights that are to be validated and kept."""
        if self.average is None:
            yield
            return
        with self.average.in_place():
            yield

    def train(self, *, is_training: bool = True) -> None:
        """Network and objective go into training mode, or into evaluation mode."""
        self.network.train(is_training)
        self.objective.train(is_training)

    def call_network(self, image: Tensor) -> tuple[Tensor, ...]:
        """The network's logits of images on the device, as it is executed in training or in evaluation mode."""
        adapt_threads()
        network = self.replica if self.network.training else self.network
        with autocast(self.device, self.number_type):
            outputs: tuple[Tensor, ...] = network(image.contiguous(memory_format=self.memory_format))
        return outputs

    def compute_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss of a batch on the device, and its logits."""
        loss, logits = self.objective(self.call_network, batch)
        return loss, logits


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationOutcome:
    """Loss and overlap of one validation batch."""

    loss: float
    counts: OverlapCounts


def build_learner(
    plan: ConfigurationPlan,
    labels: LabelScheme,
    *,
    device: torch.device,
    seed: int,
    number_type: NumberType = "float32",
    team: Team = ALONE,
    execution: TrainingExecution | None = None,
) -> Learner:
    """Builds the network, with first weights from the seed, and its optimizer.

    Args:
        execution: None: as is usual on the device. Compiling happens when the network is first trained.

    Raises:
        TrainingError: The batch cannot be divided among the team.
    """
    execution = execution or find_execution(plan.dimensions, device, number_type)
    generator = torch.Generator().manual_seed(seed)
    network = build_network(plan.network, generator).to(device)
    arrange_weights(network, execution.memory_format)
    training, part = plan.training, build_batch_part(team, plan.training.batch_size)
    objective = build_objective(training, labels, network, part=part, seed=seed).to(device)
    decay = training.weight_average_decay
    return Learner(
        network=network,
        replica=wrap(network, execution, team=team, device=device),
        objective=objective,
        part=part,
        optimizer=build_optimizer([network, objective], training),
        scaler=torch.amp.GradScaler(device.type, enabled=number_type == "float16"),
        average=WeightAverage(parameters=list_trainable_parameters(network), decay=decay) if decay else None,
        labels=labels,
        device=device,
        number_type=number_type,
        memory_format=execution.memory_format,
        gradient_norm_limit=training.gradient_norm_limit,
    )


def wrap(network: nn.Module, execution: TrainingExecution, *, team: Team, device: torch.device) -> nn.Module:
    """The module that is called in training: compiled, or summing gradients over a team, or the network itself."""
    if execution.compiler is None:
        return replicate(network, team, device)
    assert team.size == 1, "networks of a team are not compiled"
    os.environ.setdefault(*ONE_COMPILING_PROCESS)
    return cast(nn.Module, torch.compile(network, backend=execution.compiler, dynamic=False))


def arrange_weights(network: nn.Module, memory_format: torch.memory_format) -> None:
    """Converts the kernels of all convolutions to a memory format; other weights stay as they are."""
    axes = {torch.channels_last: 4, torch.channels_last_3d: 5}.get(memory_format)
    for parameter in network.parameters():
        if axes is None or parameter.ndim == axes:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


def run_training_step(learner: Learner, batch: Batch) -> float:
    """Changes the weights by one step and returns the loss before it."""
    on_device = batch.move_to(learner.device)
    learner.optimizer.zero_grad(set_to_none=True)
    loss, _ = learner.compute_loss(on_device)
    adapt_threads()
    torch.autograd.backward(learner.scaler.scale(loss))
    _sum_own_gradients(learner)
    learner.scaler.unscale_(learner.optimizer)
    nn.utils.clip_grad_norm_(learner.parameters, learner.gradient_norm_limit)
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    if learner.average is not None:
        learner.average.update()
    return loss.item()


def _sum_own_gradients(learner: Learner) -> None:
    """Those of the objective, over the team; the network's replica does so by itself."""
    for parameter in list_trainable_parameters(learner.objective):
        if parameter.grad is not None:
            parameter.grad = learner.part.add_up(parameter.grad)


@torch.inference_mode()
def run_validation_step(learner: Learner, batch: Batch) -> ValidationOutcome:
    """Loss and overlap of a batch. The learner must be in evaluation mode."""
    on_device = batch.move_to(learner.device)
    loss, logits = learner.compute_loss(on_device)
    counts = count_overlaps(logits, on_device.label_map, learner.labels)
    return ValidationOutcome(loss=loss.item(), counts=counts.add_up(learner.part))
