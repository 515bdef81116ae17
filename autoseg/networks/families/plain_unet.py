"""The plain U-Net: stacked convolution units (Ronneberger et al. 2015, Isensee et al. 2021)."""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import ConvolutionUnit
from autoseg.networks.unet import UNet
from autoseg.plan.network.unets import UNetPlan


class PlainUNet(UNet):
    """A U-Net with a plain encoder."""

    def __init__(self, plan: UNetPlan) -> None:
        super().__init__(plan, PlainEncoder(plan))


class PlainEncoder(nn.Module):
    """Stages of convolution units; the first unit of a stage has the stride of the stage.

    Names of the weights, beside nnU-Net's: `stages.{s}.{i}.normalized.{convolution|norm}` is
    `encoder.stages.{s}.0.convs.{i}.{conv|norm}`.
    """

    def __init__(self, plan: UNetPlan) -> None:
        super().__init__()
        channels = (plan.input_channels, *plan.features_per_stage)
        self.stages = nn.ModuleList(
            _build_stage(plan, stage, channels_in=below, channels_out=above)
            for stage, (below, above) in enumerate(pairwise(channels))
        )

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> list[Tensor]:
        """Returns the features of every stage, full resolution first."""
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        return features


def _build_stage(plan: UNetPlan, stage: int, *, channels_in: int, channels_out: int) -> nn.Sequential:
    kernel = plan.kernel_sizes[stage]
    first = ConvolutionUnit(channels_in, channels_out, kernel, stride=plan.strides[stage])
    further = [ConvolutionUnit(channels_out, channels_out, kernel) for _ in range(plan.blocks_per_stage[stage] - 1)]
    return nn.Sequential(first, *further)
