"""Initialization of the weights of a network."""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoseg.errors import RunError
from autoseg.networks.blocks import NEGATIVE_SLOPE, InstanceNormalization

CONVOLUTION_KINDS: Final = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
INTERPOLATIONS: Final = {3: "linear", 4: "bilinear", 5: "trilinear"}  # by axes of a weight, channels included


@runtime_checkable
class Additive(Protocol):
    """A module that adds what it computes to its input or to an enlargement of it."""

    def start_as_shortcut(self) -> None:
        """Sets weights to 0 so that nothing is added before training."""


def initialize_weights(network: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draws all convolution weights from Kaiming's normal distribution and sets the rest to constants.

    Variance 2 / ((1 + a^2) fan_in) with a the slope of the leaky ReLU (He et al. 2015, arXiv:1502.01852); torch takes
    as fan_in of a transposed convolution its **output** channels times the kernel's voxels, and so does the reference
    implementation. Biases are 0. Residual blocks, and attention whose result is added to its input, start as their
    shortcut.

    Args:
        generator: Source of the random numbers; None is torch's global one.
    """
    for module in network.modules():
        if isinstance(module, CONVOLUTION_KINDS):
            nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE, generator=generator)
            _fill(module.bias, 0.0)
        elif isinstance(module, InstanceNormalization):
            _fill(module.weight, 1.0)
            _fill(module.bias, 0.0)
    for module in network.modules():
        if isinstance(module, Additive):
            module.start_as_shortcut()


def initialize_outputs(layers: Sequence[nn.Module], probabilities: Sequence[float], *, has_regions: bool) -> None:
    """Sets the biases of output layers to the logits of probabilities (Lin et al. 2017, arXiv:1708.02002).

    Args:
        layers: Layers whose biases are added to the logits.
        probabilities: One for background and for every class, which a softmax returns, or for every region.
        has_regions: Whether a sigmoid makes probabilities of the logits.
    """
    wanted = torch.tensor(probabilities, dtype=torch.float32)
    logits = wanted.logit() if has_regions else wanted.log()
    for layer in layers:
        with torch.no_grad():
            layer.get_parameter("bias").copy_(logits)


def enlarge_kernels(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Interpolates trained kernels to the extents of those of a network with larger kernels.

    The interpolation is linear between the centres of the kernel's voxels and keeps their values, not their sum, for
    which the normalization after a depthwise convolution makes up ("UpKern", Roy et al. 2023, arXiv:2303.09975).

    Args:
        weights: State of the trained network.
        expected: State of the network with larger kernels, which may lie on the meta device.

    Returns:
        The weights by name, ready for `load_state_dict`; those with equal shapes are the given tensors.

    Raises:
        RunError: The networks differ in more than the extents of their kernels.
    """
    if weights.keys() != expected.keys():
        differing = sorted(weights.keys() ^ expected.keys())
        msg = (
            f"kernels can only be enlarged between networks that differ in nothing else: expected the same weights, "
            f"found {differing[0]} in one of them alone; plan both with the same architecture, network.planes and "
            f"dataset"
        )
        raise RunError(msg)
    return {name: _enlarge(name, tensor, expected[name].shape) for name, tensor in weights.items()}


def add_input_channels(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adds input channels with weights of zero, which count for nothing at first, behind those of a trained network.

    Args:
        weights: State of the trained network.
        expected: State of the same network with further channels of the image, which may lie on the meta device.

    Returns:
        The weights by name. Others than those of the image's convolutions are the given tensors.
    """
    pairs = {name: (tensor, expected[name].shape) for name, tensor in weights.items() if name in expected}
    added = {(tensor.shape[1], shape[1]) for tensor, shape in pairs.values() if _lacks_channels(tensor.shape, shape)}
    if len(added) != 1:  # the image's channels are the same everywhere; other differences are reported elsewhere
        return dict(weights)
    return dict(weights) | {
        name: torch.cat([tensor, tensor.new_zeros((shape[0], shape[1] - tensor.shape[1], *shape[2:]))], dim=1)
        for name, (tensor, shape) in pairs.items()
        if _lacks_channels(tensor.shape, shape)
    }


def _lacks_channels(found: torch.Size, wanted: torch.Size) -> bool:
    if len(found) != len(wanted) or len(found) < 2:
        return False
    return found[1] < wanted[1] and (found[0], *found[2:]) == (wanted[0], *wanted[2:])


def _enlarge(name: str, weight: Tensor, shape: torch.Size) -> Tensor:
    if weight.shape == shape:
        return weight
    if weight.ndim != len(shape) or weight.ndim not in INTERPOLATIONS or weight.shape[:2] != shape[:2]:
        msg = (
            f"{name}: expected {tuple(shape)}, found {tuple(weight.shape)}, which differs in more than the extents of "
            f"a kernel; plan both networks with the same architecture and width"
        )
        raise RunError(msg)
    return functional.interpolate(weight, size=shape[2:], mode=INTERPOLATIONS[weight.ndim], align_corners=False)


def _fill(parameter: Tensor | None, value: float) -> None:
    if parameter is not None:
        nn.init.constant_(parameter, value)
