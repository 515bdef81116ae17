"""How long a training step takes on a processor, from what was measured of it."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from autoseg import network_cost
from autoseg.fingerprint import HostThroughput
from autoseg.network_cost import Convolution, StepCost
from autoseg.plan import ConfigurationPlan, PlainUNetPlan
from planners.topology import Topology

PASSES: Final = 3  # forward, gradient of the input, gradient of the weights
OPERATIONS_PER_PRODUCT: Final = 2  # a multiplication and an addition
# Measured on a processor of 2022, and taken for any: they matter for small networks and patches alone.
SHARE_OF_ESTIMATE: Final = {2: 1.2, 3: 0.9}
"""What networks took of what their convolutions and normalizations should, by dimensions: the rates are those of 3D."""
DELAY_BY_PATCHES: Final = 1.5  # threads of the network wait for the one whose core makes patches
SECONDS_PER_LAYER: Final = 0.0015  # calls, whatever the size of its feature map
SECONDS_PER_PARAMETER: Final = 5e-9  # changing the weights
SECONDS_PER_PATCH: Final = 0.0025  # reading and changing it on one core
SECONDS_PER_PATCH_ELEMENT: Final = 1.1e-7


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
    convolutions = tuple(
        list_convolutions(topology, features, input_channels=input_channels, per_stage=convolutions_per_stage)
    )
    return batch_size * _estimate_patch_seconds(convolutions, host)


def estimate_cost(configuration: ConfigurationPlan, host: HostThroughput) -> StepCost:
    """What a planned configuration costs on a processor: network, weights and, beside it, patches.

    On two cores the estimates for five networks (3D and 2D, plain and residual, 16 and 32 features) were between 0.97
    and 1.06 of the measured steps, and those for iterations with patches between 0.8 and 1.0.
    """
    network, batch = configuration.network, configuration.training.batch_size
    layers = tuple(network_cost.list_convolutions(network, configuration.patch_voxels))
    per_patch = SHARE_OF_ESTIMATE[configuration.dimensions] * _estimate_patch_seconds(layers, host)
    calls, parameters = SECONDS_PER_LAYER * len(layers), network_cost.count_parameters(network)
    step = batch * per_patch + calls + SECONDS_PER_PARAMETER * parameters
    elements = math.prod(configuration.patch_voxels) * network.input_channels
    patches = batch * (SECONDS_PER_PATCH + SECONDS_PER_PATCH_ELEMENT * elements)
    return StepCost(
        iteration_seconds=max(patches, step + patches * min(1.0, DELAY_BY_PATCHES / host.cores)),
        validation_seconds=(batch * per_patch + calls) / PASSES,
        window_seconds=(per_patch + calls) / PASSES,
        memory_bytes=network_cost.estimate_host_training_bytes(configuration, host.number_type),
    )


def list_convolutions(
    topology: Topology, features: tuple[int, ...], *, input_channels: int, per_stage: int
) -> Iterator[Convolution]:
    """All convolutions of a plain U-Net but those of its outputs."""
    stages = topology.stage_count
    network = PlainUNetPlan(
        dimensions=2 if len(topology.patch_voxels) == 2 else 3,
        input_channels=input_channels,
        output_channels=1,
        features_per_stage=features,
        kernel_sizes=topology.kernel_sizes,
        strides=topology.strides,
        blocks_per_stage=(per_stage,) * stages,
        convolutions_per_decoder_stage=(per_stage,) * (stages - 1),
        deep_supervision=False,
    )
    return network_cost.list_convolutions(network, topology.patch_voxels)


def _estimate_patch_seconds(layers: Sequence[Convolution], host: HostThroughput) -> float:
    """Forward and backward pass of one patch: convolutions, and normalizations with their activations."""
    seconds = sum(_count_operations(layer) / _find_rate(layer, host) for layer in layers)
    return seconds + sum(layer.output_elements for layer in layers if layer.is_normalized) / host.elementwise_rate


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
