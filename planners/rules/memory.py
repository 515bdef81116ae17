"""The memory that a network needs, and the available memory, both counted in elements of feature maps.

Nothing else of the memory is modelled (weights, gradients, framework, input channels, deep supervision heads): the
limits of a calibration were found with this count on real accelerators, so it must stay exactly as it is for the
families that were calibrated. Any other family is measured beside the plain U-Net: it counts as many elements as the
plain U-Net that keeps as many bytes from the forward to the backward pass.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from autoseg.errors import PlanError
from autoseg.fingerprint import Machine
from autoseg.network_cost import MeasureCost
from autoseg.plan.decisions import Decision
from autoseg.plan.network import NetworkPlan, UNetPlan
from planners.reasons import format_count
from planners.rules.topology import Topology
from planners.rules.unet import PLAIN_UNET

SMALLEST_BATCH_SIZE: Final = 2  # nnU-Net paper: below two samples the gradient is too noisy
REFERENCE_BATCH_SIZE: Final = {2: 12, 3: 2}  # batches of the networks on which the limits were calibrated

PatchMustFit = Literal["smallest_batch", "reference_batch"]
CountObjective = Callable[[NetworkPlan, Topology], int]
"""Counts what an objective keeps of one patch beside the network, as elements of feature maps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryCalibration:
    """Limits of networks on an accelerator of known memory.

    Attributes:
        memory_gb: Memory of the accelerator.
        elements_3d: Feature map elements per sample that a 3D network may have when it is trained with the reference
            batch size.
        elements_2d: The same for 2D networks.
    """

    memory_gb: float
    elements_3d: int
    elements_2d: int


