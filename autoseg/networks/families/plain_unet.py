"""The plain U-Net: stacked convolution units (Ronneberger et al. 2015, Isensee et al. 2021)."""

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import ConvolutionUnit
from autoseg.networks.unet import UNet, build_encoder_stages, compute_encoder_features
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
        self.stages = build_encoder_stages(plan, ConvolutionUnit, channels_in=plan.input_channels)

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> list[Tensor]:
        """Returns the features of every stage, full resolution first."""
        return compute_encoder_features(self.stages, image)
