"""The batch size: what is left of the memory, within a share of the dataset."""

import math

from autoseg.plan.decisions import Decision
from planners.reasons import format_count
from planners.rules.memory import SMALLEST_BATCH_SIZE, MemoryBudget


def choose_batch_size(
    patch_voxels: tuple[int, ...],
    *,
    elements: int,
    budget: MemoryBudget,
    dataset_voxel_count: float,
    dataset_fraction_limit: float,
) -> Decision[int]:
    """Chooses the batch that fills the memory, within a share of the dataset; never fewer than two samples.

    Source: nnU-Net paper (Isensee et al. 2021), "batch size".

    Args:
        patch_voxels: Network input.
        elements: Feature map elements of one sample.
        budget: Memory limit.
        dataset_voxel_count: Voxels of all cases after resampling.
        dataset_fraction_limit: Largest share of them in one batch.
    """
    filling = round(budget.elements_per_sample / elements * budget.reference_batch_size)
    limit = round(dataset_voxel_count * dataset_fraction_limit / math.prod(patch_voxels))
    size = max(min(filling, limit), SMALLEST_BATCH_SIZE)
    because = (
        f"the memory holds {filling} samples of {format_count(elements)} feature map elements, and "
        f"{dataset_fraction_limit * 100:g} % of the dataset's {format_count(dataset_voxel_count)} voxels are {limit} "
        f"patches; the smaller number counts, but at least {SMALLEST_BATCH_SIZE}"
    )
    return Decision(size, because)
