"""The time of a training step, estimated from what was measured of the device."""

import math
from typing import Final

from autoseg.fingerprint import DeviceThroughput
from autoseg.network_cost import (
    OPERATIONS_PER_PRODUCT,
    PASSES,
    Convolution,
    NetworkCost,
    StepCost,
    estimate_host_training_bytes,
)
from autoseg.plan.document import ConfigurationPlan

# Measured on a CPU of 2022, and taken for any: they matter for small networks and patches alone.
SHARE_OF_ESTIMATE: Final = {2: 1.2, 3: 0.9}
"""Measured time as a share of the estimate (convolutions and normalizations), by dimensions: rates are those of 3D."""
DELAY_BY_PATCHES: Final = 1.5  # threads of the network wait for the one whose core makes patches
SECONDS_PER_LAYER: Final = 0.0015  # calls, whatever the size of its feature map
SECONDS_PER_PARAMETER: Final = 5e-9  # changing the weights
SECONDS_PER_PATCH: Final = 0.0025  # reading and changing it on one core
SECONDS_PER_PATCH_ELEMENT: Final = 1.1e-7
SMALLEST_PATCH_SHARE: Final = 0.02
"""Smallest part of a step that a second patch adds (guess): timings of the same step differ by about as much."""


def estimate_step_seconds(cost: NetworkCost, throughput: DeviceThroughput) -> float:
    """Estimates the seconds of convolutions, matrix products, normalizations and activations, forward and backward.

    Convolutions count with the measured rate of the widest layer that was measured and is not wider than they are;
    narrower ones than any in proportion. Loss, optimizer and patches are left out: together less than 5 %. On
    Hippocampus (patch 40 x 56 x 40, four stages; 16 features and batch 2, 32 and 2, 32 and 7) the estimates were 0.17,
    0.47 and 1.63 s, the steps 0.16, 0.47 and 1.43 s.
    """
    convolutions = sum(
        _count_operations(layer.multiply_adds) / _find_rate(layer, throughput) for layer in cost.convolutions
    )
    # Of matrix products nothing was measured: as fast as the widest convolution (guess).
    products = _count_operations(cost.matrix_multiply_adds) / max(throughput.convolution_flops.values())
    elements = cost.normalized_elements / throughput.elementwise_rate
    return convolutions + products + elements + estimate_fixed_seconds(cost, throughput)


def estimate_fixed_seconds(cost: NetworkCost, throughput: DeviceThroughput) -> float:
    """Estimates the part of a step that does not grow with the batch."""
    return throughput.layer_seconds * len(cost.convolutions)


def correct_throughput(throughput: DeviceThroughput, cost: NetworkCost) -> DeviceThroughput:
    """Returns the throughput by which the estimates of the timed steps are their durations.

    Layers are measured one after the other; training captures or compiles its steps, and fuses layers. Unchanged where
    no steps were timed.

    Args:
        throughput: Measured throughput.
        cost: Cost of the timed network with one patch.
    """
    if throughput.steps is None:
        return throughput
    fixed = estimate_fixed_seconds(cost, throughput)
    patch = estimate_step_seconds(cost, throughput) - fixed
    single, *more = throughput.steps.seconds
    if more:
        timed_patch = max(more[0] - single, SMALLEST_PATCH_SHARE * single)
        timed_fixed = max(0.0, single - timed_patch)
    else:
        timed_patch, timed_fixed = (single * part / (fixed + patch) for part in (patch, fixed))
    ratio = timed_patch / patch
    return throughput.model_copy(
        update={
            "convolution_flops": {width: rate / ratio for width, rate in throughput.convolution_flops.items()},
            "elementwise_rate": throughput.elementwise_rate / ratio,
            "layer_seconds": timed_fixed / len(cost.convolutions),
        }
    )


def estimate_cost(configuration: ConfigurationPlan, host: DeviceThroughput, cost: NetworkCost) -> StepCost:
    """Estimates the cost of a planned configuration on a CPU: network, weights and, beside it, patches.

    On two cores the estimates for five networks (3D and 2D, plain and residual, 16 and 32 features) were between 0.97
    and 1.06 of the measured steps, and those for iterations with patches between 0.8 and 1.0.

    Args:
        configuration: Its patch and batch are those that were counted.
        host: Measured throughput of the CPU.
        cost: Cost of the configuration's network.
    """
    network, batch = configuration.network, configuration.training.batch_size
    passes = SHARE_OF_ESTIMATE[configuration.dimensions] * estimate_step_seconds(cost, host)
    calls = SECONDS_PER_LAYER * len(cost.convolutions)
    step = passes + calls + SECONDS_PER_PARAMETER * cost.parameter_count
    elements = math.prod(configuration.patch_voxels) * network.input_channels
    patches = batch * (SECONDS_PER_PATCH + SECONDS_PER_PATCH_ELEMENT * elements)
    return StepCost(
        iteration_seconds=max(patches, step + patches * min(1.0, DELAY_BY_PATCHES / host.cores)),
        validation_seconds=(passes + calls) / PASSES * network.validation_calls,
        window_seconds=(passes / batch + calls) / PASSES * network.prediction_calls,
        memory_bytes=estimate_host_training_bytes(configuration, host.number_type, cost),
    )


def _count_operations(multiply_adds: int) -> int:
    return OPERATIONS_PER_PRODUCT * PASSES * multiply_adds


def _find_rate(layer: Convolution, throughput: DeviceThroughput) -> float:
    width = min(layer.channels_in, layer.channels_out)
    rates = throughput.convolution_flops
    measured = [known for known in rates if known <= width]
    if measured:
        return rates[max(measured)]
    narrowest = min(rates)
    return rates[narrowest] * width / narrowest
