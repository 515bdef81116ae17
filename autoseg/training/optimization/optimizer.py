"""Optimizers: from the plan to those of `torch.optim`."""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import nn

from autoseg.plan.training import TrainingPlan

Weights = Sequence[nn.Parameter]


def build_optimizer(modules: Sequence[nn.Module], plan: TrainingPlan) -> torch.optim.Optimizer:
    """The planned optimizer of all weights that are trained; weight decay acts on all of them."""
    weights = [parameter for module in modules for parameter in list_trainable_parameters(module)]
    return OPTIMIZERS[plan.optimizer](weights, plan)


def list_trainable_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module that are trained, in its order."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _build_sgd(weights: Weights, plan: TrainingPlan) -> torch.optim.Optimizer:
    """Stochastic gradient descent with Nesterov momentum; the decay is part of the gradient."""
    return torch.optim.SGD(
        weights,
        lr=plan.initial_learning_rate,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
        nesterov=True,
    )


def _build_adamw(weights: Weights, plan: TrainingPlan) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    return torch.optim.AdamW(
        weights,
        lr=plan.initial_learning_rate,
        betas=(plan.momentum, plan.second_moment_decay),
        weight_decay=plan.weight_decay,
    )


OPTIMIZERS: Final[dict[str, Callable[[Weights, TrainingPlan], torch.optim.Optimizer]]] = {
    "sgd_nesterov": _build_sgd,
    "adamw": _build_adamw,
}
