"""Networks of two branches, one for slices and one for volumes."""

from collections.abc import Mapping
from math import lcm
from typing import Literal

from pydantic import model_validator

from autoseg.plan.network.base import NetworkPlan
from autoseg.plan.network.encoder_u import EncoderUPlan


class HybridPlan(NetworkPlan):
    """A branch that sees single slices, and one that sees the volume and its result (Li et al. 2018, arXiv:1709.07330).

    Slices lie along the first axis. The branches take as many channels as follows from this plan, and give features.

    Attributes:
        slices: The 2D branch, without its last convolution.
        volumes: The 3D branch, without its last convolution. Its features are as many as those of the 2D branch.
    """

    family: Literal["hybrid_2d_3d"] = "hybrid_2d_3d"
    slices: EncoderUPlan
    volumes: EncoderUPlan

    @property
    def slice_branch(self) -> EncoderUPlan:
        """The 2D branch, which sees the image."""
        return self.slices.model_copy(update={"input_channels": self.input_channels})

    @property
    def volume_branch(self) -> EncoderUPlan:
        """The 3D branch, which sees the image and one probability per output of the 2D branch."""
        return self.volumes.model_copy(update={"input_channels": self.input_channels + self.output_channels})

    @property
    def patch_divisors(self) -> tuple[int, ...]:
        """The least common multiples of what the branches demand."""
        return tuple(map(lcm, (1, *self.slices.patch_divisors), self.volumes.patch_divisors))

    def describe(self) -> Mapping[str, str]:
        """Describes the features of both branches, and what the 3D branch is made of."""
        slices, volumes = self.slices.describe(), self.volumes.describe()
        return {**volumes, "features": f"{slices['features']} and {volumes['features']}"}

    @model_validator(mode="after")
    def _check_branches(self) -> "HybridPlan":
        if (self.dimensions, self.slices.dimensions, self.volumes.dimensions) != (3, 2, 3):
            msg = "dimensions must be 3, those of slices 2 and those of volumes 3"
            raise ValueError(msg)
        if self.slices.decoder_features_per_stage[-1:] != self.volumes.decoder_features_per_stage[-1:]:
            msg = "decoder_features_per_stage of both branches must end with the same number: their features are added"
            raise ValueError(msg)
        if self.slices.pretrained is not None or self.volumes.pretrained is not None:
            msg = "pretrained must be null in both branches"
            raise ValueError(msg)
        return self
