"""The planner, which applies the rules to the measurements in the order in which one would explain them."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache

from autoseg.errors import PlanError
from autoseg.fingerprint import Fingerprint, Machine
from autoseg.geometry import IntTriple
from autoseg.labels import InstanceTargets, LabelScheme
from autoseg.network_cost import MeasureCost
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.document import ConfigurationPlan, Plan
from planners.architectures.architecture import Architecture
from planners.configuration import Circumstances, choose_configuration, explain_missing_pooling
from planners.dataset_decisions import choose_common
from planners.further import choose_further, name_options, sort_further
from planners.heads import Head
from planners.label_checks import check_network
from planners.profile import Profile
from planners.reasons import format_lengths, record
from planners.rules.cascade import CASCADE, FULL_RESOLUTION, LOW_RESOLUTION, choose_cascade
from planners.rules.context_slices import SLICES
from planners.rules.dimensionality import choose_dimensionality, explain_flat_patch
from planners.rules.low_resolution import choose_low_resolution
from planners.rules.median_shape import ResampledDataset
from planners.rules.memory import PLAIN_CALIBRATION, CountObjective, choose_memory_target
from planners.rules.training import SCHEDULE_REASON, SUFFICIENT_REASON

Configurations = dict[str, ConfigurationPlan]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """A pure function from measurements to a plan.

    Attributes:
        name: Key of the table `planners.PLANNERS`.
        description: One sentence for the command line.
        profile: The values in which it differs from the other planners.
        measures_throughput: Whether it needs the measured throughput of the device.
        further: Keys of `FURTHER_CONFIGURATIONS` that are planned, too.
    """

    name: str
    description: str
    profile: Profile = field(repr=False)
    measures_throughput: bool = False
    further: tuple[str, ...] = ()

    def with_architecture(self, architecture: Architecture) -> "Planner":
        """Returns the planner that decides as this one, but for networks of an architecture."""
        profile = replace(
            self.profile,
            choose_network=architecture.choose_network,
            topology=architecture.topology,
            without_slices=architecture.without_slices,
        )
        if self.profile.choose_network != architecture.choose_network:
            profile = replace(profile, calibration=PLAIN_CALIBRATION)
        return replace(self, name=f"{self.name} --architecture {architecture.name}", profile=profile)

    def with_head(self, head: Head) -> "Planner":
        """Returns the planner that decides as this one, but for networks with a head in place of their last stages."""
        profile = replace(self.profile, head=head, calibration=PLAIN_CALIBRATION)
        return replace(self, name=f"{self.name} --head {head.name}", profile=profile)

    def with_objective(self, count: CountObjective) -> "Planner":
        """Returns the planner that decides as this one, but for an objective that needs memory beside the network."""
        return replace(self, profile=replace(self.profile, count_objective=count))

    def with_configurations(self, names: Iterable[str]) -> "Planner":
        """Returns the planner that also plans these of `FURTHER_CONFIGURATIONS`."""
        further = sort_further(names)
        return replace(self, name=f"{self.name}{name_options(further)}", further=further)

    def check_labels(self, labels: LabelScheme, targets: InstanceTargets | None, dataset_name: str) -> None:
        """Checks, before images are measured, that plans exist for such labels.

        Raises:
            PlanError: There is no network for them.
        """
        del dataset_name
        check_network(
            self.profile.choose_network,
            topology=self.profile.topology,
            has_slices=self.profile.without_slices is None,
            head=self.profile.head,
            labels=labels,
            targets=targets,
        )

    def plan(self, fingerprint: Fingerprint, machine: Machine, *, measure_cost: MeasureCost | None = None) -> Plan:
        """Decides everything about a dataset.

        Args:
            fingerprint: Fingerprint of the dataset.
            machine: The computer to plan for.
            measure_cost: Measures the cost of a network; needed for families without a closed form.

        Raises:
            PlanError: No plan exists: images too small, memory too small, or a CT channel without foreground. Or
                `measure_cost` is needed and missing.
        """
        memory = choose_memory_target(self.profile.memory_gb, self.profile.calibration, machine)
        common = choose_common(fingerprint)
        shared = Circumstances(
            profile=self.profile,
            fingerprint=fingerprint,
            memory_gb=memory.value,
            measure_cost=None if measure_cost is None else cache(measure_cost),
        )
        configurations, reasons = _choose_configurations(common.dataset, common.axes.value, shared)
        further, own = choose_further(self.further, configurations, common.dataset, shared=shared)
        configurations |= further
        reasons = (SCHEDULE_REASON, SUFFICIENT_REASON, *reasons, *own)
        return common.build_plan(self.name, memory, configurations=configurations, reasons=reasons)


def _choose_configurations(
    dataset: ResampledDataset, axis_permutation: IntTriple, shared: Circumstances
) -> tuple[Configurations, tuple[Reason, ...]]:
    dimensionality = choose_dimensionality(dataset, shared.fingerprint.cases, axis_permutation)
    reasons = [record("dimensions", dimensionality, " and ".join(f"{number}D" for number in dimensionality.value))]
    configurations: Configurations = {}
    unplanned = shared.profile.without_slices
    missing = unplanned or explain_missing_pooling(dataset.in_plane, shared.profile.topology)
    if missing is None:
        configurations[SLICES], own = choose_configuration(SLICES, dataset.in_plane, shared=shared)
        reasons.extend(own)
    else:
        reasons.append(record(SLICES, Decision(None, missing), "left out"))
    if 3 in dimensionality.value:
        volumes, own = _choose_volume_configurations(dataset, shared, has_slices=missing is None)
        configurations |= volumes
        reasons.extend(own)
    if not configurations and unplanned is not None:
        msg = f"no network exists for these images: {unplanned}; choose another --architecture"
        raise PlanError(msg)
    if not configurations:
        msg = f"the images are too small for a network: {missing}; pad the images or resample them to a finer grid"
        raise PlanError(msg)
    return configurations, tuple(reasons)


def _choose_volume_configurations(
    dataset: ResampledDataset, shared: Circumstances, *, has_slices: bool
) -> tuple[Configurations, tuple[Reason, ...]]:
    missing = explain_missing_pooling(dataset, shared.profile.topology)
    if missing is not None:
        return {}, (record(FULL_RESOLUTION, Decision(None, missing), "left out"),)
    patch_voxels = shared.choose_patch(dataset).value.patch_voxels
    if has_slices and patch_voxels[0] == 1:
        flat = explain_flat_patch(patch_voxels, dataset)
        return {}, (record(FULL_RESOLUTION, Decision(None, flat), "left out"),)
    low = choose_low_resolution(
        dataset,
        full_patch_voxels=patch_voxels,
        case_count=len(shared.fingerprint.cases),
        choose_patch=lambda coarse: shared.choose_patch(coarse).value.patch_voxels,
    )
    if low.value is not None and has_slices:
        patch_voxels = shared.choose_patch(low.value).value.patch_voxels
        low = low if patch_voxels[0] > 1 else Decision(None, explain_flat_patch(patch_voxels, low.value))
    full, full_reasons = choose_configuration(
        FULL_RESOLUTION, dataset, shared=shared, has_coarser_configuration=low.value is not None
    )
    if low.value is None:
        return {FULL_RESOLUTION: full}, (record(LOW_RESOLUTION, low, "left out"), *full_reasons)
    coarse, low_reasons = choose_configuration(LOW_RESOLUTION, low.value, shared=shared)
    cascade, cascade_reasons = choose_cascade(full, shared.fingerprint.labels)
    spacing = format_lengths(low.value.spacing_mm, low.value.distance_unit)
    reasons = (record(LOW_RESOLUTION, low, spacing), *low_reasons, *full_reasons, *cascade_reasons)
    return {LOW_RESOLUTION: coarse, FULL_RESOLUTION: full, CASCADE: cascade}, reasons
