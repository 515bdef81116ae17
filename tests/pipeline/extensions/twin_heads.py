"""A family of networks: two resolutions, two heads that both predict the whole image, and a running mean."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from autoseg.networks.blocks import CONVOLUTIONS
from autoseg.networks.network import SegmentationNetwork
from autoseg.plan.network import NetworkPlan
from autoseg.plan.values import Count

MEAN_SHARE = 0.1  # of a batch in the running mean


class TwinHeadsPlan(NetworkPlan):
    family: Literal["twin_heads"] = "twin_heads"
    features: Count

    @property
    def patch_divisors(self) -> tuple[int, ...]:
        return (2,) * self.dimensions

    def describe(self) -> Mapping[str, str]:
        return {"features": str(self.features)}


class TwinHeads(SegmentationNetwork):
    mean: Tensor

    def __init__(self, plan: TwinHeadsPlan) -> None:
        super().__init__(plan)
        convolution = CONVOLUTIONS[plan.dimensions]
        width = plan.features
        self.fine = nn.Sequential(convolution(plan.input_channels, width, 3, padding=1), nn.LeakyReLU())
        self.coarse = nn.Sequential(convolution(width, width, 3, stride=2, padding=1), nn.LeakyReLU())
        self.heads = nn.ModuleList(convolution(2 * width, plan.output_channels, 1) for _ in range(2))
        self.register_buffer("mean", torch.zeros(1, plan.input_channels, *(1,) * plan.dimensions))

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Float[Tensor, "batch output ..."], ...]:
        if self.training:
            self._update_mean(image)
        fine = self.fine(image - self.mean)
        coarse = functional.interpolate(self.coarse(fine), size=image.shape[2:])
        features = torch.cat([fine, coarse], dim=1)
        return tuple(head(features) for head, _ in zip(self.heads, self.output_weights, strict=False))

    @property
    def output_weights(self) -> tuple[float, ...]:
        return (0.75, 0.25) if self.deep_supervision else (1.0,)

    @torch.no_grad()
    def _update_mean(self, image: Tensor) -> None:
        axes = (0, *range(2, image.ndim))
        self.mean.lerp_(image.mean(axes, keepdim=True), MEAN_SHARE)
