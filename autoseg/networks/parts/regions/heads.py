"""The heads of Mask R-CNN: proposals of every cell, and class, box and mask of a region (arXiv:1703.06870)."""

from math import log
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from autoseg.networks.blocks import TRANSPOSED_CONVOLUTIONS, build_head
from autoseg.networks.parts.boxes import LARGEST_RATIO
from autoseg.networks.parts.layers import build_kernel
from autoseg.plan.network.mask_rcnn import MaskRcnnPlan

FIRST_SCORE: Final = 0.01
"""Score of all cells before training (Lin et al. 2017, arXiv:1708.02002)."""
FIRST_DISTANCE: Final = 4.0
"""Distance in strides at which training begins, so that the first boxes have edges of eight cells, as the published
anchors (32 pixels at a stride of 4)."""
FIRST_DEVIATION: Final = 0.01
"""Standard deviation of the first weights of what is compared with objects, as published."""
MASK_STRIDE: Final = 2


class ProposalHead(nn.Module):
    """A convolution, then the score and the distances of every cell; the same for all levels.

    Where the published network corrects three anchors per cell, it gives the four (in 3D six) distances of one box.
    """

    def __init__(self, plan: MaskRcnnPlan) -> None:
        super().__init__()
        features = plan.pyramid_features
        self.convolution = build_kernel(features, features, plan.kernel_sizes[-plan.levels])
        self.scores = build_head(features, 1, plan.dimensions)
        self.distances = build_head(features, 2 * plan.dimensions, plan.dimensions)

    def forward(
        self, features: Float[Tensor, "batch channel *space"]
    ) -> tuple[Float[Tensor, "batch cell"], Float[Tensor, "batch cell 2 axes"]]:
        """Computes the logit of every cell, and the distances of the faces of its box, in strides."""
        shared = functional.relu(self.convolution(features))
        scores = self.scores(shared).float().flatten(2)[:, 0]
        distances = self.distances(shared).float().flatten(2).mT
        distances = FIRST_DISTANCE * distances.clamp(max=LARGEST_RATIO).exp()
        return scores, distances.reshape(*distances.shape[:2], 2, features.ndim - 2)

    @torch.no_grad()
    def set_first_outputs(self, generator: torch.Generator | None) -> None:
        """Makes every cell begin with a low score and a box of eight cells."""
        for layer in (self.scores, self.distances):
            nn.init.normal_(layer.get_parameter("weight"), std=FIRST_DEVIATION, generator=generator)
        self.scores.get_parameter("bias").fill_(log(FIRST_SCORE / (1 - FIRST_SCORE)))


class BoxHead(nn.Module):
    """Two layers that see all bins of a region, then its classes, and for each of them what corrects its box."""

    def __init__(self, plan: MaskRcnnPlan) -> None:
        super().__init__()
        self.axes, self.classes = plan.dimensions, plan.class_count
        inputs, hidden = plan.pyramid_features * plan.box_bins**plan.dimensions, plan.hidden_features
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.scores = nn.Linear(hidden, plan.class_count + 1)
        self.offsets = nn.Linear(hidden, plan.class_count * 2 * plan.dimensions)

    def forward(
        self, regions: Float[Tensor, "batch box channel ..."]
    ) -> tuple[Float[Tensor, "batch box label"], Float[Tensor, "batch box class 2 axes"]]:
        """Computes the logits of background and classes, and the offsets of the boxes of the classes."""
        hidden = functional.relu(self.first(regions.flatten(2)))
        hidden = functional.relu(self.second(hidden))
        offsets = self.offsets(hidden).float()
        return self.scores(hidden).float(), offsets.reshape(*offsets.shape[:2], self.classes, 2, self.axes)

    @torch.no_grad()
    def set_first_outputs(self, generator: torch.Generator | None) -> None:
        """Draws the weights of both layers, and makes all classes and boxes begin alike."""
        for layer in (self.first, self.second):
            nn.init.kaiming_uniform_(layer.weight, a=1, generator=generator)
            nn.init.zeros_(layer.bias)
        for layer, deviation in ((self.scores, FIRST_DEVIATION), (self.offsets, FIRST_DEVIATION / 10)):
            nn.init.normal_(layer.weight, std=deviation, generator=generator)
            nn.init.zeros_(layer.bias)


class MaskHead(nn.Module):
    """Convolutions, a transposed one, and a mask of its own for every class."""

    def __init__(self, plan: MaskRcnnPlan) -> None:
        super().__init__()
        features, kernel = plan.pyramid_features, (3,) * plan.dimensions
        self.layers = nn.ModuleList(build_kernel(features, features, kernel) for _ in range(plan.mask_layers))
        self.enlargement = TRANSPOSED_CONVOLUTIONS[plan.dimensions](features, features, MASK_STRIDE, stride=MASK_STRIDE)
        self.logits = build_head(features, plan.class_count, plan.dimensions)

    def forward(self, regions: Float[Tensor, "batch box channel ..."]) -> Float[Tensor, "batch box class ..."]:
        """Computes the logits of the masks of all classes, which exclude each other in no voxel."""
        features = regions.flatten(0, 1)
        for layer in self.layers:
            features = functional.relu(layer(features))
        logits: Tensor = self.logits(functional.relu(self.enlargement(features))).float()
        return logits.reshape(*regions.shape[:2], *logits.shape[1:])
