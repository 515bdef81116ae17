"""The cost of the plain and the residual encoder U-Net in closed form, which loads no torch and takes no time.

Every other family is counted by `autoseg.networks.cost.measure_cost`, which these two are held equal to by a test.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from autoseg.network_cost import Convolution, MeasureCost, NetworkCost
from autoseg.plan.network.base import NetworkPlan
from autoseg.plan.network.unets import UNetPlan

BYTES_PER_NUMBER: Final = 4
NORMALIZATION_PARAMETERS: Final = 2  # a factor and a summand for each channel
NORMALIZATION_STATISTICS: Final = 3  # kept for each channel of each sample: mean, deviation, factor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """One convolution of one sample, and what comes with it.

    Attributes:
        kernel_voxels: Multiply-adds for each pair of channels and voxel of the output.
        weight_voxels: Number of weights of the kernel as it is stored.
        kept_elements: Feature maps that autograd keeps because of this layer.
    """

    channels_in: int
    channels_out: int
    kernel_voxels: int
    weight_voxels: int
    output_voxels: int
    kept_elements: int
    is_normalized: bool = True
    has_bias: bool = True

    @property
    def parameter_count(self) -> int:
        others = int(self.has_bias) + NORMALIZATION_PARAMETERS * int(self.is_normalized)
        return (self.weight_voxels * self.channels_in + others) * self.channels_out

    @property
    def normalized_elements(self) -> int:
        return self.channels_out * self.output_voxels if self.is_normalized else 0

    @property
    def kept_numbers(self) -> int:
        return self.kept_elements + (NORMALIZATION_STATISTICS * self.channels_out if self.is_normalized else 0)

    def describe(self, batch_size: int) -> Convolution:
        elements = batch_size * self.channels_out * self.output_voxels
        return Convolution(
            channels_in=self.channels_in,
            channels_out=self.channels_out,
            output_elements=elements,
            multiply_adds=elements * self.channels_in * self.kernel_voxels,
        )


ListEncoder = Callable[[UNetPlan, Sequence[int]], Iterator[_Layer]]


def count_plain_unet(network: NetworkPlan, patch_voxels: tuple[int, ...], batch_size: int) -> NetworkCost:
    """Counts what a training step of a plain U-Net costs."""
    assert isinstance(network, UNetPlan), "counted by its family"
    return _count(network, patch_voxels, batch_size=batch_size, list_encoder=_list_plain_encoder)


def count_residual_unet(network: NetworkPlan, patch_voxels: tuple[int, ...], batch_size: int) -> NetworkCost:
    """Counts what a training step of a residual encoder U-Net costs."""
    assert isinstance(network, UNetPlan), "counted by its family"
    return _count(network, patch_voxels, batch_size=batch_size, list_encoder=_list_residual_encoder)


COUNTED_FAMILIES: Final[Mapping[str, MeasureCost]] = {
    "plain_unet": count_plain_unet,
    "residual_encoder_unet": count_residual_unet,
}


def _count(
    network: UNetPlan, patch_voxels: tuple[int, ...], *, batch_size: int, list_encoder: ListEncoder
) -> NetworkCost:
    voxels = _compute_stage_voxels(network, patch_voxels)
    layers = (*list_encoder(network, voxels), *_list_decoder(network, voxels))
    heads = tuple(_list_heads(network, voxels))
    levels = len(voxels) - 1
    computed_heads = heads[: max(1, levels - 1) if network.deep_supervision else 1]
    described = tuple(layer.describe(batch_size) for layer in layers)
    outputs = tuple(head.describe(batch_size) for head in computed_heads)
    image = network.input_channels * voxels[0]
    parameters = network.planes * sum(layer.parameter_count for layer in (*layers, *heads))
    return NetworkCost(
        kept_bytes=BYTES_PER_NUMBER * batch_size * (image + sum(layer.kept_numbers for layer in layers)),
        parameter_count=parameters,
        parameter_bytes=BYTES_PER_NUMBER * parameters,
        multiply_adds=sum(convolution.multiply_adds for convolution in (*described, *outputs)),
        matrix_multiply_adds=0,
        convolutions=described,
        normalized_elements=batch_size * sum(layer.normalized_elements for layer in layers),
        output_elements=sum(output.output_elements for output in outputs),
    )


def _compute_stage_voxels(network: UNetPlan, patch_voxels: tuple[int, ...]) -> tuple[int, ...]:
    extents, voxels = list(patch_voxels), []
    for strides in network.strides:
        extents = [extent // step for extent, step in zip(extents, strides, strict=True)]
        voxels.append(math.prod(extents))
    return tuple(voxels)


def _list_plain_encoder(network: UNetPlan, voxels: Sequence[int]) -> Iterator[_Layer]:
    channels = (network.input_channels, *network.features_per_stage)
    for stage, (below, width) in enumerate(pairwise(channels)):
        blocks = network.blocks_per_stage[stage]
        yield from _list_units(network, stage, (below, *[width] * blocks), voxels[stage])


def _list_residual_encoder(network: UNetPlan, voxels: Sequence[int]) -> Iterator[_Layer]:
    stem = network.features_per_stage[0]
    yield from _list_units(network, 0, (network.input_channels, stem), voxels[0])
    for stage, (below, width) in enumerate(pairwise((stem, *network.features_per_stage))):
        further = [width] * (2 * network.blocks_per_stage[stage] - 2)
        yield from _list_units(network, stage, (below, width, width), voxels[stage])
        if below != width:
            is_pooled = any(step != 1 for step in network.strides[stage])
            yield _Layer(
                channels_in=below,
                channels_out=width,
                kernel_voxels=1,
                weight_voxels=1,
                output_voxels=voxels[stage],
                # Its output, for the normalization; its input, if that is not the kept output of the block before.
                kept_elements=(width + (below if is_pooled else 0)) * voxels[stage],
                has_bias=False,
            )
        yield from _list_units(network, stage, (width, *further), voxels[stage])


def _list_decoder(network: UNetPlan, voxels: Sequence[int]) -> Iterator[_Layer]:
    """Lists the layers from the lowest resolution up, as in the plan."""
    for stage in reversed(range(len(voxels) - 1)):
        width = network.features_per_stage[stage]
        yield _Layer(
            channels_in=network.features_per_stage[stage + 1],
            channels_out=width,
            kernel_voxels=1,  # the kernel equals the stride, so that every voxel of the output is written once
            weight_voxels=math.prod(network.strides[stage + 1]),
            output_voxels=voxels[stage],
            kept_elements=2 * width * voxels[stage],  # joined with the features of the encoder
            is_normalized=False,
        )
        units = network.convolutions_per_decoder_stage[len(voxels) - 2 - stage]
        yield from _list_units(network, stage, (2 * width, *[width] * units), voxels[stage])


def _list_units(network: UNetPlan, stage: int, channels: Sequence[int], voxels: int) -> Iterator[_Layer]:
    """Convolutions with normalization and activation, which keep the output of the first and of the last of these."""
    kernel = math.prod(network.kernel_sizes[stage])
    for channels_in, channels_out in pairwise(channels):
        yield _Layer(
            channels_in=channels_in,
            channels_out=channels_out,
            kernel_voxels=kernel,
            weight_voxels=kernel,
            output_voxels=voxels,
            kept_elements=2 * channels_out * voxels,
        )


def _list_heads(network: UNetPlan, voxels: Sequence[int]) -> Iterator[_Layer]:
    """The convolutions that make logits, highest resolution first."""
    for stage, width in enumerate(network.features_per_stage[: max(1, len(voxels) - 1)]):
        yield _Layer(
            channels_in=width,
            channels_out=network.output_channels,
            kernel_voxels=1,
            weight_voxels=1,
            output_voxels=voxels[stage],
            kept_elements=0,
            is_normalized=False,
        )
