"""The place of a residual unit, and the convolutions that change the resolution there."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from autoseg.networks.blocks import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS
from autoseg.plan.network.layers import LayerPlan

Step = Literal["stem", "none", "lower", "higher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSite:
    """The place of a unit in a network.

    Attributes:
        step: "none": the unit keeps resolution and channels. "stem": the first module, which receives the image.
            "lower" and "higher": the unit leads to the next lower or higher resolution.
        channels_in: Channels of its input.
        channels_out: Channels of its output.
        stage: Index of the resolution of its output; 0 is that of the image.
        kernel: Extents of the kernels.
        stride: Ratio of the resolutions; ones where it keeps the resolution.
        layers: Normalization and activation.
    """

    step: Step
    channels_in: int
    channels_out: int
    stage: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    layers: LayerPlan

    @property
    def dimensions(self) -> int:
        """Spatial axes."""
        return len(self.kernel)


def build_step(
    site: UnitSite, channels_out: int, kernel: tuple[int, ...], *, groups: int = 1, bias: bool = True
) -> nn.Module:
    """Builds a convolution with the stride of the place, transposed if that leads to a higher resolution.

    A voxel of the lower resolution lies on the first of those that it stands for, on the way down as on the way up.
    """
    padding = tuple(extent // 2 for extent in kernel)
    if site.step != "higher":
        return CONVOLUTIONS[len(kernel)](
            site.channels_in, channels_out, kernel, stride=site.stride, padding=padding, groups=groups, bias=bias
        )
    return TRANSPOSED_CONVOLUTIONS[len(kernel)](
        site.channels_in,
        channels_out,
        kernel,
        stride=site.stride,
        padding=padding,
        output_padding=tuple(step - 1 for step in site.stride),
        groups=groups,
        bias=bias,
    )
