"""Networks that answer the uncertain points of a coarse map (PointRend, Kirillov et al. 2020, arXiv:1912.08193)."""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autoseg.networks.blocks import build_head, enlarge_to
from autoseg.networks.families.additive_u import AdditiveUNetwork
from autoseg.networks.families.plain_unet import PlainUNet
from autoseg.networks.families.residual_encoder_unet import ResidualEncoderUNet
from autoseg.networks.families.u_shaped import UShapedNetwork
from autoseg.networks.initialization import initialize_weights
from autoseg.networks.levels import LevelNetwork
from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.points import PointHead, measure_uncertainty, sample_linearly, spread
from autoseg.plan.network.point_rend import PointRendPlan

SKELETONS: Final[dict[str, type[LevelNetwork]]] = {
    "plain_unet": PlainUNet,
    "residual_encoder_unet": ResidualEncoderUNet,
    "u_shaped": UShapedNetwork,
    "additive_u": AdditiveUNetwork,
}
"""Built from the plans of the same names in `autoseg.plan.network.point_rend.SKELETON_PLANS`."""


class PointRendNetwork(SegmentationNetwork):
    """A network whose decoder stops early, and a perceptron that sees the encoder's first features at points.

    In training mode `forward` answers as many points as a training step does, so that what is measured is its cost.
    """

    plan: PointRendPlan

    def __init__(self, plan: PointRendPlan) -> None:
        super().__init__(plan)
        self.skeleton = SKELETONS[plan.skeleton.family](plan.built_skeleton)
        self.skeleton.stop_decoder(plan.coarse_level)
        channels = self.skeleton.level_channels[plan.coarse_level :]
        self.heads = nn.ModuleList(
            build_head(count, plan.output_channels, plan.dimensions)
            for count, _ in zip(channels, plan.output_weights, strict=False)
        )
        self.points = PointHead(plan, self.skeleton.fine_channels + channels[0])

    def forward(
        self,
        image: Float[Tensor, "batch channel *space"],
        candidates: Int[Tensor, "batch candidate"] | None = None,
        uniform: Int[Tensor, "batch uniform"] | None = None,
    ) -> tuple[Tensor, ...]:
        """Computes logits, those of the full resolution first; with candidates, also those of training points.

        Args:
            image: Its extents are multiples of `NetworkPlan.patch_divisors`.
            candidates: Voxels of which the most uncertain become points; None: the patch is predicted.
            uniform: Voxels that are points whatever the logits; needed with `candidates`.

        Returns:
            The logits; with candidates, those of the coarse map in place of the prediction, and at the end the logits
            of all points, their voxels, and which candidates the first of them are.
        """
        fine, decoded = self.skeleton.compute_levels(image)
        maps, grid = (fine, decoded[0]), image.shape[2:]
        coarse, *lower = (self.heads[index](decoded[index]) for index in range(len(self.output_weights)))
        if candidates is None:
            return (self._render(coarse, maps, grid), *lower)
        assert uniform is not None, "candidates and uniform points go together"
        count = self._count_points(grid) - uniform.shape[1]
        whole = enlarge_to(coarse, grid)
        found = whole.detach().flatten(2).gather(2, spread(candidates, whole.shape[1]))
        chosen = measure_uncertainty(found.float(), self.plan.probabilities).topk(count, dim=1).indices
        points = torch.cat((candidates.gather(1, chosen), uniform), dim=1)
        return (whole, *lower, self._answer(maps, coarse, points, grid), points, chosen)

    def _render(self, coarse: Tensor, maps: Sequence[Tensor], grid: Sequence[int]) -> Tensor:
        """Enlarges a map level by level, and answers its most uncertain voxels."""
        rendered = coarse
        for level in reversed(range(self.plan.coarse_level)):
            extents = self._find_extents(grid, level)
            rendered = enlarge_to(rendered, extents)
            logits = rendered.flatten(2)
            uncertain = measure_uncertainty(logits.detach().float(), self.plan.probabilities)
            points = uncertain.topk(self._count_points(extents), dim=1).indices
            answered = self._answer(maps, coarse, points, extents).to(logits.dtype)
            rendered = logits.scatter(2, spread(points, logits.shape[1]), answered).view(*logits.shape[:2], *extents)
        return rendered

    def _answer(self, maps: Sequence[Tensor], coarse: Tensor, points: Tensor, grid: Sequence[int]) -> Tensor:
        """Computes the logits of points of a grid."""
        features = torch.cat([sample_linearly(features, points, grid) for features in maps], dim=1)
        logits: Tensor = self.points(features, sample_linearly(coarse, points, grid))
        return logits

    def _count_points(self, extents: Sequence[int]) -> int:
        plan = self.plan
        return plan.count_points(extents, plan.training_fraction if self.training else plan.prediction_fraction)

    def _find_extents(self, grid: Sequence[int], level: int) -> tuple[int, ...]:
        """Finds the extents of the maps of a level."""
        extents = tuple(grid)
        for stride in self.plan.skeleton.strides[1 : level + 1]:
            extents = tuple(extent // step for extent, step in zip(extents, stride, strict=True))
        return extents

    def initialize_weights(self, generator: torch.Generator | None = None) -> None:
        """Sets the first weights: those of the skeleton as its family does, the others as usual."""
        self.skeleton.initialize_weights(generator)
        initialize_weights(self.heads, generator)
        initialize_weights(self.points, generator)

    @property
    def output_weights(self) -> tuple[float, ...]:
        """Those of the plan, normalized to a sum of 1."""
        return self.weight_outputs(self.plan.output_weights)

    @property
    def single_precision_modules(self) -> tuple[str, ...]:
        """The heads, and the last layer of the perceptron."""
        return (*(f"heads.{index}" for index in range(len(self.heads))), "points.output")
