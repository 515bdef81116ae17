"""Everything that changes in training: network, objective, optimizer, and the moving average of the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from autoseg.labels import LabelScheme
from autoseg.networks.network import SegmentationNetwork
from autoseg.runtime.cpu_threads import adapt_threads
from autoseg.runtime.distributed import BatchPart
from autoseg.runtime.precision import DtypeName, autocast
from autoseg.training.data.batch import Batch
from autoseg.training.objectives.objective import Objective
from autoseg.training.optimization.weight_average import WeightAverage
from autoseg.training.step_graph import StepGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """Everything that changes in training.

    Attributes:
        replica: Module called in training: the network, compiled, or a wrapper that sums gradients over processes.
        objective: The objective to minimize; may have parameters and a state of its own.
        part: The part of every batch that this process sees.
        scaler: Keeps gradients in float16 in range; does nothing in other dtypes.
        average: Moving average of the network's weights, where one is planned.
        dtype: The dtype in which the network computes.
        memory_format: Memory format of the network's inputs and weights.
        graph: Training steps as a CUDA graph; None: they are run as they are.
        gradient_norm_limit: Longer gradients are shortened to this norm.
        label_autoencoder: Weights of the label autoencoder that was trained before, on the CPU, where it is no part of
            the network; a checkpoint to predict with keeps them. Empty without one.
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
    dtype: DtypeName
    memory_format: torch.memory_format
    gradient_norm_limit: float
    graph: StepGraph | None = None
    label_autoencoder: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The optimized parameters, in the optimizer's order: the network's weights, then the objective's."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def set_learning_rate(self, learning_rate: float) -> None:
        """Sets the learning rate of all weights."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(learning_rate)
            else:
                group["lr"] = learning_rate

    def set_progress(self, progress: float) -> None:
        """Sets the share of the training that is done, for losses whose terms change their weights."""
        self.objective.progress = progress

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Gives the network, within the context, the weights that are validated and kept."""
        if self.average is None:
            yield
            return
        with self.average.in_place():
            yield

    def train(self, *, is_training: bool = True) -> None:
        """Sets network and objective to training or evaluation mode."""
        self.network.train(is_training)
        self.objective.train(is_training)

    def call_network(self, image: Tensor, *further: Tensor | bool, **named: int) -> tuple[Tensor, ...]:
        """Calls the network as it is executed in training or evaluation mode, with tensors on the device."""
        adapt_threads()
        network = self.replica if self.network.training else self.network
        with autocast(self.device, self.dtype):
            outputs: tuple[Tensor, ...] = network(image.contiguous(memory_format=self.memory_format), *further, **named)
        return outputs

    def compute_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Computes the loss of a batch on the device, and its logits."""
        call = partial(self.call_network, plane=batch.plane) if self.network.plan.planes > 1 else self.call_network
        loss, logits = self.objective(call, batch)
        return loss, logits
