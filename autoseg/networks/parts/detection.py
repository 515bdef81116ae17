"""The neck and the heads of detectors: features of several resolutions are joined, and boxes are found in each."""

from math import log
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from autoseg.networks.blocks import TRANSPOSED_CONVOLUTIONS, build_head
from autoseg.networks.parts.layers import Layer
from autoseg.networks.parts.rep_units import RELU, RepUnits
from autoseg.plan.network.detector import DetectorPlan
from autoseg.plan.network.layers import LayerPlan

SILU: Final = LayerPlan(normalization="batch", activation="silu")
FIRST_SCORE: Final = 0.01
"""Score of all cells before training (Lin et al. 2017, arXiv:1708.02002)."""
FIRST_DISTANCE: Final = 2.0
"""Distance in strides at which training begins, so that the first boxes have edges of four cells (guess)."""
FIRST_WEIGHT: Final = 0.1
"""Factor on the first weights of scores and distances, so that their biases decide at first (guess)."""
POOLED_VOXELS: Final = 5
"""Extent of the window of the pyramid's maxima, of which three follow each other."""


class FastPyramidPooling(nn.Module):
    """Maxima over windows of 5, 9 and 13 voxels beside the features themselves, in half of the channels (SPPF).

    Along axes on which kernels of the stage are one voxel, the windows are, too.
    """

    def __init__(self, channels: int, kernel: tuple[int, ...]) -> None:
        super().__init__()
        ones, inner = (1,) * len(kernel), max(1, channels // 2)
        self.window = tuple(1 if extent == 1 else POOLED_VOXELS for extent in kernel)
        self.reduction = Layer(channels, inner, ones, layers=RELU)
        self.expansion = Layer(4 * inner, channels, ones, layers=RELU)

    def forward(self, features: Tensor) -> Tensor:
        """Pools."""
        pool = functional.max_pool2d if len(self.window) == 2 else functional.max_pool3d
        around = tuple(extent // 2 for extent in self.window)
        pooled = [self.reduction(features)]
        for _ in range(3):
            pooled.append(pool(pooled[-1], self.window, stride=1, padding=around))
        expanded: Tensor = self.expansion(torch.cat(pooled, dim=1))
        return expanded


class RepPan(nn.Module):
    """A path aggregation network of re-parameterized convolutions (YOLOv6, Li et al. 2022, arXiv:2209.02976).

    Every level gets features of those below and above; with a single level nothing is joined.

    Attributes:
        channels: Channels of every level's output, the highest resolution first.
    """

    def __init__(self, plan: DetectorPlan) -> None:
        super().__init__()
        first = plan.stage_count - plan.levels
        features, kernels, strides = plan.features_per_stage[first:], plan.kernel_sizes[first:], plan.strides[first:]
        self.channels = features if plan.levels == 1 else tuple(max(1, width // 2) for width in features)
        widths, ones, count = self.channels, (1,) * plan.dimensions, plan.neck_blocks
        enlarge = TRANSPOSED_CONVOLUTIONS[plan.dimensions]
        below = (*widths[1:-1], features[-1])  # channels of what comes from the next lower resolution
        steps = range(plan.levels - 1)
        self.reductions = nn.ModuleList(Layer(below[level], widths[level], ones, layers=RELU) for level in steps)
        self.enlargements = nn.ModuleList(
            enlarge(widths[level], widths[level], strides[level + 1], stride=strides[level + 1]) for level in steps
        )
        self.upward = nn.ModuleList(
            RepUnits(features[level] + widths[level], widths[level], kernels[level], count=count) for level in steps
        )
        self.downsamplings = nn.ModuleList(
            Layer(widths[level], widths[level], kernels[level + 1], layers=RELU, stride=strides[level + 1])
            for level in steps
        )
        self.downward = nn.ModuleList(
            RepUnits(2 * widths[level], widths[level + 1], kernels[level + 1], count=count) for level in steps
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Joins the features of the levels, the highest resolution first."""
        current = features[-1]
        reduced: list[Tensor] = []
        for level in reversed(range(len(self.upward))):
            reduced.insert(0, self.reductions[level](current))
            enlarged = self.enlargements[level](reduced[0])
            current = self.upward[level](torch.cat((enlarged, features[level]), dim=1))
        joined = [current]
        for level, below in enumerate(reduced):
            smaller = self.downsamplings[level](joined[-1])
            joined.append(self.downward[level](torch.cat((smaller, below), dim=1)))
        return joined


class DecoupledHead(nn.Module):
    """A convolution that both branches share, and one more for each (YOLOv6, Li et al. 2022, arXiv:2209.02976)."""

    def __init__(self, plan: DetectorPlan, channels: int, stage: int) -> None:
        super().__init__()
        kernel, dimensions = plan.kernel_sizes[stage], plan.dimensions
        self.bins = plan.distance_bins
        self.stem = Layer(channels, channels, (1,) * dimensions, layers=SILU)
        self.of_scores = Layer(channels, channels, kernel, layers=SILU)
        self.of_distances = Layer(channels, channels, kernel, layers=SILU)
        self.scores = build_head(channels, plan.class_count, dimensions)
        self.distances = build_head(channels, 2 * dimensions * plan.distance_bins, dimensions)

    def forward(
        self, features: Float[Tensor, "batch channel *space"]
    ) -> tuple[Float[Tensor, "batch cell class"], Float[Tensor, "batch cell 2 axes bin"]]:
        """Computes the logits of the classes of every cell, and of the bins of its distances or these themselves."""
        shared = self.stem(features)
        scores = self.scores(self.of_scores(shared)).float().flatten(2).mT
        distances = self.distances(self.of_distances(shared)).float().flatten(2).mT
        return scores, distances.reshape(*distances.shape[:2], 2, features.ndim - 2, self.bins)

    @torch.no_grad()
    def set_first_outputs(self) -> None:
        """Makes every cell begin with a low score and a small box; probabilities of bins fall geometrically."""
        for layer in (self.scores, self.distances):
            layer.get_parameter("weight").mul_(FIRST_WEIGHT)
        self.scores.get_parameter("bias").fill_(log(FIRST_SCORE / (1 - FIRST_SCORE)))
        bias = self.distances.get_parameter("bias")
        if self.bins == 1:
            bias.fill_(FIRST_DISTANCE)
        else:
            places = torch.arange(self.bins, device=bias.device)
            bias.copy_((-log(1 + 1 / FIRST_DISTANCE) * places).repeat(len(bias) // self.bins))
