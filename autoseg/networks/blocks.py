"""Building blocks of the U-Nets: convolution units, residual blocks, decoder levels; for images and volumes.

Activations work in place on the output of the normalization before them: the normalization keeps its input for the
backward pass, not its output, so this halves what an activation costs and changes no result.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import chain
from typing import Final, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

NEGATIVE_SLOPE: Final = 0.01  # of the leaky ReLU, as in the reference implementation
NORM_EPSILON: Final = 1e-5


class VolumeConvolution(nn.Conv3d):
    """A convolution of volumes whose weights get the right gradient on CPUs in 16 bits, too.

    There PyTorch (2.13, oneDNN) writes only a part of the gradient of a kernel that is longer than the image along an
    axis; the rest is whatever the memory held. Such an image has few voxels, so its convolution in single precision
    costs little. What is computed without gradients is as it was.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self._needs_single_precision(input):
            return cast(Tensor, super()._conv_forward(input, weight, bias))
        with torch.autocast("cpu", enabled=False):
            return cast(Tensor, super()._conv_forward(input.float(), weight, bias))

    def _needs_single_precision(self, image: Tensor) -> bool:
        if image.device.type != "cpu" or not torch.is_grad_enabled() or not torch.is_autocast_enabled("cpu"):
            return False
        return any(kernel > extent for kernel, extent in zip(self.kernel_size, image.shape[2:], strict=True))