# Version 2 of nnU-Net.
PLAIN_CALIBRATION: Final = MemoryCalibration(memory_gb=8, elements_3d=560_000_000, elements_2d=85_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget:
    """Limits of a network for the available memory.

    Attributes:
        elements_per_sample: Feature map elements of one sample of a batch of `reference_batch_size`.
        fitted_batch_size: The batch with which a patch has to fit.
    """

    elements_per_sample: float
    reference_batch_size: int
    fitted_batch_size: int

    @property
    def patch_limit_elements(self) -> float:
        """The most elements that a single patch may have."""
        return self.elements_per_sample * self.reference_batch_size / self.fitted_batch_size

    def is_exceeded_by(self, elements: int) -> bool:
        """Returns whether the smallest allowed batch of patches with so many feature map elements is too large."""
        return elements * self.fitted_batch_size > self.elements_per_sample * self.reference_batch_size


def choose_memory_target(reference_gb: float, calibration: MemoryCalibration, machine: Machine) -> Decision[float]:
    """Chooses the memory to plan for, in GB: that of the machine if it is stated, else the planner's default."""
    if machine.accelerator_memory_gb is None:
        return Decision(
            reference_gb, f"no memory was stated, so the planner's own reference of {reference_gb:g} GB holds"
        )
    target_gb = machine.accelerator_memory_gb
    because = (
        f"{target_gb:g} GB were stated; the feature map limits, calibrated for {calibration.memory_gb:g} GB, are "
        f"multiplied by {target_gb / calibration.memory_gb:.4g}"
    )
    return Decision(target_gb, because)


def compute_budget(
    calibration: MemoryCalibration, *, memory_gb: float, dimensions: int, patch_must_fit: PatchMustFit
) -> MemoryBudget:
    """Scales the limit of 2D or 3D networks linearly with the memory."""
    calibrated = calibration.elements_2d if dimensions == 2 else calibration.elements_3d
    reference_batch = REFERENCE_BATCH_SIZE[dimensions]
    return MemoryBudget(
        elements_per_sample=calibrated * (memory_gb / calibration.memory_gb),
        reference_batch_size=reference_batch,
        fitted_batch_size=SMALLEST_BATCH_SIZE if patch_must_fit == "smallest_batch" else reference_batch,
    )


def estimate_feature_map_elements(
    network: NetworkPlan, topology: Topology, *, declared_label_count: int, measure_cost: MeasureCost | None = None
) -> int:
    """Estimates the elements that the convolutions of a network write for one patch.

    For the calibrated families in closed form, as exact integers; no network is built. With f channels and v voxels of
    stage s, b encoder blocks and d decoder convolutions: plain: sum(b f v); residual: stem f0 v0 + sum(2 b f v) + f v
    of each projecting shortcut (all stages but the first); decoder, for all stages but the last: (d + 1) f v; output:
    labels v0. The same numbers as the reference planner, which obtains them from an instantiated network.

    Args:
        network: Network plan for the topology.
        topology: Patch and strides.
        declared_label_count: Entries of `labels` in dataset.json.
        measure_cost: Measures the cost of a network, for families without a closed form.

    Raises:
        PlanError: The family has no closed form, and nothing measures it.
    """
    count = CLOSED_FORMS.get(network.family)
    if count is not None:
        assert isinstance(network, UNetPlan), "only U-Nets have closed forms"
        return count(network, topology, declared_label_count)
    if measure_cost is None:
        msg = (
            f"the memory of a network of the family {network.family!r} is measured; give the planner a function "
            f"that does (measure_cost)"
        )
        raise PlanError(msg)
    return _convert_kept_bytes(network, topology, declared_label_count=declared_label_count, measure_cost=measure_cost)


def describe_budget(budget: MemoryBudget, elements: int) -> str:
    """Describes the numbers of a comparison, for reasons and errors."""
    return (
        f"an estimated {format_count(elements)} feature map elements per sample; the limit is "
        f"{format_count(budget.patch_limit_elements)} at batch size {budget.fitted_batch_size}"
    )


def explain_measured_memory(
    network: NetworkPlan, topology: Topology, *, elements: int, measure_cost: MeasureCost
) -> Decision[int] | None:
    """Explains what a network keeps in memory, for a family that is measured; None for those with a closed form."""
    if network.family in CLOSED_FORMS:
        return None
    kept = measure_cost(network, topology.patch_voxels, SMALLEST_BATCH_SIZE).kept_bytes // SMALLEST_BATCH_SIZE
    because = (
        f"counted on the network itself: autograd keeps {kept / 1e9:.3g} GB of a sample in single precision, as much "
        f"as of a plain U-Net with {format_count(elements)} feature map elements, whose limit holds"
    )
    return Decision(elements, because)


def _convert_kept_bytes(
    network: NetworkPlan, topology: Topology, *, declared_label_count: int, measure_cost: MeasureCost
) -> int:
    """Converts to elements: those of the plain U-Net of the topology, times the ratio of the kept bytes.

    Counted with two samples, the fewest that are trained, because some normalizations need more than one.
    """
    plain, _ = PLAIN_UNET(topology, input_channels=network.input_channels, output_channels=network.output_channels)
    elements = _count_plain(plain, topology, declared_label_count)
    kept, plain_kept = (
        measure_cost(each, topology.patch_voxels, SMALLEST_BATCH_SIZE).kept_bytes for each in (network, plain)
    )
    return -(-elements * kept // plain_kept)  # rounded up


def _count_plain(network: UNetPlan, topology: Topology, declared_label_count: int) -> int:
    encoder = _weigh(network.blocks_per_stage, _list_maps(network, topology))
    return encoder + _count_decoder(network, topology, declared_label_count)


def _count_residual(network: UNetPlan, topology: Topology, declared_label_count: int) -> int:
    maps = _list_maps(network, topology)
    encoder = maps[0] + 2 * _weigh(network.blocks_per_stage, maps) + sum(maps[1:])
    return encoder + _count_decoder(network, topology, declared_label_count)


def _count_decoder(network: UNetPlan, topology: Topology, declared_label_count: int) -> int:
    maps = _list_maps(network, topology)[:-1]
    convolutions = network.convolutions_per_decoder_stage[::-1]  # the plan begins with the lowest resolution
    return sum(maps) + _weigh(convolutions, maps) + declared_label_count * topology.stage_voxels[0]


def _list_maps(network: UNetPlan, topology: Topology) -> list[int]:
    return [width * voxels for width, voxels in zip(network.features_per_stage, topology.stage_voxels, strict=True)]


def _weigh(counts: tuple[int, ...], maps: list[int]) -> int:
    return sum(count * elements for count, elements in zip(counts, maps, strict=True))


CLOSED_FORMS: Final[Mapping[str, Callable[[UNetPlan, Topology, int], int]]] = {
    "plain_unet": _count_plain,
    "residual_encoder_unet": _count_residual,
}
"""The families whose limits were calibrated."""
