"""How long a training step takes on a processor, from what was measured of it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from autoseg.fingerprint import HostThroughput
from planners.topology import Topology

PASSES: Final = 3  # forward, gradient of the input, gradient of the weights
OPERATIONS_PER_PRODUCT: Final = 2  # a multiplication and an addition


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """What one convolution of one sample costs.

    Attributes:
        kernel_voxels: Of the kernel; 1 for a transposed convolution whose kernel equals its stride.
        output_voxels: Of the feature map.
        is_normalized: Whether a normalization and an activation follow.
    """

    channels_in: int
    channels_out: int
    kernel_voxels: int
    output_voxels: int
    is_normalized: bool


def estimate_step_seconds(
    topology: Topology,
    features: tuple[int, ...],
    *,
    input_channels: int,
    batch_size: int,
    convolutions_per_stage: int,
    host: HostThroughput,
) -> float:
    """Forward and backward pass of a plain U-Net: its convolutions, its normalizations with their activations.

    Convolutions count with the measured rate of the widest layer that was measured and is not wider than they are;
    narrower ones than any in proportion. Loss, optimizer and patches are left out: together less than 5 %. On
    Hippocampus (patch 40 x 56 x 40, four stages; 16 features and batch 2, 32 and 2, 32 and 7) the estimates were 0.17,
    0.47 and 1.63 s, the steps 0.16, 0.47 and 1.43 s.
    """
    convolutions = list(
        list_convolutions(topology, features, input_channels=input_channels, per_stage=convolutions_per_stage)
    )
    seconds = sum(_count_operations(layer) / _find_rate(layer, host) for layer in convolutions)
    normalized = sum(layer.channels_out * layer.output_voxels for layer in convolutions if layer.is_normalized)
    return batch_size * (seconds + normalized / host.elementwise_rate)


def list_convolutions(
    topology: Topology, features: tuple[int, ...], *, input_channels: int, per_stage: int
) -> Iterator[Convolution]:
    """All convolutions of a plain U-Net but those of its outputs."""
    voxels = topology.stage_voxels
    for stage, width in enumerate(features):
        below = input_channels if stage == 0 else features[stage - 1]
        yield from _list_stage(topology, stage, (below, *[width] * per_stage), voxels[stage])
    for stage, width in enumerate(features[:-1]):
        yield Convolution(
            channels_in=features[stage + 1],
            channels_out=width,
            kernel_voxels=1,
            output_voxels=voxels[stage],
            is_normalized=False,
        )
        yield from _list_stage(topology, stage, (2 * width, *[width] * per_stage), voxels[stage])


def _list_stage(topology: Topology, stage: int, channels: tuple[int, ...], voxels: int) -> Iterator[Convolution]:
    for channels_in, channels_out in pairwise(channels):
        yield Convolution(
            channels_in=channels_in,
            channels_out=channels_out,
            kernel_voxels=math.prod(topology.kernel_sizes[stage]),
            output_voxels=voxels,
            is_normalized=True,
        )


def _count_operations(layer: Convolution) -> float:
    products = layer.kernel_voxels * layer.channels_in * layer.channels_out * layer.output_voxels
    return OPERATIONS_PER_PRODUCT * PASSES * products


def _find_rate(layer: Convolution, host: HostThroughput) -> float:
    width = min(layer.channels_in, layer.channels_out)
    measured = [known for known in host.convolution_flops if known <= width]
    if measured:
        return host.convolution_flops[max(measured)]
    narrowest = min(host.convolution_flops)
    return host.convolution_flops[narrowest] * width / narrowest
