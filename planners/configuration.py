"""One configuration of a plan: the rules that depend on the resolution, in the order in which they are applied."""

from dataclasses import dataclass, replace

from autoseg.fingerprint import Fingerprint
from autoseg.network_cost import MeasureCost
from autoseg.plan.augmentation import TransformPlan
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.network import NetworkPlan
from planners.profile import ChooseNetwork, Profile
from planners.reasons import format_count, format_extents, record
from planners.rules.augmentation import choose_augmentation, describe_rotation
from planners.rules.batch_dice import choose_batch_dice
from planners.rules.batch_size import choose_batch_size
from planners.rules.median_shape import ResampledDataset
from planners.rules.memory import (
    PLAIN_CALIBRATION,
    MemoryBudget,
    compute_budget,
    estimate_feature_map_elements,
    explain_measured_memory,
)
from planners.rules.patch_size import choose_border, choose_patch_size, compute_initial_patch
from planners.rules.resampling import choose_resampling
from planners.rules.topology import FEWEST_STAGES, UNET_TOPOLOGY, Topology, TopologyRule
from planners.rules.training import build_training, choose_objective, list_objective_reasons


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """Values that all configurations of a plan share.

    Attributes:
        memory_gb: Accelerator memory to plan for.
        measure_cost: Measures the cost of a network; None where nothing measures it.
    """

    profile: Profile
    fingerprint: Fingerprint
    memory_gb: float
    measure_cost: MeasureCost | None

    @property
    def topology(self) -> TopologyRule:
        """The rule for dividing a patch."""
        return self.profile.topology

    @property
    def choose_bare_network(self) -> ChooseNetwork:
        """The network for a topology, whatever its inputs and outputs are, without a head."""
        return self.profile.choose_network

    def with_network(self, choose_network: ChooseNetwork) -> "Circumstances":
        """Returns the circumstances in which the network is another one, which has heads of its own."""
        profile = replace(
            self.profile,
            choose_network=choose_network,
            topology=UNET_TOPOLOGY,
            calibration=PLAIN_CALIBRATION,
            head=None,
        )
        return replace(self, profile=profile)

    def get_budget(self, dimensions: int) -> MemoryBudget:
        """Returns the memory budget of 2D or 3D networks."""
        return compute_budget(
            self.profile.calibration,
            memory_gb=self.memory_gb,
            dimensions=dimensions,
            patch_must_fit=self.profile.patch_must_fit,
        )

    def choose_network(self, topology: Topology) -> tuple[NetworkPlan, tuple[Reason, ...]]:
        """Chooses the network for a topology."""
        network, reasons = self.profile.choose_network(
            topology,
            input_channels=len(self.fingerprint.channels),
            output_channels=self.fingerprint.labels.output_channel_count,
        )
        head = self.profile.head
        if head is None:
            return network, reasons
        network = head.choose(network)
        return network, (*reasons, record("head", head.explain(network), network.describe()["head"]))

    def estimate(self, topology: Topology) -> int:
        """Estimates the feature map elements of the network for a topology, and of what the objective keeps."""
        network, _ = self.choose_network(topology)
        count = self.profile.count_objective
        own = estimate_feature_map_elements(
            network,
            topology,
            declared_label_count=self.fingerprint.labels.declared_count,
            measure_cost=self.measure_cost,
        )
        return own if count is None else own + count(network, topology)

    def explain_memory(self, network: NetworkPlan, topology: Topology) -> Decision[int] | None:
        """Explains what the network keeps in memory, where that was measured."""
        if self.measure_cost is None:
            return None
        return explain_measured_memory(
            network, topology, elements=self.estimate(topology), measure_cost=self.measure_cost
        )

    def choose_patch(self, dataset: ResampledDataset) -> Decision[Topology]:
        """Chooses the largest patch that fits, with its network."""
        budget = self.get_budget(len(dataset.spacing_mm))
        return choose_patch_size(
            dataset, budget=budget, estimate=self.estimate, compute_topology=self.profile.topology.compute
        )

    def choose_batch_size(self, topology: Topology, dataset: ResampledDataset) -> Decision[int]:
        """Chooses the batch size for such patches."""
        return choose_batch_size(
            topology.patch_voxels,
            elements=self.estimate(topology),
            budget=self.get_budget(len(dataset.spacing_mm)),
            dataset_voxel_count=dataset.voxel_count,
            dataset_fraction_limit=self.profile.dataset_fraction_limit,
        )

    def choose_augmentation(self, patch_voxels: tuple[int, ...]) -> Decision[tuple[TransformPlan, ...]]:
        """Chooses the augmentation for a patch."""
        return choose_augmentation(patch_voxels)

    def choose_configuration(
        self, name: str, dataset: ResampledDataset
    ) -> tuple[ConfigurationPlan, tuple[Reason, ...]]:
        """Decides everything about a configuration that works with its own preprocessed data."""
        return choose_configuration(name, dataset, shared=self)


