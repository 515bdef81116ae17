"""One step of optimization, one step of validation."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, cast

import torch
from jaxtyping import Float32, Int16
from torch import Tensor, nn

from autoseg.labels import LabelScheme
from autoseg.networks import SegmentationNetwork, build_network
from autoseg.networks.cpu_threads import adapt_threads
from autoseg.networks.precision import NumberType, autocast
from autoseg.plan import ConfigurationPlan
from autoseg.training.distributed import ALONE, Team, build_batch_part, replicate
from autoseg.training.execution import Execution, find_execution
from autoseg.training.loss import SegmentationLoss
from autoseg.training.optimizer import build_optimizer
from autoseg.training.pseudo_dice import OverlapCounts, count_overlaps
from autoseg.training.weight_average import WeightAverage

# Else torch.compile keeps as many processes as there are cores, beside a training that needs none.
ONE_COMPILING_PROCESS: Final = ("TORCHINDUCTOR_COMPILE_THREADS", "1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Patches and their internal labels (0 and up; the ignore label is the last)."""

    image: Float32[Tensor, "batch channel *space"]
    label_map: Int16[Tensor, " batch *space"]

    def pin_memory(self) -> "Batch":
        """A copy from which a CUDA device can read while the processor goes on (called by torch's loader)."""
        return Batch(image=self.image.pin_memory(), label_map=self.label_map.pin_memory())

    def move_to(self, device: torch.device) -> "Batch":
        """A copy on the device."""
        return Batch(
            image=self.image.to(device, non_blocking=True), label_map=self.label_map.to(device, non_blocking=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """All that changes while training.

    Attributes:
        replica: What is called in training: the network, compiled, or a wrapper that sums gradients over processes.
        scaler: Keeps gradients in float16 in range; does nothing in other numbers.
        average: Of the weights, where one is planned.
        number_type: What the network computes in.
        memory_format: Order of the network's inputs and weights in memory.
        gradient_norm_limit: Longer gradients are shortened to this norm.
    """

    network: SegmentationNetwork
    replica: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: WeightAverage | None
    loss: SegmentationLoss
    labels: LabelScheme
    device: torch.device
    number_type: NumberType
    memory_format: torch.memory_format
    gradient_norm_limit: float

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The optimized weights, in the optimizer's order."""
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

    def compute_outputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """The network's logits of a batch on the device."""
        adapt_threads()
        network = self.replica if self.network.training else self.network
        with autocast(self.device, self.number_type):
            outputs: tuple[Tensor, ...] = network(batch.image.contiguous(memory_format=self.memory_format))
        return outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationOutcome:
    """Of one batch."""

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
    execution: Execution | None = None,
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
    optimizer, training = build_optimizer(network, plan.training), plan.training
    weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    decay = training.weight_average_decay
    return Learner(
        network=network,
        replica=wrap(network, execution, team=team, device=device),
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(device.type, enabled=number_type == "float16"),
        average=WeightAverage(parameters=weights, decay=decay) if decay else None,
        loss=SegmentationLoss(
            labels=labels,
            batch_dice=training.batch_dice,
            dice_weight=training.dice_weight,
            cross_entropy_weight=training.cross_entropy_weight,
            part=build_batch_part(team, training.batch_size),
        ),
        labels=labels,
        device=device,
        number_type=number_type,
        memory_format=execution.memory_format,
        gradient_norm_limit=training.gradient_norm_limit,
    )


def wrap(network: nn.Module, execution: Execution, *, team: Team, device: torch.device) -> nn.Module:
    """What is called in training: compiled, or summing gradients over a team, or the network itself."""
    if execution.compiler is None:
        return replicate(network, team, device)
    assert team.size == 1, "networks of a team are not compiled"
    os.environ.setdefault(*ONE_COMPILING_PROCESS)
    return cast(nn.Module, torch.compile(network, backend=execution.compiler, dynamic=False))


def arrange_weights(network: nn.Module, memory_format: torch.memory_format) -> None:
    """Puts the kernels of all convolutions into an order in memory; other weights stay as they are."""
    axes = {torch.channels_last: 4, torch.channels_last_3d: 5}.get(memory_format)
    for parameter in network.parameters():
        if axes is None or parameter.ndim == axes:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


def run_training_step(learner: Learner, batch: Batch) -> float:
    """Changes the weights by one step and returns the loss before it."""
    on_device = batch.move_to(learner.device)
    learner.optimizer.zero_grad(set_to_none=True)
    loss = learner.loss(learner.compute_outputs(on_device), on_device.label_map, learner.network.output_weights)
    adapt_threads()
    torch.autograd.backward(learner.scaler.scale(loss))
    learner.scaler.unscale_(learner.optimizer)
    nn.utils.clip_grad_norm_(learner.parameters, learner.gradient_norm_limit)
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    if learner.average is not None:
        learner.average.update()
    return loss.item()


@torch.inference_mode()
def run_validation_step(learner: Learner, batch: Batch) -> ValidationOutcome:
    """Loss (of all supervised resolutions) and overlap (of the highest). The network must be in evaluation mode."""
    on_device = batch.move_to(learner.device)
    outputs = learner.compute_outputs(on_device)
    loss = learner.loss(outputs, on_device.label_map, learner.network.output_weights)
    counts = count_overlaps(outputs[0], on_device.label_map, learner.labels)
    return ValidationOutcome(loss=loss.item(), counts=counts.add_up(learner.loss.part))
