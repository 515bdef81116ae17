"""How much memory a network needs, and how much there is: both counted in elements of feature maps.

Nothing else of the memory is modelled (weights, gradients, framework, input channels, deep supervision heads): the
reference sums of a profile were calibrated against this count on real accelerators, so it must stay exactly as it is.
"""

from dataclasses import dataclass
from typing import Final

from autoseg.fingerprint import Machine
from autoseg.plan import Decision
from planners.profile import Profile
from planners.reasons import format_count
from planners.stages import compute_encoder_blocks, compute_features
from planners.topology import Topology

SMALLEST_BATCH_SIZE: Final = 2  # nnU-Net paper: below two samples the gradient is too noisy
REFERENCE_BATCH_SIZE: Final = {2: 12, 3: 2}  # batches of the networks on which the reference sums were calibrated


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget:
    """What a network may cost.

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
        """Whether the smallest allowed batch of patches with so many feature map elements is too large."""
        return elements * self.fitted_batch_size > self.elements_per_sample * self.reference_batch_size


def choose_memory_target(profile: Profile, machine: Machine) -> Decision[float]:
    """The memory to plan for, in GB: what the machine states, else what the planner was calibrated for."""
    reference_gb = profile.reference_memory_gb
    if machine.accelerator_memory_gb is None:
        return Decision(
            reference_gb, f"no memory was stated, so the planner's own reference of {reference_gb:g} GB holds"
        )
    target_gb = machine.accelerator_memory_gb
    because = (
        f"{target_gb:g} GB were stated; the feature map limits, calibrated for {reference_gb:g} GB, are multiplied by "
        f"{target_gb / reference_gb:.4g}"
    )
    return Decision(target_gb, because)


def compute_budget(profile: Profile, *, memory_gb: float, dimensions: int) -> MemoryBudget:
    """Scales the reference sum of 2D or 3D networks linearly with the memory."""
    reference = profile.reference_elements_2d if dimensions == 2 else profile.reference_elements_3d
    reference_batch = REFERENCE_BATCH_SIZE[dimensions]
    return MemoryBudget(
        elements_per_sample=reference * (memory_gb / profile.reference_memory_gb),
        reference_batch_size=reference_batch,
        fitted_batch_size=SMALLEST_BATCH_SIZE if profile.patch_must_fit == "smallest_batch" else reference_batch,
    )


def estimate_feature_map_elements(topology: Topology, *, profile: Profile, declared_label_count: int) -> int:
    """Elements that the convolutions of a network write for one patch; exact integers, no network is built.

    With f channels and v voxels of stage s, b encoder blocks and d decoder convolutions:
    plain: sum(b f v); residual: stem f0 v0 + sum(2 b f v) + f v of each projecting shortcut (all stages but the
    first); decoder, for all stages but the last: (d + 1) f v; output: labels v0. The same numbers as the reference
    planner, which obtains them from an instantiated network.

    Args:
        topology: Patch and strides.
        profile: Architecture, encoder blocks and decoder convolutions.
        declared_label_count: Entries of `labels` in dataset.json.
    """
    features = compute_features(topology.stage_count, dimensions=len(topology.patch_voxels))
    blocks = compute_encoder_blocks(topology.stage_count, profile)
    voxels = topology.stage_voxels
    maps = [width * extent for width, extent in zip(features, voxels, strict=True)]
    encoder = sum(count * elements for count, elements in zip(blocks, maps, strict=True))
    if profile.architecture == "residual_encoder_unet":
        encoder = maps[0] + 2 * encoder + sum(maps[1:])
    decoder = (profile.decoder_convolutions + 1) * sum(maps[:-1])
    return encoder + decoder + declared_label_count * voxels[0]


def describe_budget(budget: MemoryBudget, elements: int) -> str:
    """The numbers of a comparison, for reasons and errors."""
    return (
        f"an estimated {format_count(elements)} feature map elements per sample; the limit is "
        f"{format_count(budget.patch_limit_elements)} at batch size {budget.fitted_batch_size}"
    )
