"""What a planned network costs, counted without building it: convolutions, parameters, memory."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from autoseg.document import Part
from autoseg.errors import PlanError
from autoseg.plan import ConfigurationPlan, NetworkPlan, PlainUNetPlan, ResidualEncoderUNetPlan, UNetPlan

NORMALIZATION_PARAMETERS: Final = 2  # a factor and a summand for each channel
# Of training on a processor, fitted to the measured peaks of eleven trainings with 3 to 1050 million elements of
# feature maps: output of a convolution and of its normalization in the number type, their gradients, and what lies idle
# between kept blocks of memory.
BYTES_PER_ELEMENT: Final = {"bfloat16": 8.0, "float32": 12.5}
BYTES_PER_PARAMETER: Final = 20.0  # weight, gradient, up to two moments, moving average
BYTES_PER_OUTPUT: Final = 32.0  # logits, their copy in single precision, probabilities, masks, gradients of the loss
PROCESS_BYTES: Final = 350_000_000  # Python, torch and its libraries
PATCH_MAKER_BYTES: Final = 360_000_000  # the process that makes patches, and the one that starts it
BATCHES_IN_MEMORY: Final = 5  # three ahead, one that is made, one that is trained on
BYTES_PER_INTENSITY: Final = 4
BYTES_PER_LABEL: Final = 2
BYTES_PER_STORED_PARAMETER: Final = 4


class StepCost(Part):
    """What the training of a configuration costs on a device.

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
    """What one convolution of one sample costs.

    Attributes:
        kernel_voxels: Products for each pair of channels and voxel of the output; 1 for a transposed convolution whose
            kernel equals its stride.
        output_voxels: Of the feature map.
        is_normalized: Whether a normalization follows.
        weight_voxels: Of the kernel as it is stored; 0: as many as products.
        has_bias: Whether every channel has one.
    """

    channels_in: int
    channels_out: int
    kernel_voxels: int
    output_voxels: int
    is_normalized: bool
    weight_voxels: int = 0
    has_bias: bool = True

    @property
    def output_elements(self) -> int:
        """Numbers in the feature map."""
        return self.channels_out * self.output_voxels

    @property
    def parameters(self) -> int:
        """Its own and those of its normalization."""
        weights = (self.weight_voxels or self.kernel_voxels) * self.channels_in * self.channels_out
        others = int(self.has_bias) + NORMALIZATION_PARAMETERS * int(self.is_normalized)
        return weights + others * self.channels_out


def list_convolutions(network: NetworkPlan, patch_voxels: Sequence[int]) -> Iterator[Convolution]:
    """All convolutions of a U-Net but its heads, encoder first."""
    network = _check_family(network)
    voxels = compute_stage_voxels(network, patch_voxels)
    list_encoder = _list_residual_encoder if isinstance(network, ResidualEncoderUNetPlan) else _list_plain_encoder
    yield from list_encoder(network, voxels)
    in_decoder = network.convolutions_per_decoder_stage[::-1]  # the plan begins with the lowest resolution
    for stage, (width, below) in enumerate(pairwise(network.features_per_stage)):
        yield Convolution(
            channels_in=below,
            channels_out=width,
            kernel_voxels=1,
            output_voxels=voxels[stage],
            is_normalized=False,
            weight_voxels=math.prod(network.strides[stage + 1]),
        )
        yield from _list_units(network, stage, (2 * width, *[width] * in_decoder[stage]), voxels[stage])


def list_heads(network: NetworkPlan, patch_voxels: Sequence[int]) -> Iterator[Convolution]:
    """The convolutions that make logits, highest resolution first; under deep supervision the lowest is not trained."""
    network = _check_family(network)
    voxels = compute_stage_voxels(network, patch_voxels)
    for stage, width in enumerate(network.features_per_stage[: max(1, len(voxels) - 1)]):
        yield Convolution(
            channels_in=width,
            channels_out=network.output_channels,
            kernel_voxels=1,
            output_voxels=voxels[stage],
            is_normalized=False,
        )


