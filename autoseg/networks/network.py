"""The contract of a network: all that other modules know of one, whatever its family."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.initialization import initialize_weights
from autoseg.plan.network.base import NetworkPlan

TargetKind = Literal["labels", "edges"]
"""Kind of target that an output is compared with in training, at its resolution: the label map, or its edges, for which
the output has one channel."""


class SegmentationNetwork(nn.Module, ABC):
    """A network that computes logits of an image.

    A family implements `forward` and `output_weights`, and overrides what else differs from the defaults. Names in
    its `state_dict` are those in checkpoints and must not change once a family is released.

    Attributes:
        plan: The plan from which the network was built.
        deep_supervision: Whether `forward` returns all outputs that are trained, or the first alone. Families read it,
            everybody else calls `set_deep_supervision` or `single_output`.
    """

    def __init__(self, plan: NetworkPlan) -> None:
        super().__init__()
        self.plan = plan
        self.deep_supervision = True

    @abstractmethod
    def forward(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Float[Tensor, "batch _output ..."], ...]:
        """Computes logits. The first output is the prediction, at the resolution of the image and smaller by the
        `margin_voxels` of the plan; the others, if any, are trained too, most important first, and may have lower
        resolutions.

        Args:
            image: Its extents are multiples of `NetworkPlan.patch_divisors`.
        """

    @property
    @abstractmethod
    def output_weights(self) -> tuple[float, ...]:
        """The weight in the loss of every output that `forward` returns now; those of labels add up to 1."""

    def weight_outputs(self, planned: Sequence[float]) -> tuple[float, ...]:
        """Normalizes to a sum of 1 the planned weights of the outputs that `forward` returns now."""
        weights = planned if self.deep_supervision else planned[:1]
        return tuple(weight / sum(weights) for weight in weights)

    @property
    def output_targets(self) -> tuple[TargetKind, ...]:
        """The kind of target of every output that `forward` returns now."""
        target: TargetKind = "labels"
        return (target,) * len(self.output_weights)

    @property
    def single_precision_modules(self) -> tuple[str, ...] | None:
        """Names of the submodules that compute logits, for prediction with fewer bits than float32.

        These stay in single precision; the weights of all others are converted once. None: the family is not made for
        that, for instance because `forward` uses parameters outside of submodules; such a network predicts under
        autocast, as it was trained, which converts weights in every pass.
        """
        return None

    @property
    def output_layers(self) -> tuple[nn.Module, ...] | None:
        """The layers whose biases are added to the logits of one output of labels each, further ones of outputs that
        are not trained; None if the network has no such layers."""
        names = self.single_precision_modules or ()
        layers = tuple(self.get_submodule(name) for name in names)
        biases = [getattr(layer, "bias", None) for layer in layers]
        fits = all(isinstance(bias, Tensor) and bias.shape == (self.plan.output_channels,) for bias in biases)
        return layers if fits and len(layers) >= self.output_targets.count("labels") else None

    def initialize_weights(self, generator: torch.Generator | None = None) -> None:
        """Sets the first weights.

        Args:
            generator: The only source of random numbers; None is torch's global one.
        """
        initialize_weights(self, generator)

    def load_label_autoencoder(self, weights: Mapping[str, Tensor]) -> None:
        """Takes the weights of the label autoencoder that was trained before; most families have none."""
        del weights

    @property
    def label_autoencoder(self) -> "SegmentationNetwork | None":
        """The label autoencoder that is a part of the network; most families have none."""
        return None

    def set_deep_supervision(self, *, enabled: bool) -> None:
        """Makes `forward` return all outputs that are trained, or the first alone; at any time."""
        self.deep_supervision = enabled

    @contextmanager
    def single_output(self) -> Iterator[None]:
        """Makes `forward` return the first output alone within the context."""
        before = self.deep_supervision
        self.set_deep_supervision(enabled=False)
        try:
            yield
        finally:
            self.set_deep_supervision(enabled=before)
