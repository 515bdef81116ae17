"""Other forms of convolutions of the image, whose few channels leave the matrix units of a GPU idle.

With channels last in 16 bits, a convolution of one channel takes a tenth of a training step of a network whose other
layers have 32 to 320 channels (measured on an H100: 2.4 ms in float16, 3.5 ms in bfloat16). Each form computes the same
from the same weights; which one is the fastest is measured.
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

FirstConvolution = Literal["padded", "channels first", "product"]
MOST_CHANNELS: Final = 4
"""Images with more channels are convolved as everything else (guess: four fill half of what is read at once)."""
PADDED_CHANNELS: Final = 8
"""The matrix units of a GPU read so many channels at once in 16 bits."""
CONVOLUTIONS: Final[Mapping[int, Callable[..., Tensor]]] = {2: functional.conv2d, 3: functional.conv3d}


class FirstConvolutionForm(nn.Module):
    """A convolution in another form, with the weights of the original under the same names."""

    def __init__(self, original: nn.Conv2d | nn.Conv3d, form: FirstConvolution, layout: torch.memory_format) -> None:
        """Takes over the weights of a convolution.

        Args:
            original: Convolution without groups and dilation.
            form: Name in `FORMS`.
            layout: Memory format of the result.
        """
        super().__init__()
        self.weight, self.bias = original.weight, original.bias
        assert not isinstance(original.padding, str), "such a convolution has no other form"
        self.stride, self.borders, self.kernel_size = original.stride, original.padding, original.kernel_size
        self.convolve, self.compute, self.layout = CONVOLUTIONS[len(original.kernel_size)], FORMS[form], layout

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch output ..."]:
        """Convolves."""
        return self.compute(self, image)


def convolve_padded(module: FirstConvolutionForm, image: Tensor) -> Tensor:
    """Convolves with further channels of zeros."""
    missing = (0, 0) * len(module.kernel_size) + (0, PADDED_CHANNELS - image.shape[1])
    padded, weight = (functional.pad(values, missing) for values in (image, module.weight))
    result: Tensor = module.convolve(
        padded.contiguous(memory_format=module.layout),
        weight.contiguous(memory_format=module.layout),
        module.bias,
        module.stride,
        module.borders,
    )
    return result


def convolve_first(module: FirstConvolutionForm, image: Tensor) -> Tensor:
    """Convolves with channels first, and converts the result."""
    plain, weight = _lay_out_first(image), _lay_out_first(module.weight)
    result = module.convolve(plain, weight, module.bias, module.stride, module.borders)
    return result.contiguous(memory_format=module.layout)


def _lay_out_first(values: Tensor) -> Tensor:
    """Returns values with the strides of channels first, which of a single channel `contiguous` leaves as they are."""
    return values.contiguous().flatten().view(values.shape)


def convolve_by_product(module: FirstConvolutionForm, image: Tensor) -> Tensor:
    """Multiplies the neighbourhood of every voxel by the weights; the result has channels last by itself."""
    kind = image.device.type
    if torch.is_autocast_enabled(kind):
        image = image.to(torch.get_autocast_dtype(kind))  # before it is copied as often as a kernel has voxels
    counts = [extent for extent in reversed(module.borders) for _ in range(2)]
    cells = functional.pad(image, counts)
    for axis, (extent, step) in enumerate(zip(module.kernel_size, module.stride, strict=True), start=2):
        cells = cells.unfold(axis, extent, step)
    dimensions = len(module.kernel_size)
    space = cells.shape[2 : 2 + dimensions]
    rows = cells.movedim(1, 1 + dimensions).reshape(len(image) * prod(space), -1)
    result = functional.linear(rows, module.weight.flatten(1), module.bias)
    return result.view(len(image), *space, -1).movedim(-1, 1)


FORMS: Final[Mapping[FirstConvolution, Callable[[FirstConvolutionForm, Tensor], Tensor]]] = {
    "padded": convolve_padded,
    "channels first": convolve_first,
    "product": convolve_by_product,
}


def reform_first_convolutions(network: nn.Module, form: FirstConvolution, layout: torch.memory_format) -> int:
    """Gives the convolutions of the image another form; returns their number.

    Args:
        network: A network whose plan says the number of channels of the image.
        form: Name in `FORMS`.
        layout: Memory format of what the network computes.
    """
    count = 0
    for parent in list(network.modules()):
        for name, module in list(parent._modules.items()):  # a module may have a second name
            if isinstance(module, nn.Conv2d | nn.Conv3d) and _has_other_forms(module):
                setattr(parent, name, FirstConvolutionForm(module, form, layout))
                count += 1
    return count


def _has_other_forms(module: nn.Conv2d | nn.Conv3d) -> bool:
    is_plain = module.groups == 1 and {*module.dilation} == {1} and module.padding_mode == "zeros"
    is_wide = prod(module.kernel_size) > 1
    return is_plain and is_wide and module.in_channels <= MOST_CHANNELS and not isinstance(module.padding, str)
