"""Checks that the memory suffices for a plan, before a network is built or an array is allocated.

A plan may be edited by hand or come from a stranger. The estimates are lower bounds, so that nothing is refused that
would fit: a training or prediction takes two to four times as much.
"""

import math
from collections.abc import Sequence
from typing import Final

import torch

from autoseg.errors import DeviceError
from autoseg.network_cost import MeasureCost, count_voxel_bytes
from autoseg.plan.document import ConfigurationPlan
from autoseg.runtime.host_memory import find_available_ram

# Weights, gradients and momentum in float32.
BYTES_PER_TRAINED_PARAMETER: Final = 12
# Of what autograd keeps in float32: half in bfloat16, of which compilers may compute half again.
LEAST_KEPT_SHARE: Final = 0.25
BYTES_PER_PREDICTED_NUMBER: Final = 2  # of a feature map in bfloat16
GIB: Final = 2**30


def check_training_memory(
    configuration: ConfigurationPlan, name: str, device: torch.device, *, count: MeasureCost, process_count: int = 1
) -> None:
    """Checks that a training of a configuration can fit into the memory of the device and of the computer.

    Args:
        configuration: Planned configuration.
        name: Its name, for the message.
        device: Device that trains.
        count: Counts what a network costs; see `autoseg.networks.cost.count_cost`.
        process_count: Number of processes among which every batch is divided; the check is for one of them.

    Raises:
        DeviceError: It cannot; the message has the fields of the plan and the numbers.
    """
    samples = math.ceil(configuration.training.batch_size / process_count)
    cost = count(configuration.network, configuration.patch_voxels, samples)
    batch = samples * math.prod(configuration.patch_voxels)
    batch_bytes = batch * count_voxel_bytes(configuration.network.input_channels)
    network_bytes = cost.parameter_count * BYTES_PER_TRAINED_PARAMETER + round(cost.kept_bytes * LEAST_KEPT_SHARE)
    fields = ("patch_voxels", "training.batch_size", "network.features_per_stage", "network.blocks_per_stage")
    subject = f"training {name}{f' in each of {process_count} processes' if process_count > 1 else ''}"
    if device.type == "cpu":
        _check(subject, batch_bytes + network_bytes, device, configuration, fields=fields)
    else:
        _check(subject, batch_bytes, torch.device("cpu"), configuration, fields=fields[:2])
        _check(subject, network_bytes, device, configuration, fields=fields)


def check_prediction_memory(
    configuration: ConfigurationPlan, name: str, device: torch.device, *, count: MeasureCost, network_count: int
) -> None:
    """Checks that the networks of some folds, and the feature maps of one window, can fit into memory.

    Raises:
        DeviceError: They cannot; the message has the fields of the plan and the numbers.
    """
    cost = count(configuration.network, configuration.patch_voxels, 1)
    largest = max((convolution.output_elements for convolution in cost.convolutions), default=0)
    needed = network_count * cost.parameter_bytes + largest * BYTES_PER_PREDICTED_NUMBER
    fields = ("patch_voxels", "network.features_per_stage", "network.blocks_per_stage")
    _check(f"prediction with {name}", needed, device, configuration, fields=fields)


def _check(
    subject: str, needed_bytes: int, device: torch.device, configuration: ConfigurationPlan, *, fields: Sequence[str]
) -> None:
    available = find_memory(device)
    if needed_bytes <= available:
        return
    found = {field: _get_field(configuration, field) for field in fields}
    shown = ", ".join(f"{field} {value}" for field, value in found.items() if value is not None)
    where = "this computer" if device.type == "cpu" else str(device)
    msg = (
        f"{subject} needs at least {needed_bytes / GIB:.1f} GiB, but {where} has {available / GIB:.1f} GiB: the plan "
        f"says {shown}; lower these, or plan again for less memory (autoseg plan --memory-gb)"
    )
    raise DeviceError(msg)


def find_memory(device: torch.device) -> int:
    """Returns the bytes of memory of a device; for the CPU those that this process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return find_available_ram()


def _get_field(configuration: ConfigurationPlan, path: str) -> str | None:
    """Returns the value of a field as text; None if networks of the family have no such field."""
    value: object = configuration
    for name in path.split("."):
        value = getattr(value, name, None)
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    return None if value is None else str(value)
