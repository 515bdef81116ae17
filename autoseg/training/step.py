"""One step of optimization, one step of validation."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int16
from torch import Tensor, nn

from autoseg.labels import LabelScheme
from autoseg.networks import SegmentationNetwork, build_network
from autoseg.plan import ConfigurationPlan, TrainingPlan
from autoseg.training.loss import SegmentationLoss
from autoseg.training.pseudo_dice import OverlapCounts, count_overlaps


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
        scaler: Keeps half-precision gradients in range; does nothing outside CUDA.
        gradient_norm_limit: Longer gradients are shortened to this norm.
    """

    network: SegmentationNetwork
    optimizer: torch.optim.SGD
    scaler: torch.amp.GradScaler
    loss: SegmentationLoss
    labels: LabelScheme
    device: torch.device
    gradient_norm_limit: float

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The optimized weights, in the optimizer's order."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def set_learning_rate(self, learning_rate: float) -> None:
        """Sets it for all weights."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationOutcome:
    """Of one batch."""

    loss: float
    counts: OverlapCounts


def build_learner(plan: ConfigurationPlan, labels: LabelScheme, *, device: torch.device, seed: int) -> Learner:
    """Builds the network, with first weights from the seed, and its optimizer."""
    network = build_network(plan.network, torch.Generator().manual_seed(seed)).to(device)
    return Learner(
        network=network,
        optimizer=build_optimizer(network, plan.training),
        scaler=torch.amp.GradScaler(device.type, enabled=device.type == "cuda"),
        loss=SegmentationLoss(labels=labels, batch_dice=plan.training.batch_dice),
        labels=labels,
        device=device,
        gradient_norm_limit=plan.training.gradient_norm_limit,
    )


def build_optimizer(network: nn.Module, plan: TrainingPlan) -> torch.optim.SGD:
    """Stochastic gradient descent with Nesterov momentum; weight decay on all weights."""
    return torch.optim.SGD(
        [parameter for parameter in network.parameters() if parameter.requires_grad],
        lr=plan.initial_learning_rate,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
        nesterov=True,
    )


def run_training_step(learner: Learner, batch: Batch) -> float:
    """Changes the weights by one step and returns the loss before it."""
    on_device = batch.move_to(learner.device)
    learner.optimizer.zero_grad(set_to_none=True)
    with half_precision_on_cuda(learner.device):
        outputs = learner.network(on_device.image)
    loss = learner.loss(outputs, on_device.label_map)
    torch.autograd.backward(learner.scaler.scale(loss))
    learner.scaler.unscale_(learner.optimizer)
    nn.utils.clip_grad_norm_(learner.parameters, learner.gradient_norm_limit)
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    return loss.item()


@torch.inference_mode()
def run_validation_step(learner: Learner, batch: Batch) -> ValidationOutcome:
    """Loss (of all supervised resolutions) and overlap (of the highest). The network must be in evaluation mode."""
    on_device = batch.move_to(learner.device)
    with half_precision_on_cuda(learner.device):
        outputs = learner.network(on_device.image)
    loss = learner.loss(outputs, on_device.label_map)
    return ValidationOutcome(loss=loss.item(), counts=count_overlaps(outputs[0], on_device.label_map, learner.labels))


def half_precision_on_cuda(device: torch.device) -> AbstractContextManager[object]:
    """Computes in float16 where that is safe; everywhere else, in full precision."""
    if device.type != "cuda":
        return nullcontext()
    return torch.autocast("cuda", dtype=torch.float16)
