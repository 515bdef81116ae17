"""The common part of the plans of networks that reduce the resolution before their first stage."""

from math import prod
from typing import Annotated

from pydantic import Field, model_validator

from autoseg.plan.network.base import StagedNetworkPlan
from autoseg.plan.network.layers import LayerPlan
from autoseg.plan.values import ChannelCount, KernelExtents

StemExtents = Annotated[tuple[KernelExtents, ...], Field(min_length=1, max_length=8)]


class StemmedPlan(StagedNetworkPlan):
    """A network with a stem of strided layers; abstract. Stage 0 has the resolution of the stem's output.

    Attributes:
        stem_features: Channels of the stem.
        stem_kernel_sizes: Per layer of the stem, one value per axis.
        stem_strides: Per layer of the stem.
        layers: Normalization and activation.
    """

    stem_features: ChannelCount
    stem_kernel_sizes: StemExtents
    stem_strides: StemExtents
    layers: LayerPlan

    @property
    def stem_stride(self) -> tuple[int, ...]:
        """The product of the strides of the stem."""
        return tuple(prod(steps) for steps in zip(*self.stem_strides, strict=True))

    @property
    def patch_divisors(self) -> tuple[int, ...]:
        """The product of all strides, the stem's included, of every axis."""
        return tuple(stem * stages for stem, stages in zip(self.stem_stride, super().patch_divisors, strict=True))

    @model_validator(mode="after")
    def _check_stem(self) -> "StemmedPlan":
        if len(self.stem_kernel_sizes) != len(self.stem_strides):
            msg = f"stem_kernel_sizes must describe the {len(self.stem_strides)} layers of stem_strides"
            raise ValueError(msg)
        if any(len(entry) != self.dimensions for entry in (*self.stem_kernel_sizes, *self.stem_strides)):
            msg = f"stem_kernel_sizes and stem_strides must have {self.dimensions} values per layer"
            raise ValueError(msg)
        if any(extent % 2 == 0 for entry in self.stem_kernel_sizes for extent in entry):
            msg = "stem_kernel_sizes must be odd, or outputs would not lie on their inputs"
            raise ValueError(msg)
        return self
