"""Preparation of a trained network for fast prediction: dtype, memory layout, weights converted once.

Modules that predict in a cheaper form are replaced by it. Otherwise a network in single precision is left unchanged:
it is the reference that everything else is compared with.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Final, Literal

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from autoseg.networks.blocks import CHANNELS_LAST, NORM_EPSILON, InstanceNormalization, fuse_normalization, is_on_cpu
from autoseg.networks.fusion import fuse_modules
from autoseg.networks.network import SegmentationNetwork
from autoseg.runtime.precision import DTYPES, DtypeName

Execution = Literal["eager", "compiled", "openvino", "captured", "fused"]
"""Ways to run a network: eager PyTorch, compiled PyTorch, OpenVINO on a CPU; on a GPU as a CUDA graph (captured), and
as one with channels last and a kernel for normalization and activation (fused)."""
ExecutionChoice = Literal["auto", "eager", "compiled", "openvino", "captured", "fused"]
"""Values that the user may choose."""

CONVOLUTIONS: Final = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
POINTWISE: Final = (nn.Conv2d, nn.Conv3d)
POOLINGS: Final = (nn.AvgPool2d, nn.AvgPool3d)
"""They average in single precision: on a CPU PyTorch has none in 3D for fewer bits."""
LARGE_FEATURES: Final = 2**25
"""Elements of a sample from which on a normalization works in place."""
PART_VOXELS: Final = 2**14
"""As many voxels as stay in the cache of a CPU."""
ROWS_OF_A_PRODUCT: Final = 2**22
"""Voxels of a product of the last convolution on a GPU: two patches of 128 cubed."""


class ReducedNetwork(nn.Module):
    """A network that computes in 16 bits; its input and output are in single precision.

    Convolutions hold their weights in the reduced type, so that they are converted once and not in every call. The
    weights and statistics of normalizations stay in single precision, as do the modules that compute logits, which
    would otherwise be rounded to steps of 0.4 %.
    """

    def __init__(self, network: nn.Module, dtype: DtypeName, layout: torch.memory_format) -> None:
        super().__init__()
        self.network = network
        self.dtype = DTYPES[dtype]
        self.layout = layout

    def forward(self, image: Float32[Tensor, "batch channel *space"]) -> tuple[Float32[Tensor, "batch output ..."]]:
        """Returns logits of the full resolution, and nothing else."""
        logits: Tensor = self.network(image.to(self.dtype, memory_format=self.layout))[0]
        return (logits,)


class ChannelsLastNorm(nn.Module):
    """Instance normalization that keeps channels last in memory, and overwrites large features.

    Other layouts are converted first: a group normalization returns the layout of its input. Features that are larger
    than the cache are normalized in place, part by part: that takes a quarter less time, and saves the largest array of
    a forward pass; with small ones it takes longer (measured).
    """

    def __init__(self, norm: InstanceNormalization, layout: torch.memory_format) -> None:
        super().__init__()
        self.norm = norm
        self.layout = layout

    def forward(self, features: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        """Normalizes each sample and channel; may overwrite the features, which are the output of a convolution."""
        features = features.contiguous(memory_format=self.layout)
        if features[0].numel() >= LARGE_FEATURES:
            for sample in features.movedim(1, -1):
                _normalize_in_place(sample.flatten(0, -2), self.norm)
            return features
        normalized: Tensor = self.norm(features)
        return normalized


def _normalize_in_place(features: Float[Tensor, "voxel channel"], norm: InstanceNormalization) -> None:
    parts = torch.split(features, PART_VOXELS)
    # Deviations from a value close to the mean are small, so that their squares can be added up in single precision.
    centre = parts[0].float().mean(dim=0)
    total, squares = torch.zeros_like(centre), torch.zeros_like(centre)
    for part in parts:
        deviations = part.float() - centre
        total += deviations.sum(dim=0)
        squares += deviations.square_().sum(dim=0)
    offset = total / len(features)
    variance = (squares / len(features) - offset.square()).clamp_(min=0)
    scale = norm.weight / (variance + NORM_EPSILON).sqrt()
    shift = norm.bias - (centre + offset) * scale
    for part in parts:
        part.copy_(torch.addcmul(shift, part.float(), scale))


class SingleHead(nn.Module):
    """The last convolution, 1 x 1, in single precision whatever the dtype of its input.

    It is a matrix product over the channels, which needs no copy in either layout. With channels last it is several
    times as fast as PyTorch's convolution on a CPU (measured); a GPU, for which every product is a launch, gets few.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        weight = head.get_parameter("weight")
        self.weight, self.bias = nn.Parameter(weight.flatten(1), weight.requires_grad), head.get_parameter("bias")

    def forward(self, features: Float[Tensor, "batch channel *space"]) -> Float32[Tensor, "batch output *space"]:
        """Computes logits."""
        if features.is_contiguous():  # as on a GPU, where a product for every slice would take longer than the network
            flat = [torch.addmm(self.bias[:, None], self.weight, sample.flatten(1).float()) for sample in features]
            return torch.stack(flat).view(len(features), len(self.weight), *features.shape[2:])
        last = features.movedim(1, -1)
        if not is_on_cpu(features):
            return self._multiply_rows(last.flatten(0, -2)).view(*last.shape[:-1], len(self.weight)).movedim(-1, 1)
        logits = torch.empty((*last.shape[:-1], len(self.weight)), device=features.device)
        # Slice by slice: in single precision the features of a whole patch would be the largest of all arrays.
        for part, of_part in zip(last.flatten(0, 1), logits.flatten(0, 1), strict=True):
            torch.addmm(self.bias, part.flatten(0, -2).float(), self.weight.T, out=of_part.flatten(0, -2))
        return logits.movedim(-1, 1)

    def _multiply_rows(self, rows: Float[Tensor, "voxel channel"]) -> Float32[Tensor, "voxel output"]:
        """Multiplies in few products, whose copies in single precision are not as large as the features."""
        logits = torch.empty((len(rows), len(self.weight)), device=rows.device)
        for part, of_part in zip(
            torch.split(rows, ROWS_OF_A_PRODUCT), torch.split(logits, ROWS_OF_A_PRODUCT), strict=True
        ):
            torch.addmm(self.bias, part.float(), self.weight.T, out=of_part)
        return logits


