"""The residual-encoder U-Net (Isensee et al. 2024, arXiv:2404.09556)."""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import ConvolutionUnit, ResidualBlock
from autoseg.networks.unet import UNet
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
        channels = (plan.features_per_stage[0], *plan.features_per_stage)
        self.stages = nn.ModuleList(
            _build_stage(plan, stage, channels_in=below, channels_out=above)
            for stage, (below, above) in enumerate(pairwise(channels))
        )

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> list[Tensor]:
        """Returns the features of every stage, full resolution first."""
        image = self.stem(image)
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        return features


def _build_stage(plan: UNetPlan, stage: int, *, channels_in: int, channels_out: int) -> nn.Sequential:
    kernel = plan.kernel_sizes[stage]
    first = ResidualBlock(channels_in, channels_out, kernel, stride=plan.strides[stage])
    further = [ResidualBlock(channels_out, channels_out, kernel) for _ in range(plan.blocks_per_stage[stage] - 1)]
    return nn.Sequential(first, *further)
