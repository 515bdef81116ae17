"""The stem of a network: the first strides of a topology."""

from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.plan.decisions import Decision
from autoseg.plan.values import MOST_STAGES
from planners.reasons import format_amount, format_extents
from planners.rules.topology import Topology

Extents = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StemmedTopology:
    """A topology divided into a stem and the stages after it.

    Attributes:
        stem_kernels: Per layer of the stem.
        stem_strides: Per layer of the stem.
        kernel_sizes: Per stage.
        strides: Per stage; the first stage has ones.
    """

    stem_kernels: tuple[Extents, ...]
    stem_strides: tuple[Extents, ...]
    kernel_sizes: tuple[Extents, ...]
    strides: tuple[Extents, ...]


def divide_topology(
    topology: Topology, stem_layers: int, *, fewest_stages: int = 1, most_stages: int = MOST_STAGES
) -> Decision[StemmedTopology]:
    """Gives the first strides of a topology to the stem.

    Args:
        topology: Strides and kernels.
        stem_layers: Layers of the stem, as far as enough stages are left after it.
        fewest_stages: Fewest stages after the stem.
        most_stages: Most stages after the stem; lower resolutions are left out.
    """
    halvings = topology.stage_count - 1
    count = max(0, min(stem_layers, halvings + 1 - fewest_stages))
    ones = (1,) * len(topology.patch_voxels)
    end = count + most_stages
    divided = StemmedTopology(
        stem_kernels=topology.kernel_sizes[:count],
        stem_strides=topology.strides[1 : count + 1],
        kernel_sizes=topology.kernel_sizes[count:end],
        strides=(ones, *topology.strides[count + 1 : end]),
    )
    because = f"the stem has {count} of {format_amount(halvings, 'reduction')} of the topology"
    left_out = max(0, topology.stage_count - end)
    if left_out:
        because += f"; the lowest {left_out} left out, as at most {format_amount(most_stages, 'stage')} follow"
    return Decision(divided, because)


def format_strides(strides: Sequence[Extents]) -> str:
    """Formats strides as in "1 x 2 x 2, 2 x 2 x 2"."""
    return ", ".join(map(format_extents, strides)) or "none"
