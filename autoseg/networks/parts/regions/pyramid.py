"""A pyramid of features, each level joined with those below (FPN, Lin et al. 2017, arXiv:1612.03144)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from autoseg.networks.parts.layers import build_kernel, get_ones
from autoseg.plan.network.mask_rcnn import MaskRcnnPlan


class FeaturePyramid(nn.Module):
    """Features of the last stages, brought to the same channels, and added from the lowest resolution up."""

    def __init__(self, plan: MaskRcnnPlan, channels: Sequence[int]) -> None:
        super().__init__()
        kernels, features = plan.kernel_sizes[-plan.levels :], plan.pyramid_features
        self.reductions = nn.ModuleList(
            build_kernel(count, features, get_ones(kernel)) for count, kernel in zip(channels, kernels, strict=True)
        )
        self.outputs = nn.ModuleList(build_kernel(features, features, kernel) for kernel in kernels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Joins the features of the levels, the highest resolution first."""
        reduced = [reduce(level) for reduce, level in zip(self.reductions, features, strict=True)]
        joined = [reduced[-1]]
        for level in reversed(reduced[:-1]):
            joined.insert(0, level + functional.interpolate(joined[0], size=level.shape[2:], mode="nearest"))
        return [output(level) for output, level in zip(self.outputs, joined, strict=True)]
