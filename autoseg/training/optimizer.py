"""Which rule changes the weights."""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import nn

from autoseg.plan import TrainingPlan

Weights = Sequence[nn.Parameter]


def build_optimizer(network: nn.Module, plan: TrainingPlan) -> torch.optim.Optimizer:
    """The planned optimizer of all weights that are trained; weight decay acts on all of them."""
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return OPTIMIZERS[plan.optimizer](weights, plan)


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
