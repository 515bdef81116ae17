"""A planner by time: the largest network that learns enough on the measured device within a given time."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from autoseg.errors import PlanError
from autoseg.fingerprint import DeviceThroughput, Fingerprint, Machine
from autoseg.labels import InstanceTargets, LabelScheme
from autoseg.network_cost import MeasureCost
from autoseg.plan.decisions import Decision
from autoseg.plan.document import Plan
from planners.architectures.architecture import Architecture
from planners.configuration import explain_missing_pooling
from planners.dataset_decisions import CommonDecisions, choose_common
from planners.further import (
    FURTHER_CONFIGURATIONS,
    Chosen,
    Configurations,
    choose_further,
    name_options,
    sort_further,
)
from planners.heads import Head
from planners.label_checks import check_network
from planners.reasons import record
from planners.rules.cascade import FULL_RESOLUTION, LOW_RESOLUTION
from planners.rules.context_slices import SLICES
from planners.rules.dimensionality import choose_dimensionality
from planners.rules.median_shape import ResampledDataset
from planners.rules.memory import CountObjective
from planners.rules.topology import UNET_TOPOLOGY, TopologyRule
from planners.step_time import correct_throughput
from planners.timed.budget import TRAINING_SHARE, explain_budget, explain_needed_iterations, find_budget
from planners.timed.candidates import Candidate, Situation, choose_candidate, choose_small_unet, warn_of_smallest
from planners.timed.configuration import build_configuration
from planners.timed.rules import TimedRules


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedPlanner:
    """Plans one configuration for training in limited time on a device that was measured, and others on request.

    Attributes:
        architecture: The networks that it chooses from; None: small plain U-Nets.
        head: Replaces the last stages of these networks; None: they stay as they are.
        further: Keys of `FURTHER_CONFIGURATIONS` that are planned, too.
        count_objective: Counts the memory of the objective beside that of the network; None: next to none.
    """

    name: str = "timed"
    description: str = (
        "Small U-Net, as wide as this computer's GPU or CPU can train within --budget (30 minutes); once called lite."
    )
    measures_throughput: bool = True
    architecture: Architecture | None = None
    head: Head | None = None
    further: tuple[str, ...] = ()
    count_objective: CountObjective | None = None

    def with_architecture(self, architecture: Architecture) -> "TimedPlanner":
        """Returns the planner that decides as this one, but for networks of an architecture."""
        return replace(self, name=f"{self.name} --architecture {architecture.name}", architecture=architecture)

    def with_head(self, head: Head) -> "TimedPlanner":
        """Returns the planner that decides as this one, but for networks with a head in place of their last stages."""
        return replace(self, name=f"{self.name} --head {head.name}", head=head)

    def with_objective(self, count: CountObjective) -> "TimedPlanner":
        """Returns the planner that decides as this one, but for an objective that needs memory beside the network."""
        return replace(self, count_objective=count)

    def with_configurations(self, names: Iterable[str]) -> "TimedPlanner":
        """Returns the planner that also plans these of `FURTHER_CONFIGURATIONS`, each for the time of a fold."""
        further = sort_further(names)
        return replace(self, name=f"{self.name}{name_options(further)}", further=further)

    def check_labels(self, labels: LabelScheme, targets: InstanceTargets | None, dataset_name: str) -> None:
        """Checks, before images are measured, that plans exist for such labels.

        Raises:
            PlanError: There is no network for them.
        """
        del dataset_name
        architecture = self.architecture
        check_network(
            choose_small_unet if architecture is None else architecture.choose_network,
            topology=UNET_TOPOLOGY if architecture is None else architecture.topology,
            has_slices=architecture is None or architecture.without_slices is None,
            head=self.head,
            labels=labels,
            targets=targets,
        )

    def plan(self, fingerprint: Fingerprint, machine: Machine, *, measure_cost: MeasureCost | None = None) -> Plan:
        """Decides everything about a dataset.

        Args:
            fingerprint: Fingerprint of the dataset.
            machine: The computer to plan for.
            measure_cost: Measures the cost of a network.

        Raises:
            PlanError: Machine or networks were not measured, the machine is too slow for the time, or the images are
                too small.
        """
        if machine.throughput is None:
            msg = "the planner 'timed' plans for a measured device; give its throughput (Machine.throughput)"
            raise PlanError(msg)
        if measure_cost is None:
            msg = "the planner 'timed' plans with the cost of networks; give a function that counts it (measure_cost)"
            raise PlanError(msg)
        common = choose_common(fingerprint)
        throughput = _limit_memory(machine.throughput, machine.accelerator_memory_gb)
        situation = Situation(
            fingerprint=fingerprint,
            axis_permutation=common.axes.value,
            throughput=throughput,
            training_seconds=TRAINING_SHARE * find_budget(machine),
            measure_cost=measure_cost,
            choose_network=choose_small_unet if self.architecture is None else self.architecture.choose_network,
            topology=UNET_TOPOLOGY if self.architecture is None else self.architecture.topology,
            head=self.head,
            count_objective=self.count_objective,
        )
        name, dataset, candidate = self._choose(common, situation)
        if throughput.steps is not None:
            timed = candidate.value
            cost = measure_cost(timed.network, timed.topology.patch_voxels, 1)
            throughput = correct_throughput(throughput, cost)
            situation = replace(situation, throughput=throughput)
            name, dataset, candidate = self._choose(common, situation)
        chosen, seconds = candidate.value, situation.training_seconds
        needed = explain_needed_iterations(
            chosen.iterations,
            chosen.step_seconds,
            seconds,
            is_certain=throughput.is_cpu or throughput.steps is not None,
        )
        configuration, reasons = build_configuration(name, candidate, situation)
        smallest = warn_of_smallest(chosen, dataset, situation)
        slices, slice_reasons = self._choose_slices({name: configuration}, common, situation)
        planned = {name: configuration} | slices
        rules = TimedRules(situation=situation, width=chosen.width)
        further, own = choose_further(self.further, planned, common.dataset, shared=rules)
        memory = _choose_memory(throughput, machine.accelerator_memory_gb)
        return common.build_plan(
            self.name,
            memory,
            configurations=planned | further,
            reasons=(explain_budget(machine, throughput), needed, *smallest, *reasons, *slice_reasons, *own),
            budget_seconds=find_budget(machine),
        )

    def _choose(
        self, common: CommonDecisions, situation: Situation
    ) -> tuple[str, ResampledDataset, Decision[Candidate]]:
        """Chooses name, data and network of the configuration.

        Raises:
            PlanError: The images are too small.
        """
        name, dataset = _choose_dimensions(common, situation.topology)
        missing = explain_missing_pooling(dataset, situation.topology)
        if missing is not None:
            msg = f"the images are too small for a network: {missing}; pad the images or resample them to a finer grid"
            raise PlanError(msg)
        self._check_slices(name)
        candidate = choose_candidate(dataset, situation)
        if name == FULL_RESOLUTION and candidate.value.topology.patch_voxels[0] == 1:
            name, dataset = SLICES, dataset.in_plane  # a patch of one slice sees no more than a 2D network
            self._check_slices(name)
            candidate = choose_candidate(dataset, situation)
        if candidate.value.dataset != dataset and name == FULL_RESOLUTION:
            name = LOW_RESOLUTION
        return name, dataset, candidate

    def _choose_slices(self, planned: Configurations, common: CommonDecisions, situation: Situation) -> Chosen:
        """Chooses the configuration of single slices where it is not planned, but others that are asked for need it.

        Raises:
            PlanError: The architecture has no network for slices.
        """
        needing = [name for name in self.further if FURTHER_CONFIGURATIONS[name].needs == (SLICES,)]
        dataset, is_flat = common.dataset.in_plane, common.dataset.median_shape_voxels[0] <= 1
        if not needing or SLICES in planned or is_flat or explain_missing_pooling(dataset, situation.topology):
            return {}, ()
        self._check_slices(SLICES)
        configuration, reasons = build_configuration(SLICES, choose_candidate(dataset, situation), situation)
        exists = Decision(
            SLICES,
            f"{' and '.join(needing)}, which {'is' if len(needing) == 1 else 'are'} made of it, "
            f"{'was' if len(needing) == 1 else 'were'} asked for",
        )
        return {SLICES: configuration}, (record(SLICES, exists, "planned"), *reasons)

    def _check_slices(self, name: str) -> None:
        reason = None if self.architecture is None else self.architecture.without_slices
        if name == SLICES and reason is not None:
            msg = f"no network exists for these images: {reason}; choose another --architecture"
            raise PlanError(msg)


def _choose_dimensions(common: CommonDecisions, rule: TopologyRule) -> tuple[str, ResampledDataset]:
    dataset = common.dataset
    dimensions = choose_dimensionality(dataset, common.fingerprint.cases, common.axes.value)
    if 3 in dimensions.value and explain_missing_pooling(dataset, rule) is None:
        return FULL_RESOLUTION, dataset
    return SLICES, dataset.in_plane


def _limit_memory(throughput: DeviceThroughput, stated_gb: float | None) -> DeviceThroughput:
    """Returns the throughput with the memory that was stated for a GPU."""
    if stated_gb is None or throughput.is_cpu:
        return throughput
    return throughput.model_copy(update={"memory_gb": stated_gb})


def _choose_memory(throughput: DeviceThroughput, stated_gb: float | None) -> Decision[float]:
    if not throughput.is_cpu:
        stated = stated_gb is not None
        return Decision(throughput.memory_gb, "as stated" if stated else f"the memory of {throughput.device}")
    if stated_gb is not None:
        return Decision(stated_gb, "as stated; this planner plans for the CPU and does not use it")
    return Decision(round(throughput.memory_gb, 1), "the memory of this computer; its CPU trains, not an accelerator")
