"""Nested U-shaped networks (UNet++, Zhou et al. 2018, arXiv:1807.10165)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import build_head
from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.blocks import build_stage
from autoseg.networks.parts.encoder import EncoderStage, describe_stage
from autoseg.networks.parts.resampling import UpsamplingStep
from autoseg.plan.network import NestedUPlan


class NestedUNetwork(SegmentationNetwork):
    """U-shaped networks of every depth, nested in each other.

    `stages` is the column 0 of nodes. `columns` has the others: index c holds the nodes of column c + 1, one per stage
    from the full resolution down. `heads` has the names of the columns. What a pruned network consists of has the
    names that it has in the whole one.
    """

    plan: NestedUPlan

    def __init__(self, plan: NestedUPlan) -> None:
        super().__init__(plan)
        self.stages = nn.ModuleList(EncoderStage(plan, stage) for stage in range(plan.depth + 1))
        self.columns = nn.ModuleList(
            nn.ModuleList(NestedNode(plan, stage, column) for stage in range(plan.depth - column + 1))
            for column in range(1, plan.depth + 1)
        )
        self.heads = nn.ModuleDict(
            {
                str(plan.depth - index): build_head(plan.encoded_channels[0], plan.output_channels, plan.dimensions)
                for index in range(len(plan.output_weights))
            }
        )

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Float[Tensor, "batch output ..."], ...]:
        """Computes logits, those of the last column first."""
        rows: list[list[Tensor]] = []
        for stage in self.stages:
            image = stage(image)
            rows.append([image])
        for column in self.columns:
            # From the highest stage down: a node reads what the column before it left in the row below.
            for index, node in enumerate(column.children()):
                rows[index].append(node(rows[index], rows[index + 1][-1]))
        return tuple(self._compute_logits(rows[0], index) for index in range(len(self.output_weights)))

    @property
    def output_weights(self) -> tuple[float, ...]:
        """Those of the plan, normalized to a sum of 1."""
        return self.weight_outputs(self.plan.output_weights)

    @property
    def single_precision_modules(self) -> tuple[str, ...]:
        """The heads."""
        return tuple(f"heads.{column}" for column in self.heads)

    def _compute_logits(self, row: list[Tensor], index: int) -> Tensor:
        column = self.plan.depth - index
        logits: Tensor = self.heads[str(column)](row[column])
        return logits


class NestedNode(nn.Module):
    """Joins all earlier nodes of a stage with the upsampled node below, then applies blocks."""

    def __init__(self, plan: NestedUPlan, stage: int, column: int) -> None:
        super().__init__()
        self.upsampling = UpsamplingStep(
            plan.upsampling,
            plan.encoded_channels[stage + 1],
            plan.features_per_stage[stage],
            stride=plan.strides[stage + 1],
            kernel=plan.kernel_sizes[stage],
            layers=plan.layers,
        )
        joined = column * plan.encoded_channels[stage] + self.upsampling.channels_out
        self.blocks = build_stage(plan.block, describe_stage(plan, stage, channels_in=joined, is_encoder=False))

    def forward(
        self, row: list[Float[Tensor, "batch channel *space"]], below: Float[Tensor, "batch channels_below ..."]
    ) -> Float[Tensor, "batch channel *space"]:
        """Computes the features of the node."""
        features: Tensor = self.blocks(torch.cat((*row, self.upsampling(below)), dim=1))
        return features
