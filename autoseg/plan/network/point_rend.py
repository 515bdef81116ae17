"""A decoder that stops before the full resolution, and a head that answers its uncertain points."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from autoseg.document import OneOf
from autoseg.plan.network.additive_u import AdditiveUPlan
from autoseg.plan.network.base import NetworkPlan, StagedNetworkPlan
from autoseg.plan.network.layers import OutputWeights
from autoseg.plan.network.u_shaped import UShapedPlan
from autoseg.plan.network.unets import PlainUNetPlan, ResidualEncoderUNetPlan
from autoseg.plan.values import BlockCount, ChannelCount, Count

Probabilities = Literal["softmax", "sigmoid"]
VoxelShare = Annotated[float, Field(gt=0, le=1)]

SKELETON_PLANS: Final[dict[str, type[StagedNetworkPlan]]] = {
    "plain_unet": PlainUNetPlan,
    "residual_encoder_unet": ResidualEncoderUNetPlan,
    "u_shaped": UShapedPlan,
    "additive_u": AdditiveUPlan,
}
"""The families whose decoder has one level per resolution, and can stop."""


class PointRendPlan(NetworkPlan):
    """A network whose decoder stops early; a perceptron answers uncertain points (Kirillov et al. 2020,
    arXiv:1912.08193).

    To predict, the logits of the coarse map are enlarged linearly, level by level; at each one the most uncertain
    voxels are answered anew.

    Attributes:
        skeleton: The network. It takes as many channels as follows from this plan; its own outputs are not built.
        coarse_level: Level of the decoder with the coarse map; 0 would be the full resolution.
        hidden_features: Channels of every hidden layer of the perceptron.
        hidden_layers: Its hidden layers.
        training_fraction: Points of a training patch as a share of its voxels.
        prediction_fraction: Points of every level in prediction as a share of the voxels of the level.
        probabilities: The function that turns logits into probabilities: "softmax" for labels, which exclude each
            other, "sigmoid" for regions, which may overlap. It decides what is uncertain.
        output_weights: The weight in the loss of every trained output: the coarse map, enlarged to the full
            resolution, then lower levels at their own.
    """

    family: Literal["point_rend"] = "point_rend"
    skeleton: Annotated[StagedNetworkPlan, OneOf(SKELETON_PLANS, "family")]
    coarse_level: Count
    hidden_features: ChannelCount
    hidden_layers: BlockCount
    training_fraction: VoxelShare
    prediction_fraction: VoxelShare
    probabilities: Probabilities = "softmax"
    output_weights: OutputWeights

    @property
    def built_skeleton(self) -> StagedNetworkPlan:
        """The skeleton with the channels of this plan."""
        return self.skeleton.model_copy(
            update={"input_channels": self.input_channels, "output_channels": self.output_channels}
        )

    @property
    def patch_divisors(self) -> tuple[int, ...]:
        """Those of the skeleton."""
        return self.skeleton.patch_divisors

    def count_points(self, extents_voxels: Sequence[int], fraction: float) -> int:
        """Counts the points of a map, at least one, for a share of its voxels."""
        return max(1, round(fraction * prod(extents_voxels)))

    @property
    def trained_output_count(self) -> int:
        """One for each weight, beside the points."""
        return len(self.output_weights)

    @property
    def required_objective(self) -> str:
        """Points need a loss of their own."""
        return self.family

    def describe(self) -> Mapping[str, str]:
        """Describes the skeleton and the head."""
        head = f"points from level {self.coarse_level}, {self.hidden_layers} x {self.hidden_features} features"
        return {**self.skeleton.describe(), "head": head}

    @model_validator(mode="after")
    def _check_skeleton(self) -> "PointRendPlan":
        if self.skeleton.dimensions != self.dimensions:
            msg = f"skeleton.dimensions must be {self.dimensions} (got {self.skeleton.dimensions})"
            raise ValueError(msg)
        if self.coarse_level >= self.skeleton.stage_count:
            msg = (
                f"coarse_level must be at most {self.skeleton.stage_count - 1}, as the skeleton has "
                f"{self.skeleton.stage_count} stages (got {self.coarse_level})"
            )
            raise ValueError(msg)
        most = self.skeleton.stage_count - self.coarse_level
        if len(self.output_weights) > most:
            msg = f"output_weights must hold at most {most} weights: one per level that is left, and the bottleneck's"
            raise ValueError(msg)
        problem = find_skeleton_problem(self.skeleton)
        if problem is not None:
            msg = f"skeleton: {problem}"
            raise ValueError(msg)
        return self


def find_skeleton_problem(network: NetworkPlan) -> str | None:
    """Finds a reason why the decoder of a network cannot stop early; None if it can."""
    if network.family not in SKELETON_PLANS:
        families = ", ".join(SKELETON_PLANS)
        return f"a network of the family {network.family} has no decoder of levels, as these have: {families}"
    if not isinstance(network, UShapedPlan):
        return None
    if network.padding == "valid":
        return "without padding (padding 'valid') its maps cover different parts of the patch"
    if network.supervision == "fused":
        return "its outputs of all levels are fused at the full resolution (supervision 'fused')"
    return None if network.shape_stream is None else "its shape_stream works at the full resolution"
