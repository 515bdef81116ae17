"""The residual-encoder U-Net (Isensee et al. 2024, arXiv:2404.09556)."""

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import ConvolutionUnit, ResidualBlock
from autoseg.networks.unet import UNet, build_encoder_stages, compute_encoder_features
from autoseg.plan.network.unets import UNetPlan


class ResidualEncoderUNet(UNet):
    """A U-Net with an encoder of residual blocks."""

    def __init__(self, plan: UNetPlan) -> None:
        super().__init__(plan, ResidualEncoder(plan))


class ResidualEncoder(nn.Module):
    """A stem of one convolution unit, then stages of residual blocks; the first block has the stride of the stage.

    Names of the weights, beside nnU-Net's (both below `encoder.`):

    | here | there |
    |---|---|
    | `stem.normalized.{convolution|norm}` | `stem.convs.0.{conv|norm}` |
    | `stages.{s}.{b}.first.normalized.{convolution|norm}` | `stages.{s}.blocks.{b}.conv1.{conv|norm}` |
    | `stages.{s}.{b}.second.{convolution|norm}` | `stages.{s}.blocks.{b}.conv2.{conv|norm}` |
    | `stages.{s}.{b}.shortcut.projection.{convolution|norm}` | `stages.{s}.blocks.{b}.skip.{i}.{conv|norm}` |

    where i is 1 if the block has a stride (a pooling comes first there) and 0 otherwise.
    """

    def __init__(self, plan: UNetPlan) -> None:
        super().__init__()
        self.stem = ConvolutionUnit(plan.input_channels, plan.features_per_stage[0], plan.kernel_sizes[0])
        self.stages = build_encoder_stages(plan, ResidualBlock, channels_in=plan.features_per_stage[0])

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> list[Tensor]:
        """Returns the features of every stage, full resolution first."""
        return compute_encoder_features(self.stages, self.stem(image))
