"""Dense atrous convolution of CE-Net (Gu et al. 2019, arXiv:1903.02740)."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from autoseg.networks.parts.contexts.context import Context, ContextSite
from autoseg.networks.parts.layers import build_kernel, get_ones
from autoseg.plan.network.contexts import DenseDilationPlan


class DenseDilation(Context):
    """Adds four cascades of dilated convolutions to the features; the cascades share their weights.

    Their receptive fields are 3, 7, 9 and 19 voxels along axes with kernels of 3.
    """

    def __init__(self, plan: DenseDilationPlan, site: ContextSite) -> None:
        super().__init__(site)
        del plan
        channels = site.channels
        self.near = build_kernel(channels, channels, site.kernel)
        self.middle = build_kernel(channels, channels, site.kernel, dilation=3)
        self.far = build_kernel(channels, channels, site.kernel, dilation=5)
        self.mix = build_kernel(channels, channels, get_ones(site.kernel))

    def forward(self, features: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels *space"]:
        """Adds the cascades."""
        near = self.near(features)
        cascade = self.middle(near)
        wider = (self.mix(self.middle(features)), self.mix(cascade), self.mix(self.far(cascade)))
        return features + functional.relu(near) + sum(functional.relu(branch) for branch in wider)
