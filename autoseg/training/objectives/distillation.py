"""Training that also learns from the answers of a frozen teacher (Hinton et al. 2015; YOLOv6, arXiv:2209.02976)."""

import math
from collections.abc import Mapping
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.planes import select_plane
from autoseg.runtime.precision import autocast
from autoseg.training.data.batch import Batch
from autoseg.training.objectives.objective import NetworkCall, Objective

LAST_WEIGHT: Final = 0.01
"""Weight of the teacher at the end of the training (YOLOv6)."""


class Distillation(Objective):
    """The loss of an objective, and how much the network's outputs differ from those of a teacher, in training alone.

    The weight of the teacher falls from 1 to 0.01 over the training, along a cosine.
    """

    def __init__(self, objective: Objective, teacher: SegmentationNetwork) -> None:
        super().__init__()
        self.objective = objective
        self._frozen = (teacher,)  # a tuple hides it from the state
        self.dtype = objective.dtype

    def find_capture_problem(self) -> str | None:
        """Finds that the weight of the teacher changes."""
        return "the weight of the teacher changes from step to step"

    def load_label_autoencoder(self, weights: Mapping[str, Tensor]) -> None:
        """Gives the weights to the objective."""
        self.objective.load_label_autoencoder(weights)

    def summarize_epoch(self) -> dict[str, float]:
        """Returns the figures of the objective."""
        return self.objective.summarize_epoch()

    def forward(self, network: NetworkCall, batch: Batch) -> tuple[Tensor, Tensor]:
        """Calls the network as the objective does, and the teacher in the same way."""
        self.objective.progress = self.progress
        difference: list[Tensor] = []

        def call_both(image: Tensor, *further: Tensor | bool) -> tuple[Tensor, ...]:
            found = network(image, *further)
            if self.training:
                taught = self._ask_teacher(batch.plane, image, *further)
                difference.append(self.objective.compare_with_teacher(found, taught, batch))
            return found

        loss, logits = self.objective(call_both, batch)
        weight = compute_teacher_weight(self.progress)
        return sum((weight * one for one in difference), start=loss), logits

    @torch.no_grad()
    def _ask_teacher(self, plane: int, image: Tensor, *further: Tensor | bool) -> tuple[Tensor, ...]:
        teacher = select_plane(self._frozen[0], plane)
        with autocast(image.device, self.dtype):
            taught: tuple[Tensor, ...] = teacher(image, *further)
        return taught


def compute_teacher_weight(progress: float) -> float:
    """Computes the weight of a teacher from the share of the training that is done."""
    return (1 - math.cos(math.pi * progress)) / 2 * (LAST_WEIGHT - 1) + 1


def compare_distributions(
    found: Float[Tensor, "*places option"], taught: Float[Tensor, "*places option"], temperature: float
) -> Float[Tensor, " *places"]:
    """Computes the divergence (Kullback-Leibler) of softened probabilities that exclude each other from a teacher's.

    The square of the temperature keeps the gradients at the size of those of the labels.

    Args:
        found: Logits of the network, the options in the last axis.
        taught: Logits of the teacher.
        temperature: Logits are divided by it.
    """
    own, other = ((logits.float() / temperature).log_softmax(dim=-1) for logits in (found, taught))
    return temperature**2 * (other.exp() * (other - own)).sum(dim=-1)


def compare_scores(
    found: Float[Tensor, " *scores"], taught: Float[Tensor, " *scores"], temperature: float
) -> Float[Tensor, " *scores"]:
    """Computes the same of probabilities of which each stands for itself (sigmoid)."""
    own, other = found.float() / temperature, taught.float() / temperature
    wanted = other.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(other, wanted, reduction="none")
    return temperature**2 * (functional.binary_cross_entropy_with_logits(own, wanted, reduction="none") - entropy)
