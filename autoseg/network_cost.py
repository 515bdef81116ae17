"""Schema of what a network costs, and what follows from it for memory and disk; importable without torch."""

import math
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from autoseg.document import Part
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.network.base import NetworkPlan

# Of training on a CPU, fitted to the measured peaks of eleven trainings that keep 25 MB to 8 GB: what autograd keeps,
# in the dtype that is computed in, gradients, and what lies idle between kept blocks of memory.
BYTES_PER_KEPT_BYTE: Final = {"bfloat16": 1.0, "float32": 1.55}
BYTES_PER_PARAMETER: Final = 20.0  # weight, gradient, up to two moments, moving average
BYTES_PER_OUTPUT: Final = 32  # logits, their copy in single precision, probabilities, masks, gradients of the loss
PROCESS_BYTES: Final = 350_000_000  # Python, torch and its libraries
PATCH_MAKER_BYTES: Final = 360_000_000  # the process that makes patches, and the one that starts it
BATCHES_IN_MEMORY: Final = 5  # three ahead, one that is made, one that is trained on
BYTES_PER_INTENSITY: Final = 4
BYTES_PER_LABEL: Final = 2
BYTES_PER_STORED_PARAMETER: Final = 4
PASSES: Final = 3  # forward, gradient of the input, gradient of the weights: as many operations each
OPERATIONS_PER_PRODUCT: Final = 2  # a multiplication and an addition


class StepCost(Part):
    """Cost of training a configuration on a device.

    Attributes:
        iteration_seconds: One iteration of training, patches included.
        validation_seconds: One iteration of validation.
        window_seconds: The prediction of one window, without mirroring.
        memory_bytes: Largest amount while training.
    """

    iteration_seconds: float
    validation_seconds: float
    window_seconds: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """One convolution, transposed or not, applied to a batch.

    Attributes:
        channels_in: Input channels of one group.
        channels_out: Output channels of one group.
        output_elements: Numbers in the feature map.
        multiply_adds: Multiply-adds of the forward pass.
    """

    channels_in: int
    channels_out: int
    output_elements: int
    multiply_adds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCost:
    """Cost of a network in the training step of a batch.

    Attributes:
        kept_bytes: Bytes that autograd keeps from the forward to the backward pass in float32, parameters not included.
        parameter_count: Trained or not.
        parameter_bytes: Bytes of the parameters in float32.
        multiply_adds: Multiply-adds of convolutions and matrix products in the forward pass.
        matrix_multiply_adds: Multiply-adds of matrix products alone, such as attention and linear layers.
        convolutions: Convolutions in the order of computation, without those that write an output of the network.
        normalized_elements: Numbers that normalizations write.
        output_elements: Numbers in all outputs of the network.
    """

    kept_bytes: int
    parameter_count: int
    parameter_bytes: int
    multiply_adds: int
    matrix_multiply_adds: int
    convolutions: tuple[Convolution, ...]
    normalized_elements: int
    output_elements: int


@runtime_checkable
class MeasureCost(Protocol):
    """Counts what a planned network costs; see `autoseg.networks.cost.measure_cost`."""

    def __call__(self, network: NetworkPlan, patch_voxels: tuple[int, ...], batch_size: int) -> NetworkCost:
        """Counts the training step of a batch of patches."""
        ...


def estimate_host_training_bytes(configuration: ConfigurationPlan, dtype: str, cost: NetworkCost) -> int:
    """RAM that training on a CPU takes at most, right within about a fifth (measured).

    Args:
        configuration: Its patch and batch are those that were counted.
        dtype: Dtype in which the network computes.
        cost: Cost of the configuration's network.
    """
    voxels = configuration.training.batch_size * math.prod(configuration.patch_voxels)
    # Any other dtype counts as the widest.
    per_kept_byte = BYTES_PER_KEPT_BYTE.get(dtype, BYTES_PER_KEPT_BYTE["float32"])
    return round(
        PROCESS_BYTES
        + PATCH_MAKER_BYTES
        + BATCHES_IN_MEMORY * voxels * count_voxel_bytes(configuration.network.input_channels)
        + cost.kept_bytes * per_kept_byte
        + cost.output_elements * BYTES_PER_OUTPUT
        + cost.parameter_count * BYTES_PER_PARAMETER
    )


def count_voxel_bytes(channels: int) -> int:
    """Counts the bytes of one voxel of a case: its intensity in each channel, and its label."""
    return channels * BYTES_PER_INTENSITY + BYTES_PER_LABEL


def count_checkpoint_bytes(configuration: ConfigurationPlan, parameter_count: int) -> tuple[int, int]:
    """What the checkpoints of a fold take on disk when it is trained (best, final), and what the one to continue from
    takes beside them meanwhile: weights, moments of the optimizer, moving average."""
    weights = parameter_count * BYTES_PER_STORED_PARAMETER
    training = configuration.training
    averages = 1 if training.weight_average_decay else 0
    return 2 * weights, (1 + training.moment_count + averages) * weights