class SinglePrecision(nn.Module):
    """A module that computes one tensor from tensors in single precision, whatever the dtype of its input."""

    def __init__(self, module: nn.Module, result: torch.dtype | None = None) -> None:
        """Wraps a module.

        Args:
            module: Its weights are in single precision.
            result: The type of what is returned; None: that of the first input.
        """
        super().__init__()
        self.module = module
        self.result = result

    def forward(self, *inputs: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Computes."""
        computed: Tensor = self.module(*(features.float() for features in inputs))
        return computed.to(self.result or inputs[0].dtype)


class AutocastNetwork(nn.Module):
    """A network that computes under autocast, as in training; it takes and returns single precision."""

    def __init__(self, network: nn.Module, device: torch.device, dtype: DtypeName) -> None:
        super().__init__()
        self.network = network
        self.device_type = device.type
        self.dtype = DTYPES[dtype]

    def forward(self, image: Float32[Tensor, "batch channel *space"]) -> tuple[Float32[Tensor, "batch output ..."]]:
        """Returns logits of the full resolution, and nothing else."""
        with torch.autocast(self.device_type, dtype=self.dtype):
            logits: Tensor = self.network(image)[0]
        return (logits.float(),)


def prepare_network(
    network: SegmentationNetwork, *, device: torch.device, dtype: DtypeName, is_norm_fused: bool = False
) -> nn.Module:
    """Moves a network to a device and converts it to predict in a dtype; the given network must not be used afterwards.

    Args:
        network: Network from `build_network`.
        device: A reduced dtype on a CPU also means channels last, for which its convolutions and `ChannelsLastNorm`
            are made. A GPU's normalization is not, so there the layout stays.
        dtype: The dtype of convolutions. For float32 on a GPU, convolutions of this process no longer round
            their input to the 10 bits of TF32, which PyTorch has them do.
        is_norm_fused: Whether a GPU normalizes by the kernel for channels last, in a reduced dtype.

    Raises:
        RuntimeError: The kernel was asked for, and the network has no form that it fits.
    """
    network = network.to(device).eval().requires_grad_(requires_grad=False)
    fuse_modules(network)
    if dtype == "float32":
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False
        return network
    is_last = device.type == "cpu" or is_norm_fused
    layout = CHANNELS_LAST[network.plan.dimensions] if is_last else torch.contiguous_format
    kept = network.single_precision_modules
    if is_norm_fused and (kept is None or not fuse_normalization(network)):
        msg = "the network has no normalization that is computed by the fused kernel"
        raise RuntimeError(msg)
    if kept is None:
        return AutocastNetwork(network, device, dtype)
    replaced = {id(network.get_submodule(name)): _keep_single(network.get_submodule(name)) for name in kept}
    _convert(network, DTYPES[dtype], layout, replaced)
    return ReducedNetwork(network, dtype, layout)


def _keep_single(module: nn.Module) -> nn.Module:
    is_head = (
        isinstance(module, POINTWISE)
        and {*module.kernel_size, *module.stride, module.groups} == {1}
        and module.padding == (0,) * len(module.kernel_size)
        and module.bias is not None
    )
    return SingleHead(module) if is_head else SinglePrecision(module, torch.float32)


def _convert(
    parent: nn.Module, dtype: torch.dtype, layout: torch.memory_format, replaced: Mapping[int, nn.Module]
) -> None:
    """Replaces or converts all submodules except those that were replaced before."""
    for name, module in list(parent._modules.items()):  # named_children leaves out a module's second name
        if module is None:
            continue
        if id(module) in replaced:
            setattr(parent, name, replaced[id(module)])
        elif isinstance(module, CONVOLUTIONS):
            module.to(dtype=dtype, memory_format=layout)  # type: ignore[call-overload]
        elif isinstance(module, InstanceNormalization):
            if layout != torch.contiguous_format and not module.is_fused:
                setattr(parent, name, ChannelsLastNorm(module, layout))
        elif isinstance(module, POOLINGS) or _has_own_tensors(module):
            setattr(parent, name, SinglePrecision(module))
        else:
            _convert(module, dtype, layout, replaced)


def _has_own_tensors(module: nn.Module) -> bool:
    """Returns whether a module has tensors of its own, as attention has, whose dtype it may not allow to change."""
    own = chain(module.parameters(recurse=False), module.buffers(recurse=False))
    return next(own, None) is not None
