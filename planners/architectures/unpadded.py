"""The topology rule of networks without padding, whose output is smaller than their input."""

from collections.abc import Sequence
from functools import partial
from typing import Final

from autoseg.geometry import DistanceUnit
from autoseg.plan.decisions import Decision
from planners.architectures.architecture import ChooseArchitecture
from planners.reasons import format_amount, format_extents
from planners.rules.topology import (
    FEWEST_STAGES,
    Topology,
    TopologyRule,
    compute_topology,
    explain_flat_kernels,
    explain_topology,
)

PATCH_TO_OUTPUT: Final = 2
"""Largest ratio of the extents of patch and output (guess): beyond it most is computed for surroundings alone. The
published network has 1.5 (572 and 388 pixels)."""


def build_unpadded_topology(choose_network: ChooseArchitecture) -> TopologyRule:
    """Builds the rule: the stages of other U-shaped networks, but no more than leave half of the patch.

    Args:
        choose_network: Chooses the networks whose margins count.
    """
    return TopologyRule(
        compute=partial(_compute, choose_network),
        explain=partial(_explain, choose_network),
        requirement=(
            "without padding two stages take 16 voxels of an axis, or 4 across thick slices, and at least half of it "
            "must be left"
        ),
    )


def _compute(
    choose_network: ChooseArchitecture, spacing_mm: Sequence[float], extents_voxels: Sequence[float]
) -> Topology:
    """The wanted extents must leave enough, not what they are rounded up to: else the search for a patch that fits into
    the memory would find a shortened one rounded up to what it was."""
    for count in range(compute_topology(spacing_mm, extents_voxels).stage_count, FEWEST_STAGES - 1, -1):
        topology = compute_topology(spacing_mm, extents_voxels, most_stages=count)
        outputs = compute_output(choose_network, topology)
        lost = (patch - output for patch, output in zip(topology.patch_voxels, outputs, strict=True))
        is_left = all(
            wanted <= PATCH_TO_OUTPUT * (wanted - taken) for wanted, taken in zip(extents_voxels, lost, strict=True)
        )
        if is_left and all(output >= divisor for output, divisor in zip(outputs, topology.divisors, strict=True)):
            return topology
    return compute_topology(spacing_mm, extents_voxels, most_stages=1)


def _explain(
    choose_network: ChooseArchitecture, topology: Topology, spacing_mm: Sequence[float], distance_unit: DistanceUnit
) -> Decision[Topology]:
    if compute_topology(spacing_mm, topology.patch_voxels).stage_count <= topology.stage_count:
        return explain_topology(topology, spacing_mm, distance_unit)
    output, patch = format_extents(compute_output(choose_network, topology)), format_extents(topology.patch_voxels)
    because = (
        f"without padding {format_amount(topology.stage_count, 'stage')} leave {output} of {patch} voxels; one more "
        f"would take over half of the wanted extent along an axis"
    )
    return Decision(topology, because + explain_flat_kernels(topology, spacing_mm, distance_unit))


def compute_output(choose_network: ChooseArchitecture, topology: Topology) -> tuple[int, ...]:
    """Computes the extents of the output for the patch of a topology."""
    network, _ = choose_network(topology, input_channels=1, output_channels=1)
    axes = zip(topology.patch_voxels, network.margin_voxels, strict=True)
    return tuple(patch - 2 * margin for patch, margin in axes)
