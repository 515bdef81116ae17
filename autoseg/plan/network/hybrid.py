"""Networks of two branches, one for slices and one for volumes."""

from collections.abc import Mapping
from math import lcm
from typing import Literal

from pydantic import model_validator

from autoseg.plan.network.base import NetworkPlan, PretrainedPlan
from autoseg.plan.network.encoder_u import EncoderUPlan


class HybridPlan(NetworkPlan):
    """A branch that sees single slices, and one that sees the volume and its result (Li et al. 2018, arXiv:1709.07330).

    Slices lie along the first axis. The branches take as many channels as follows from this plan, and give features.

    Attributes:
        slices: The 2D branch, without its last convolution. Its encoder may begin with weights from a file.
        volumes: The 3D branch, without its last convolution. Its features are as many as those of the 2D branch.
        probabilities: The function that turns the logits of the 2D branch into what the 3D branch sees: "softmax" for
            labels, which exclude each other, "sigmoid" for regions, which may overlap.
    """

    family: Literal["hybrid_2d_3d"] = "hybrid_2d_3d"
    slices: EncoderUPlan
    volumes: EncoderUPlan
    probabilities: Literal["softmax", "sigmoid"] = "softmax"

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
        features = f"{slices['features']} and {volumes['features']}"
        return {**volumes, "features": features, "first weights": slices["first weights"]}

    def find_pretrained(self) -> PretrainedPlan | None:
        """Finds the weights with which the encoder of the 2D branch begins."""
        return self.slices.pretrained

    def with_pretrained(self, pretrained: PretrainedPlan | None) -> "HybridPlan":
        """Returns the plan with other first weights of the 2D branch."""
        return self.model_copy(update={"slices": self.slices.with_pretrained(pretrained)})

    @model_validator(mode="after")
    def _check_branches(self) -> "HybridPlan":
        if (self.dimensions, self.slices.dimensions, self.volumes.dimensions) != (3, 2, 3):
            msg = "dimensions must be 3, those of slices 2 and those of volumes 3"
            raise ValueError(msg)
        if self.slices.decoder_features_per_stage[-1:] != self.volumes.decoder_features_per_stage[-1:]:
            msg = "decoder_features_per_stage of both branches must end with the same number: their features are added"
            raise ValueError(msg)
        if self.volumes.pretrained is not None:
            msg = "volumes.pretrained must be null: weights of others are of networks for images, as slices has one"
            raise ValueError(msg)
        return self
