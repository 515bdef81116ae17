"""Builds the optimizer of a plan from `torch.optim`.

On a CUDA device an optimizer updates all weights by a few kernels, and nothing of a step depends on a number that the
CPU knows: the learning rate and the counts of steps are tensors on the device. So a step never waits for the device,
and can be captured in a CUDA graph. On other devices the optimizers compute as PyTorch has them do by default.
"""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from autoseg.plan.training import TrainingPlan

Weights = Sequence[nn.Parameter]


def build_optimizer(modules: Sequence[nn.Module], plan: TrainingPlan) -> torch.optim.Optimizer:
    """Builds the planned optimizer of all trainable weights; weight decay acts on all of them."""
    weights = [parameter for module in modules for parameter in list_trainable_parameters(module)]
    optimizer = OPTIMIZERS[plan.optimizer](weights, plan)
    # PyTorch warns of steps outside of CUDA graphs; the first ones always are.
    optimizer._warned_capturable_if_run_uncaptured = True
    return optimizer


def is_on_gpu(weights: Weights) -> bool:
    """Returns whether the optimizer of the weights runs on a CUDA device."""
    return any(weight.is_cuda for weight in weights)


def find_count_device(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> torch.device:
    """Returns the device on which an optimizer keeps the number of its steps for a weight."""
    is_kept_there = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
    return weight.device if is_kept_there else torch.device("cpu")


def list_trainable_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Lists the trainable parameters of a module, in its order."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def keeps_moments(optimizer: torch.optim.Optimizer) -> bool:
    """Returns whether an optimizer has a state; stochastic gradient descent without momentum has none."""
    return not isinstance(optimizer, torch.optim.SGD) or optimizer.defaults["momentum"] > 0


def find_scaling_problem(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> str | None:
    """Finds a reason why a step with scaled gradients cannot be captured in a CUDA graph; None if it can."""
    if not scaler.is_enabled() or getattr(optimizer, "_step_supports_amp_scaling", False):
        return None
    return f"the CPU decides whether {type(optimizer).__name__} skips a step whose float16 gradients overflow"


def _place_rate(weights: Weights, plan: TrainingPlan) -> float | Tensor:
    rate = plan.initial_learning_rate
    return torch.tensor(rate, device=weights[0].device) if is_on_gpu(weights) else rate


def _build_sgd(weights: Weights, plan: TrainingPlan) -> torch.optim.Optimizer:
    """Builds stochastic gradient descent with Nesterov momentum; the weight decay is part of the gradient."""
    return _build_any_sgd(weights, plan, is_nesterov=True)


def _build_plain_sgd(weights: Weights, plan: TrainingPlan) -> torch.optim.Optimizer:
    """Builds stochastic gradient descent with the usual momentum, or without; weight decay as above."""
    return _build_any_sgd(weights, plan, is_nesterov=False)


def _build_any_sgd(weights: Weights, plan: TrainingPlan, *, is_nesterov: bool) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(
        weights,
        lr=_place_rate(weights, plan),
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
        nesterov=is_nesterov,
        fused=is_on_gpu(weights) or None,
    )
    if is_on_gpu(weights) and plan.momentum > 0:
        # Otherwise the first step reserves them, and leaves them as they are where float16 has overflowed.
        optimizer.state.update({weight: {"momentum_buffer": torch.zeros_like(weight)} for weight in weights})
    return optimizer


def _build_adam(weights: Weights, plan: TrainingPlan) -> torch.optim.Optimizer:
    """Builds Adam (Kingma and Ba 2015, arXiv:1412.6980); the weight decay is part of the gradient."""
    return torch.optim.Adam(
        weights,
        lr=_place_rate(weights, plan),
        betas=(plan.momentum, plan.second_moment_decay),
        weight_decay=plan.weight_decay,
        fused=is_on_gpu(weights) or None,
        capturable=is_on_gpu(weights),
    )


def _build_rmsprop(weights: Weights, plan: TrainingPlan) -> torch.optim.Optimizer:
    """Builds RMSprop (Hinton's lecture of 2012); the weight decay is part of the gradient."""
    return torch.optim.RMSprop(
        weights,
        lr=_place_rate(weights, plan),
        alpha=plan.second_moment_decay,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
        foreach=is_on_gpu(weights) or None,
        capturable=is_on_gpu(weights),
    )


def _build_adamw(weights: Weights, plan: TrainingPlan) -> torch.optim.Optimizer:
    """Builds Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    return torch.optim.AdamW(
        weights,
        lr=_place_rate(weights, plan),
        betas=(plan.momentum, plan.second_moment_decay),
        weight_decay=plan.weight_decay,
        fused=is_on_gpu(weights) or None,
        capturable=is_on_gpu(weights),
    )


OPTIMIZERS: Final[dict[str, Callable[[Weights, TrainingPlan], torch.optim.Optimizer]]] = {
    "sgd_nesterov": _build_sgd,
    "sgd": _build_plain_sgd,
    "adamw": _build_adamw,
    "adam": _build_adam,
    "rmsprop": _build_rmsprop,
}