def compute_stage_voxels(network: UNetPlan, patch_voxels: Sequence[int]) -> tuple[int, ...]:
    """Voxels of a patch at every resolution."""
    extents, voxels = list(patch_voxels), []
    for strides in network.strides:
        extents = [extent // step for extent, step in zip(extents, strides, strict=True)]
        voxels.append(math.prod(extents))
    return tuple(voxels)


def count_parameters(network: NetworkPlan) -> int:
    """Of the whole network."""
    smallest = network.patch_divisors
    layers = (*list_convolutions(network, smallest), *list_heads(network, smallest))
    return sum(layer.parameters for layer in layers)


def estimate_host_training_bytes(configuration: ConfigurationPlan, number_type: str) -> int:
    """Main memory that training on a processor takes at most, right within about a fifth (measured)."""
    network, patch, batch = configuration.network, configuration.patch_voxels, configuration.training.batch_size
    elements = batch * sum(layer.output_elements for layer in list_convolutions(network, patch))
    outputs = batch * sum(head.output_elements for head in list_heads(network, patch))
    voxels = batch * math.prod(patch)
    # In any other number type, as in the widest.
    per_element = BYTES_PER_ELEMENT.get(number_type, BYTES_PER_ELEMENT["float32"])
    return round(
        PROCESS_BYTES
        + PATCH_MAKER_BYTES
        + BATCHES_IN_MEMORY * voxels * (network.input_channels * BYTES_PER_INTENSITY + BYTES_PER_LABEL)
        + elements * per_element
        + outputs * BYTES_PER_OUTPUT
        + count_parameters(network) * BYTES_PER_PARAMETER
    )


def count_checkpoint_bytes(configuration: ConfigurationPlan) -> tuple[int, int]:
    """What the checkpoints of a fold take on disk when it is trained (best, final), and what the one to continue from
    takes beside them meanwhile: weights, moments of the optimizer, moving average."""
    weights = count_parameters(configuration.network) * BYTES_PER_STORED_PARAMETER
    training = configuration.training
    moments = 2 if training.optimizer == "adamw" else 1
    averages = 1 if training.weight_average_decay else 0
    return 2 * weights, (1 + moments + averages) * weights


def _check_family(network: NetworkPlan) -> UNetPlan:
    """The closed formulas of this module hold for two families alone."""
    if isinstance(network, PlainUNetPlan | ResidualEncoderUNetPlan):
        return network
    msg = f"what a network of the family {network.family!r} costs is not known, only what U-Nets cost"
    raise PlanError(msg)


def _list_plain_encoder(network: UNetPlan, voxels: Sequence[int]) -> Iterator[Convolution]:
    channels = (network.input_channels, *network.features_per_stage)
    for stage, (below, width) in enumerate(pairwise(channels)):
        blocks = network.blocks_per_stage[stage]
        yield from _list_units(network, stage, (below, *[width] * blocks), voxels[stage])


def _list_residual_encoder(network: UNetPlan, voxels: Sequence[int]) -> Iterator[Convolution]:
    stem = network.features_per_stage[0]
    yield from _list_units(network, 0, (network.input_channels, stem), voxels[0])
    for stage, (below, width) in enumerate(pairwise((stem, *network.features_per_stage))):
        convolutions = 2 * network.blocks_per_stage[stage]
        yield from _list_units(network, stage, (below, *[width] * convolutions), voxels[stage])
        if below != width:
            yield Convolution(
                channels_in=below,
                channels_out=width,
                kernel_voxels=1,
                output_voxels=voxels[stage],
                is_normalized=True,
                has_bias=False,
            )


def _list_units(network: UNetPlan, stage: int, channels: Sequence[int], voxels: int) -> Iterator[Convolution]:
    for channels_in, channels_out in pairwise(channels):
        yield Convolution(
            channels_in=channels_in,
            channels_out=channels_out,
            kernel_voxels=math.prod(network.kernel_sizes[stage]),
            output_voxels=voxels,
            is_normalized=True,
        )
