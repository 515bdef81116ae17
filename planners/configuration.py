"""One configuration of a plan: the rules that depend on the resolution, in the order in which they build on another."""

from dataclasses import dataclass
from functools import partial
from typing import Final

from autoseg.fingerprint import Fingerprint
from autoseg.plan import (
    ConfigurationPlan,
    Decision,
    NetworkPlan,
    PlainUNetPlan,
    Reason,
    ResidualEncoderUNetPlan,
    UNetFamily,
)
from planners.augmentation import choose_augmentation, describe_rotation
from planners.batch_dice import choose_batch_dice
from planners.batch_size import choose_batch_size
from planners.median_shape import ResampledDataset
from planners.memory import MemoryBudget, compute_budget, estimate_feature_map_elements
from planners.patch_size import EstimateElements, choose_patch_size, compute_initial_patch
from planners.profile import Profile
from planners.reasons import format_extents, record
from planners.resampling import choose_resampling
from planners.stages import choose_depth, choose_features
from planners.topology import (
    FEWEST_STAGES,
    Topology,
    choose_deep_supervision,
    compute_topology,
    explain_topology,
)
from planners.training import build_training

UNETS: Final[dict[UNetFamily, type[PlainUNetPlan] | type[ResidualEncoderUNetPlan]]] = {
    "plain_unet": PlainUNetPlan,
    "residual_encoder_unet": ResidualEncoderUNetPlan,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What all configurations of a plan share.

    Attributes:
        memory_gb: Accelerator memory to plan for.
    """

    profile: Profile
    fingerprint: Fingerprint
    memory_gb: float

    def get_budget(self, dimensions: int) -> MemoryBudget:
        """What a 2D or 3D network may cost."""
        return compute_budget(self.profile, memory_gb=self.memory_gb, dimensions=dimensions)

    @property
    def estimate(self) -> EstimateElements:
        """What a network costs."""
        labels = self.fingerprint.labels.declared_count
        return partial(estimate_feature_map_elements, profile=self.profile, declared_label_count=labels)

    def choose_patch(self, dataset: ResampledDataset) -> Decision[Topology]:
        """The largest patch that fits, with its network."""
        budget = self.get_budget(len(dataset.spacing_mm))
        return choose_patch_size(dataset, budget=budget, estimate=self.estimate)

    def choose_batch_size(self, topology: Topology, dataset: ResampledDataset) -> Decision[int]:
        """How many such patches are trained at once."""
        return choose_batch_size(
            topology.patch_voxels,
            elements=self.estimate(topology),
            budget=self.get_budget(len(dataset.spacing_mm)),
            dataset_voxel_count=dataset.voxel_count,
            dataset_fraction_limit=self.profile.dataset_fraction_limit,
        )


def explain_missing_pooling(dataset: ResampledDataset) -> str | None:
    """Why no U-Net of two resolutions exists at a spacing, however large the memory; None where one exists."""
    topology = compute_topology(dataset.spacing_mm, compute_initial_patch(dataset))
    if topology.stage_count >= FEWEST_STAGES:
        return None
    return (
        f"a patch of {format_extents(topology.patch_voxels)} voxels (median case: "
        f"{format_extents(dataset.median_shape_voxels)}) cannot be halved even once: a U-Net needs two axes of similar "
        f"spacing with at least 8 voxels, or one with at least 12"
    )


def choose_configuration(
    name: str, dataset: ResampledDataset, *, shared: Circumstances, has_coarser_configuration: bool = False
) -> tuple[ConfigurationPlan, tuple[Reason, ...]]:
    """Decides everything about a configuration that works with its own preprocessed data.

    Args:
        name: As in the plan; opens the subject of every reason.
        dataset: The data at the spacing of this configuration.
        shared: What all configurations have in common.
        has_coarser_configuration: Whether the same data are also planned at a coarser spacing.

    Raises:
        PlanError: No network fits into the memory.
    """
    patch = shared.choose_patch(dataset)
    topology = patch.value
    network, network_reasons = _choose_network(name, topology, dataset=dataset, shared=shared)
    batch_size = shared.choose_batch_size(topology, dataset)
    batch_dice = choose_batch_dice(
        topology.patch_voxels, dataset.median_shape_voxels, has_coarser_configuration=has_coarser_configuration
    )
    augmentation = choose_augmentation(topology.patch_voxels)
    resampling = choose_resampling(dataset.spacing_mm, dataset.distance_unit)
    plan = ConfigurationPlan(
        dimensions=network.dimensions,
        spacing_mm=dataset.spacing_mm,
        median_shape_voxels=dataset.median_shape_voxels,
        patch_voxels=topology.patch_voxels,
        previous_stage=None,
        data_of=name,
        resampling=resampling.value,
        network=network,
        training=build_training(
            batch_size=batch_size.value, batch_dice=batch_dice.value, transforms=augmentation.value
        ),
    )
    reasons = (
        record(f"{name}: patch size", patch, f"{format_extents(plan.patch_voxels)} voxels"),
        *network_reasons,
        record(f"{name}: batch size", batch_size, str(batch_size.value)),
        record(f"{name}: batch Dice", batch_dice, "yes" if batch_dice.value else "no"),
        record(f"{name}: augmentation", augmentation, describe_rotation(augmentation.value)),
        record(f"{name}: resampling", resampling, "cubic images, linear labels and logits"),
    )
    return plan, reasons


def _choose_network(
    name: str, topology: Topology, *, dataset: ResampledDataset, shared: Circumstances
) -> tuple[NetworkPlan, tuple[Reason, ...]]:
    spacing_mm = dataset.spacing_mm
    pooling = explain_topology(topology, spacing_mm, dataset.distance_unit)
    features = choose_features(topology.stage_count, dimensions=len(spacing_mm))
    depth = choose_depth(topology.stage_count, shared.profile)
    deep_supervision = choose_deep_supervision(topology)
    encoder_blocks, decoder_convolutions = depth.value
    network = UNETS[shared.profile.architecture](
        dimensions=2 if len(spacing_mm) == 2 else 3,
        input_channels=len(shared.fingerprint.channels),
        output_channels=shared.fingerprint.labels.output_channel_count,
        features_per_stage=features.value,
        kernel_sizes=topology.kernel_sizes,
        strides=topology.strides,
        blocks_per_stage=encoder_blocks,
        convolutions_per_decoder_stage=decoder_convolutions,
        deep_supervision=deep_supervision.value,
    )
    halved = " x ".join(str(divisor) for divisor in topology.divisors)
    reasons = (
        record(f"{name}: topology", pooling, f"{topology.stage_count} stages, divided by {halved}"),
        record(f"{name}: features", features, ", ".join(str(width) for width in features.value)),
        record(f"{name}: depth", depth, ", ".join(str(blocks) for blocks in encoder_blocks)),
        record(f"{name}: deep supervision", deep_supervision, "yes" if deep_supervision.value else "no"),
    )
    return network, reasons
