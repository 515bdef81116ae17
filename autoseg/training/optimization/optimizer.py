"""Builds the optimizer of a plan from `torch.optim`."""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import nn

from autoseg.plan.training import TrainingPlan

Weights = Sequence[nn.Parameter]


def build_optimizer(modules: Sequence[nn.Module], plan: TrainingPlan) -> torch.optim.Optimizer:
    """Builds the planned optimizer of all trainable weights; weight decay acts on all of them."""
    weights = [parameter for module in modules for parameter in list_trainable_parameters(module)]
    return OPTIMIZERS[plan.optimizer](weights, plan)


def list_trainable_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Lists the trainable parameters of a module, in its order."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def keeps_moments(optimizer: torch.optim.Optimizer) -> bool:
    """Returns whether an optimizer has a state; stochastic gradient descent without momentum has none."""
    return not isinstance(optimizer, torch.optim.SGD) or optimizer.defaults["momentum"] > 0


def _build_sgd(weights: Weights, plan: TrainingPlan) -> torch.optim.Optimizer:
    """Builds stochastic gradient descent with Nesterov momentum; the weight decay is part of the gradient."""
    return torch.optim.SGD(
        weights,
        lr=plan.initial_learning_rate,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
        nesterov=True,
    )


def _build_plain_sgd(weights: Weights, plan: TrainingPlan) -> torch.optim.Optimizer:
    """Builds stochastic gradient descent with the usual momentum, or without; weight decay as above."""
    return torch.optim.SGD(
        weights, lr=plan.initial_learning_rate, momentum=plan.momentum, weight_decay=plan.weight_decay
    )


def _build_adam(weights: Weights, plan: TrainingPlan) -> torch.optim.Optimizer:
    """Builds Adam (Kingma and Ba 2015, arXiv:1412.6980); the weight decay is part of the gradient."""
    return torch.optim.Adam(
        weights,
        lr=plan.initial_learning_rate,
        betas=(plan.momentum, plan.second_moment_decay),
        weight_decay=plan.weight_decay,
    )


def _build_rmsprop(weights: Weights, plan: TrainingPlan) -> torch.optim.Optimizer:
    """Builds RMSprop (Hinton's lecture of 2012); the weight decay is part of the gradient."""
    return torch.optim.RMSprop(
        weights,
        lr=plan.initial_learning_rate,
        alpha=plan.second_moment_decay,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
    )


def _build_adamw(weights: Weights, plan: TrainingPlan) -> torch.optim.Optimizer:
    """Builds Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    return torch.optim.AdamW(
        weights,
        lr=plan.initial_learning_rate,
        betas=(plan.momentum, plan.second_moment_decay),
        weight_decay=plan.weight_decay,
    )


OPTIMIZERS: Final[dict[str, Callable[[Weights, TrainingPlan], torch.optim.Optimizer]]] = {
    "sgd_nesterov": _build_sgd,
    "sgd": _build_plain_sgd,
    "adamw": _build_adamw,
    "adam": _build_adam,
    "rmsprop": _build_rmsprop,
}