def explain_missing_pooling(dataset: ResampledDataset, rule: TopologyRule) -> str | None:
    """Explains why no network of two resolutions exists at a spacing, however large the memory; None if one exists."""
    topology = rule.compute(dataset.spacing_mm, compute_initial_patch(dataset))
    if topology.stage_count >= FEWEST_STAGES:
        return None
    return (
        f"a patch of {format_extents(topology.patch_voxels)} voxels (median case: "
        f"{format_extents(dataset.median_shape_voxels)}) cannot be halved even once: {rule.requirement}"
    )


def choose_configuration(
    name: str, dataset: ResampledDataset, *, shared: Circumstances, has_coarser_configuration: bool = False
) -> tuple[ConfigurationPlan, tuple[Reason, ...]]:
    """Decides everything about a configuration that works with its own preprocessed data.

    Args:
        name: Name in the plan; opens the subject of every reason.
        dataset: The data at the spacing of this configuration.
        shared: The circumstances that all configurations have in common.
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
    border = choose_border(network)
    training = choose_objective(
        build_training(batch_size=batch_size.value, batch_dice=batch_dice.value, transforms=augmentation.value), network
    )
    plan = ConfigurationPlan(
        dimensions=network.dimensions,
        spacing_mm=dataset.spacing_mm,
        median_shape_voxels=dataset.median_shape_voxels,
        patch_voxels=topology.patch_voxels,
        border=border.value,
        previous_stage=None,
        data_of=name,
        resampling=resampling.value,
        network=network,
        training=training.value,
    )
    reasons = (
        record(f"{name}: patch size", patch, f"{format_extents(plan.patch_voxels)} voxels"),
        *network_reasons,
        *([] if border.value == "zeros" else [record(f"{name}: border", border, border.value)]),
        record(f"{name}: batch size", batch_size, str(batch_size.value)),
        record(f"{name}: batch Dice", batch_dice, "yes" if batch_dice.value else "no"),
        *list_objective_reasons(name, training),
        record(f"{name}: augmentation", augmentation, describe_rotation(augmentation.value)),
        record(f"{name}: resampling", resampling, "cubic images, linear labels and logits"),
    )
    return plan, reasons


def _choose_network(
    name: str, topology: Topology, *, dataset: ResampledDataset, shared: Circumstances
) -> tuple[NetworkPlan, tuple[Reason, ...]]:
    pooling = shared.profile.topology.explain(topology, dataset.spacing_mm, dataset.distance_unit)
    network, reasons = shared.choose_network(topology)
    halved = " x ".join(str(divisor) for divisor in topology.divisors)
    memory = shared.explain_memory(network, topology)
    return network, (
        record(f"{name}: topology", pooling, f"{topology.stage_count} stages, divided by {halved}"),
        *(reason.model_copy(update={"subject": f"{name}: {reason.subject}"}) for reason in reasons),
        *([] if memory is None else [record(f"{name}: memory", memory, f"{format_count(memory.value)} elements")]),
    )
