"""One step of optimization, one step of validation."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from autoseg.errors import RunError
from autoseg.labels import LabelScheme
from autoseg.networks.blocks import fuse_normalization
from autoseg.networks.families import build_network
from autoseg.networks.first_convolution import reform_first_convolutions
from autoseg.networks.initialization import initialize_outputs
from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.planes import list_planes
from autoseg.networks.pretrained import load_pretrained
from autoseg.networks.weights import read_weights
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.losses import find_initial_probabilities
from autoseg.runtime.cpu_threads import adapt_threads
from autoseg.runtime.distributed import SINGLE_PROCESS, ProcessGroup, build_batch_part, replicate
from autoseg.runtime.precision import DtypeName
from autoseg.training.data.batch import Batch
from autoseg.training.execution import TrainingExecution, find_execution, prepare_compiler
from autoseg.training.learner import Learner
from autoseg.training.monitoring.pseudo_dice import OverlapCounts, count_overlaps
from autoseg.training.objectives import build_objective
from autoseg.training.objectives.distillation import Distillation
from autoseg.training.objectives.objective import Objective
from autoseg.training.optimization.optimizer import (
    build_optimizer,
    find_scaling_problem,
    list_trainable_parameters,
)
from autoseg.training.optimization.weight_average import WeightAverage, list_averaged_buffers
from autoseg.training.step_graph import build_step_graph
from autoseg.training.teacher import Teacher

logger = logging.getLogger(__name__)


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
    dtype: DtypeName = "float32",
    process_group: ProcessGroup = SINGLE_PROCESS,
    execution: TrainingExecution | None = None,
    with_pretrained: bool = False,
    announce: Callable[[str], None] = logger.info,
    initial: Mapping[str, Tensor] | None = None,
    label_autoencoder: Path | None = None,
    teacher: Teacher | None = None,
) -> Learner:
    """Builds the network, with first weights from the seed, and its optimizer.

    Args:
        execution: None: as is usual on the device. Compiling happens when the network is first trained.
        with_pretrained: Whether an encoder begins with the weights of the file in the plan, if there is one.
        initial: Weights to begin with, by the names of the network's state; None: those from the seed.
        label_autoencoder: Checkpoint of a frozen label autoencoder; None: the plan has none, or its weights do not
            matter. Weights to begin with have their own.
        teacher: Trained network whose answers are learnt, too; None: the labels alone are.
        announce: Called with the reason, in words, if steps that were to be captured are not.

    Raises:
        TrainingError: The batch cannot be divided among the processes.
        PlanError: The file of pretrained weights is missing, has changed or does not fit.
        ExchangeError: It is damaged.
        RunError: The label autoencoder or the teacher cannot be read.
    """
    prior = None if label_autoencoder is None else read_weights(label_autoencoder)
    execution = execution or find_execution(plan, device, dtype)
    dtype = execution.dtype or dtype
    generator = torch.Generator().manual_seed(seed)
    network = build_network(plan.network, generator)
    if initial is not None:
        network.load_state_dict(initial)
    else:
        _initialize(network, plan, labels, with_pretrained=with_pretrained)
        if prior is not None:
            network.load_label_autoencoder(prior)
    network = network.to(device)
    arrange_weights(network, execution.memory_format)
    if execution.is_norm_fused:
        fuse_normalization(network)
    if execution.first_convolution is not None:
        reform_first_convolutions(network, execution.first_convolution, execution.memory_format)
    training, part = plan.training, build_batch_part(process_group, plan.training.batch_size)
    chosen = build_objective(plan, labels, network, part=part, seed=seed)
    chosen.dtype = dtype
    objective = _add_teacher(chosen, teacher, device)
    if prior is not None:
        objective.load_label_autoencoder(prior)
    optimizer = build_optimizer([network, objective], training)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == "float16")
    decay = training.weight_average_decay
    return Learner(
        network=network,
        replica=wrap(network, execution, process_group=process_group, device=device),
        objective=objective,
        part=part,
        optimizer=optimizer,
        scaler=scaler,
        average=WeightAverage(
            parameters=list_trainable_parameters(network), buffers=list_averaged_buffers(network), decay=decay
        )
        if decay
        else None,
        labels=labels,
        device=device,
        dtype=dtype,
        memory_format=execution.memory_format,
        gradient_norm_limit=training.gradient_norm_limit,
        graph=build_step_graph(
            objective,
            device,
            announce,
            problem=find_scaling_problem(optimizer, scaler),
            is_rehearsed=execution.compiler is None,
        )
        if execution.is_captured
        else None,
        label_autoencoder={} if prior is None or network.label_autoencoder is not None else prior,
    )


def _add_teacher(objective: Objective, teacher: Teacher | None, device: torch.device) -> Objective:
    if teacher is None:
        return objective.to(device)
    return Distillation(objective, read_teacher(teacher, device)).to(device)


def read_teacher(teacher: Teacher, device: torch.device) -> SegmentationNetwork:
    """Builds the network with its weights; it never changes.

    Raises:
        RunError: They are missing, damaged, or of another network.
    """
    network = build_network(teacher.plan, torch.Generator().manual_seed(0))
    try:
        network.load_state_dict(read_weights(teacher.checkpoint))
    except RuntimeError as error:
        msg = f"{teacher.checkpoint} does not fit the plan beside it: {error}; give another run as --teacher"
        raise RunError(msg) from error
    network.set_deep_supervision(enabled=False)
    return network.requires_grad_(requires_grad=False).eval().to(device)


def _initialize(
    network: SegmentationNetwork, plan: ConfigurationPlan, labels: LabelScheme, *, with_pretrained: bool
) -> None:
    """Changes the first weights as the plan says."""
    for one in list_planes(network) if with_pretrained else ():
        load_pretrained(cast(SegmentationNetwork, one))
    probabilities = find_initial_probabilities(plan.training.losses)
    if probabilities and network.output_layers is not None:
        initialize_outputs(network.output_layers, probabilities, has_regions=labels.has_regions)


def wrap(
    network: nn.Module, execution: TrainingExecution, *, process_group: ProcessGroup, device: torch.device
) -> nn.Module:
    """Returns the module to call in training: compiled, or summing gradients over processes, or the network itself."""
    if execution.compiler is None:
        return replicate(network, process_group, device, leaves_out=len(list_planes(network)) > 1)
    assert process_group.size == 1, "networks of a process group are not compiled"
    prepare_compiler()
    return cast(nn.Module, torch.compile(network, backend=execution.compiler, dynamic=False))


def arrange_weights(network: nn.Module, memory_format: torch.memory_format) -> None:
    """Converts the kernels of all convolutions to a memory format; other weights stay as they are."""
    axes = {torch.channels_last: 4, torch.channels_last_3d: 5}.get(memory_format)
    for parameter in network.parameters():
        if axes is None or parameter.ndim == axes:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


def run_training_step(learner: Learner, batch: Batch) -> float:
    """Changes the weights by one step and returns the loss before it; waits for the device."""
    return launch_training_step(learner, batch).item()


def launch_training_step(learner: Learner, batch: Batch) -> Tensor:
    """Changes the weights by one step and returns the loss before it, on the device, which is not waited for."""
    on_device, step = batch.move_to(learner.device), partial(_optimize, learner)
    if learner.graph is None:
        loss = step(on_device)
    else:
        loss = learner.graph.run(on_device, step, forget=partial(_forget_step, learner))
    if learner.average is not None:
        learner.average.update()
    return loss


def _optimize(learner: Learner, on_device: Batch) -> Tensor:
    learner.optimizer.zero_grad(set_to_none=True)
    loss, _ = learner.compute_loss(on_device)
    adapt_threads()
    torch.autograd.backward(learner.scaler.scale(loss))
    _sum_own_gradients(learner)
    learner.scaler.unscale_(learner.optimizer)
    nn.utils.clip_grad_norm_(learner.parameters, learner.gradient_norm_limit)
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    return loss.detach()


def _forget_step(learner: Learner) -> None:
    """Makes the learner ready for a step after one that was not finished."""
    learner.optimizer.zero_grad(set_to_none=True)
    if learner.scaler.is_enabled():
        learner.scaler._per_optimizer_states.clear()


def _sum_own_gradients(learner: Learner) -> None:
    """Sums the gradients of the objective over the process group; the network's replica does so by itself."""
    for parameter in list_trainable_parameters(learner.objective):
        own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parameter.grad = learner.part.add_up(own)  # called alike by every process, whether it has a gradient or not


def run_validation_step(learner: Learner, batch: Batch) -> ValidationOutcome:
    """Computes loss and overlap of a batch; waits for the device. The learner must be in evaluation mode."""
    loss, counts = launch_validation_step(learner, batch)
    return ValidationOutcome(loss=loss.item(), counts=counts.add_up(learner.part))


@torch.inference_mode()
def launch_validation_step(learner: Learner, batch: Batch) -> tuple[Tensor, OverlapCounts]:
    """Computes the loss of a batch, and the overlap in the part that this process sees, on the device.

    The device is not waited for. The learner must be in evaluation mode.
    """
    on_device = batch.move_to(learner.device)
    loss, logits = learner.compute_loss(on_device)
    return loss, count_overlaps(logits, on_device.label_map[: len(logits)], learner.labels)
