"""Nested U-shaped networks (UNet++)."""

from math import prod
from typing import Literal

from pydantic import model_validator

from autoseg.plan.network.encoded import EncodedPlan
from autoseg.plan.network.layers import OutputWeights, Upsampling
from autoseg.plan.values import Count


class NestedUPlan(EncodedPlan):
    """U-shaped networks of every depth, nested in each other (Zhou et al. 2018, arXiv:1807.10165).

    Node (stage, column) joins all earlier nodes of its stage with the upsampled node (stage + 1, column - 1).

    Attributes:
        upsampling: The step to a higher resolution, one of those of other U-shaped networks.
        depth: Columns of decoder nodes; the network consists of the stages 0 to `depth`. It is one less than the number
            of stages, and smaller in a network that was pruned.
        output_weights: The weight in the loss of every trained output, all of full resolution: of the last column
            first. One weight: only that is trained.
    """

    family: Literal["nested_u"] = "nested_u"
    upsampling: Upsampling
    depth: Count
    output_weights: OutputWeights

    @property
    def patch_divisors(self) -> tuple[int, ...]:
        """The product of the strides of every axis, down to the lowest stage that is left."""
        return tuple(prod(steps) for steps in zip(*self.strides[: self.depth + 1], strict=True))

    @property
    def trained_output_count(self) -> int:
        """One for each weight."""
        return len(self.output_weights)

    def list_further_parts(self) -> tuple[str, ...]:
        """Lists how many columns of nodes there are."""
        return (f"depth {self.depth}",)

    def list_pruned_depths(self) -> tuple[int, ...]:
        """Lists the columns before the last that have an output."""
        return tuple(range(self.depth - len(self.output_weights) + 1, self.depth))

    def prune(self, depth: int) -> "NestedUPlan":
        """Returns the part of the network that computes the output of column `depth`.

        Raises:
            ValueError: That column has no output.
        """
        left = self.output_weights[self.depth - depth :]
        if not 1 <= depth <= self.depth or not left:
            first = self.depth - len(self.output_weights) + 1
            msg = f"depth must be one of {first} to {self.depth}, the columns with an output (got {depth})"
            raise ValueError(msg)
        return self.model_copy(update={"depth": depth, "output_weights": left})

    @model_validator(mode="after")
    def _check_depth(self) -> "NestedUPlan":
        if self.depth > self.stage_count - 1:
            msg = f"depth must be at most {self.stage_count - 1}, as the network has {self.stage_count} stages"
            raise ValueError(msg)
        if len(self.output_weights) > self.depth:
            msg = f"output_weights must hold at most {self.depth} weights: one per column of nodes"
            raise ValueError(msg)
        return self