CONVOLUTIONS: Final[dict[int, Callable[..., nn.Module]]] = {2: nn.Conv2d, 3: VolumeConvolution}
TRANSPOSED_CONVOLUTIONS: Final[dict[int, Callable[..., nn.Module]]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
CHANNELS_LAST: Final = {2: torch.channels_last, 3: torch.channels_last_3d}


def build_convolution(
    channels_in: int, channels_out: int, kernel: Sequence[int], *, stride: Sequence[int], bias: bool = True
) -> nn.Module:
    """Builds a convolution that keeps the extent for stride 1: each side is padded by (kernel - 1) // 2 zeros."""
    padding = tuple((extent - 1) // 2 for extent in kernel)
    kind = CONVOLUTIONS[len(kernel)]
    return kind(channels_in, channels_out, tuple(kernel), stride=tuple(stride), padding=padding, bias=bias)


def build_head(channels_in: int, channels_out: int, dimensions: int) -> nn.Module:
    """Builds the 1x1 convolution that turns features into logits."""
    return CONVOLUTIONS[dimensions](channels_in, channels_out, 1)


def is_on_cpu(features: Tensor) -> bool:
    """Returns whether a CPU computes."""
    return features.device.type == "cpu"


class InstanceNormalization(nn.Module):
    """Normalizes each channel of each sample to mean 0 and variance 1, then scales and shifts it (learnt).

    Ulyanov et al. 2016, arXiv:1607.08022. On a CPU it is computed as group normalization with one channel per
    group, which is the same and, as PyTorch implements the two, 1.5 to 2.5 times as fast.

    Attributes:
        is_fused: Whether a kernel for channels last on a GPU computes it, together with a leaky ReLU after it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.is_fused = False
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        """Normalizes over space; the result may be overwritten."""
        if is_on_cpu(features):
            return functional.group_norm(features, len(self.weight), self.weight, self.bias, NORM_EPSILON)
        if self.is_fused:
            return self._compute_fused(features, slope=1.0)
        return self._normalize(features)

    def activate(
        self, features: Float[Tensor, "batch channel *space"], *, slope: float
    ) -> Float[Tensor, "batch channel *space"]:
        """Normalizes over space, then multiplies negative values by the slope; for a GPU."""
        if self.is_fused:
            return self._compute_fused(features, slope=slope)
        return functional.leaky_relu_(self._normalize(features), slope)

    def _normalize(self, features: Tensor) -> Tensor:
        """Normalizes as `torch.nn.functional.instance_norm` does, but returns no view.

        To overwrite a view would copy all gradients in the backward pass. Nobody else keeps what it would be a view of,
        as a normalization keeps its input, so autograd need not know that they share memory.
        """
        samples = len(features)
        normalized = functional.batch_norm(
            features.contiguous().view(1, samples * len(self.weight), *features.shape[2:]),
            running_mean=None,
            running_var=None,
            weight=self.weight.repeat(samples),
            bias=self.bias.repeat(samples),
            training=True,
            eps=NORM_EPSILON,
        )
        result: Tensor = torch.ops.aten._unsafe_view(normalized, features.shape)
        return result

    def _compute_fused(self, features: Tensor, *, slope: float) -> Tensor:
        from autoseg.networks.fused_normalization import normalize_and_activate  # needs Triton

        return normalize_and_activate(features, self.weight, self.bias, epsilon=NORM_EPSILON, slope=slope)


def has_fused_normalization() -> bool:
    """Returns whether Triton is installed, in which the fused normalization is written."""
    return find_spec("triton") is not None


def fuse_normalization(network: nn.Module, *, is_fused: bool = True) -> int:
    """Has a network on a GPU normalize by the fused kernel, or not; returns the number of its normalizations."""
    norms = [module for module in network.modules() if isinstance(module, InstanceNormalization)]
    for norm in norms:
        norm.is_fused = is_fused
    return len(norms)


class NormalizedConvolution(nn.Module):
    """Convolution and instance normalization, without a nonlinearity."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: Sequence[int], *, stride: Sequence[int], bias: bool = True
    ) -> None:
        super().__init__()
        self.convolution = build_convolution(channels_in, channels_out, kernel, stride=stride, bias=bias)
        self.norm = InstanceNormalization(channels_out)

    def forward(self, features: Float[Tensor, "batch channels_in *space"]) -> Float[Tensor, "batch channels_out ..."]:
        """Convolves, then normalizes each sample and channel."""
        normalized: Tensor = self.norm(self.convolution(features))
        return normalized


class ConvolutionUnit(nn.Module):
    """Convolution, instance normalization, leaky ReLU."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: Sequence[int], *, stride: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.normalized = NormalizedConvolution(channels_in, channels_out, kernel, stride=stride or _ones(kernel))
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)

    def forward(self, features: Float[Tensor, "batch channels_in *space"]) -> Float[Tensor, "batch channels_out ..."]:
        """Applies the three in order."""
        return self.finish(self.normalized.convolution(features))

    def finish(self, convolved: Float[Tensor, "batch channels_out *space"]) -> Float[Tensor, "batch channels_out ..."]:
        """Applies normalization and activation to the output of the convolution, whose input may be freed before."""
        norm = self.normalized.norm  # prediction may have put another module there
        if isinstance(norm, InstanceNormalization) and not is_on_cpu(convolved):
            return norm.activate(convolved, slope=NEGATIVE_SLOPE)
        activated: Tensor = self.activation(norm(convolved))
        return activated


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut (basic block of He et al. 2016, arXiv:1512.03385).

    The shortcut follows ResNet-D (He et al. 2019, arXiv:1812.01187): average pooling where the resolution falls, then
    a 1x1 convolution without bias and a normalization where the number of channels changes.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: Sequence[int], *, stride: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        stride = stride or _ones(kernel)
        self.first = ConvolutionUnit(channels_in, channels_out, kernel, stride=stride)
        self.second = NormalizedConvolution(channels_out, channels_out, kernel, stride=_ones(kernel))
        self.shortcut = Shortcut(channels_in, channels_out, stride=stride)
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)

    def forward(self, features: Float[Tensor, "batch channels_in *space"]) -> Float[Tensor, "batch channels_out ..."]:
        """Adds the shortcut to the result of both convolutions, then activates."""
        residual: Tensor = self.second(self.first(features))
        activated: Tensor = self.activation(residual.add_(self.shortcut(features)))
        return activated

    def start_as_shortcut(self) -> None:
        """Sets the last normalization to 0 (Goyal et al. 2017, arXiv:1706.02677)."""
        nn.init.zeros_(self.second.norm.weight)


class AveragePool3d(nn.AvgPool3d):
    """Average pooling with a deterministic gradient on a GPU, where deterministic algorithms are demanded.

    PyTorch's own has none there. Extents are multiples of the kernel's.
    """

    def forward(self, features: Float[Tensor, "batch channel z y x"]) -> Float[Tensor, "batch channel ..."]:
        """Averages."""
        if features.is_cuda and torch.are_deterministic_algorithms_enabled():
            assert isinstance(self.kernel_size, tuple), "one extent per axis"
            return average_blocks(features, self.kernel_size)
        pooled: Tensor = super().forward(features)
        return pooled


def average_blocks(
    features: Float[Tensor, "batch channel z y x"], kernel: Sequence[int]
) -> Float[Tensor, "batch channel ..."]:
    """Averages every block of `kernel` voxels, by sums along axes."""
    blocks = [(extent // step, step) for extent, step in zip(features.shape[2:], kernel, strict=True)]
    return features.reshape(*features.shape[:2], *chain.from_iterable(blocks)).mean(dim=(3, 5, 7))


POOLINGS: Final[dict[int, Callable[..., nn.Module]]] = {2: nn.AvgPool2d, 3: AveragePool3d}
MAXIMUM_POOLINGS: Final[dict[int, Callable[..., nn.Module]]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
LINEAR: Final = {2: "bilinear", 3: "trilinear"}
"""Names of linear interpolation."""


def enlarge_to(features: Float[Tensor, "batch channel *space"], extents: Sequence[int]) -> Tensor:
    """Interpolates linearly to the given extents."""
    if features.shape[2:] == torch.Size(extents):
        return features
    return functional.interpolate(features, size=tuple(extents), mode=LINEAR[len(extents)])


class Enlargement(nn.Module):
    """Interpolation by a stride, linear or of the nearest voxel."""

    def __init__(self, stride: Sequence[int], mode: str) -> None:
        super().__init__()
        self.stride = tuple(float(step) for step in stride)
        self.mode = mode

    def forward(self, features: Float[Tensor, "batch channel *space_below"]) -> Float[Tensor, "batch channel *space"]:
        """Interpolates."""
        corners = None if self.mode == "nearest" else False
        return functional.interpolate(features, scale_factor=self.stride, mode=self.mode, align_corners=corners)


class Shortcut(nn.Module):
    """The shortcut of a residual block: the identity wherever shapes allow."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: Sequence[int]) -> None:
        super().__init__()
        strided = any(step != 1 for step in stride)
        self.pooling = POOLINGS[len(stride)](tuple(stride)) if strided else nn.Identity()
        self.projection = (
            NormalizedConvolution(channels_in, channels_out, _ones(stride), stride=_ones(stride), bias=False)
            if channels_in != channels_out
            else nn.Identity()
        )

    def forward(self, features: Float[Tensor, "batch channels_in *space"]) -> Float[Tensor, "batch channels_out ..."]:
        """Pools, then projects."""
        projected: Tensor = self.projection(self.pooling(features))
        return projected


class DecoderLevel(nn.Module):
    """One decoder level: upsamples the features from below, concatenates those of the encoder, convolves.

    The transposed convolution's kernel equals its stride, so that its patches do not overlap.
    """

    def __init__(
        self,
        channels_below: int,
        channels: int,
        *,
        stride: Sequence[int],
        kernel: Sequence[int],
        unit_count: int,
    ) -> None:
        super().__init__()
        enlarge = TRANSPOSED_CONVOLUTIONS[len(stride)]
        self.upsampling = enlarge(channels_below, channels, tuple(stride), stride=tuple(stride))
        inputs = [2 * channels, *[channels] * (unit_count - 1)]
        self.units = nn.ModuleList(ConvolutionUnit(channels_in, channels, kernel) for channels_in in inputs)

    def forward(
        self, below: Float[Tensor, "batch channels_below *space_below"], skips: list[Tensor]
    ) -> Float[Tensor, "batch channels ..."]:
        """Upsamples `below` and pops the last of `skips`, so that its memory is free after concatenation.

        The joined features, the largest of all, have no name here: they are free after the convolution.
        """
        first, *others = self.units
        assert isinstance(first, ConvolutionUnit)
        # The order of joining is part of the weights.
        convolved = first.normalized.convolution(torch.cat((self.upsampling(below), skips.pop()), dim=1))
        features: Tensor = first.finish(convolved)
        for unit in others:
            features = unit(features)
        return features


def _ones(like: Sequence[int]) -> tuple[int, ...]:
    return (1,) * len(like)
