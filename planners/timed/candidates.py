"""The search for a network: candidates from the largest down, until one learns enough in the time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from autoseg.fingerprint import DeviceThroughput, Fingerprint
from autoseg.geometry import IntTriple
from autoseg.network_cost import MeasureCost
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.network import NetworkPlan, PlainUNetPlan
from planners.architectures.architecture import ChooseArchitecture
from planners.heads import Head
from planners.reasons import format_amount, format_count, format_extents, format_lengths, format_share
from planners.rules.low_resolution import coarsen
from planners.rules.median_shape import ResampledDataset
from planners.rules.memory import CountObjective
from planners.rules.patch_size import compute_initial_patch
from planners.rules.topology import FEWEST_STAGES, UNET_TOPOLOGY, Topology, TopologyRule, choose_deep_supervision
from planners.step_time import estimate_fixed_seconds, estimate_step_seconds
from planners.timed.budget import TRAINING_SHARE, warn_of_disturbance

LARGER_BATCH: Final = 2
WIDTHS: Final = (32, 16)  # of the first stage; CPUs compute multiples of 16 channels best
CONVOLUTIONS_PER_STAGE: Final = 2
MOST_FEATURES: Final = 256
ENOUGH_PATCHES: Final = 5000
"""Measured on Hippocampus, in batches of 2: up to here more patches gain more than more features, from here on it is
the reverse."""
ITERATIONS_FOR_LARGER_BATCH: Final = 5000
"""Below them, as many patches teach more in twice the iterations of half the batch (measured)."""
SMALL_ADDITION: Final = 0.25
"""A second patch that adds no more than this fraction to a step is taken: on a GPU small layers take as long as the
launches of their kernels, whatever the batch (guess)."""
FEWER_PATCHES: Final = "on Hippocampus 1,600 patches gave a mean Dice of 0.881 in batches of 1, 0.876 of 2, 0.833 of 8"
MORE_PATCHES: Final = (
    "more at once gain nothing in the same time: on Hippocampus 4 to 5 minutes of a GPU gave 0.889 to 0.892 in batches "
    "of 2, 0.886 of 7"
)
SUFFICIENT_CONTEXT_FRACTION: Final = 1 / 8  # of the median case in one patch; else the spacing is made coarser
MEMORY_SHARE: Final = 0.5  # of the memory of the device, for feature maps
BYTES_PER_ELEMENT: Final = 8  # of a feature map: itself, its normalization and their gradients in reduced precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Conditions for which a network is chosen.

    Attributes:
        axis_permutation: Array axis of each plan axis.
        training_seconds: Time to train one fold.
        measure_cost: Measures the cost of a network.
        choose_network: The network of a width for a topology.
        topology: Rule for dividing a patch.
        head: Replaces the last stages of these networks; None: they stay as they are.
        count_objective: Counts the memory of the objective beside that of the network; None: next to none.
    """

    fingerprint: Fingerprint
    axis_permutation: IntTriple
    throughput: DeviceThroughput
    training_seconds: float
    measure_cost: MeasureCost
    choose_network: ChooseArchitecture
    topology: TopologyRule
    head: Head | None = None
    count_objective: CountObjective | None = None

    def build_network(self, topology: Topology, width: int) -> NetworkPlan:
        """Builds the network with `width` features in its first stage."""
        network, _ = self.choose_network(
            topology,
            input_channels=len(self.fingerprint.channels),
            output_channels=self.fingerprint.labels.output_channel_count,
            width=width,
        )
        return network if self.head is None else self.head.choose(network)

    @property
    def memory_limit_bytes(self) -> float:
        """Memory limit of feature maps."""
        return self.throughput.memory_gb * 1e9 * MEMORY_SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network and its cost.

    Attributes:
        dataset: The dataset at the spacing that goes with the patch.
        width: Features of the first stage.
        iterations: Iterations that fit into the time.
    """

    dataset: ResampledDataset
    topology: Topology
    width: int
    network: NetworkPlan
    batch: Decision[int]
    step_seconds: float
    iterations: int
    memory_bytes: float

    @property
    def patches(self) -> int:
        """Number of patches that are seen within the time."""
        return self.iterations * self.batch.value

    @property
    def context(self) -> float:
        """Share of the median case in one patch."""
        return math.prod(self.topology.patch_voxels) / math.prod(self.dataset.median_shape_voxels)


def choose_candidate(dataset: ResampledDataset, situation: Situation) -> Decision[Candidate]:
    """Chooses the first of the candidates that learns enough within the time; the last one if none does.

    Candidates come with the widest network and the largest patch first: the width shrinks before the patch does, and
    where the patch is too small for its context, the spacing becomes coarser.
    """
    considered = 0
    for candidate in list_candidates(dataset, situation):
        considered += 1
        fits = candidate.memory_bytes <= situation.memory_limit_bytes
        if candidate.patches >= ENOUGH_PATCHES and fits:
            break
    else:
        if candidate.context < SUFFICIENT_CONTEXT_FRACTION:
            candidate = coarsen_candidate(candidate, WIDTHS[-1], situation)
    return Decision(candidate, _explain(candidate, considered, situation))


def list_candidates(dataset: ResampledDataset, situation: Situation) -> Iterator[Candidate]:
    """Lists candidates from the largest to the smallest network."""
    compute = situation.topology.compute
    topology: Topology | None = compute(dataset.spacing_mm, compute_initial_patch(dataset))
    while topology is not None:
        for width in WIDTHS:
            candidate = evaluate_candidate(dataset, topology, width, situation)
            if candidate.context < SUFFICIENT_CONTEXT_FRACTION and candidate.patches >= ENOUGH_PATCHES:
                candidate = coarsen_candidate(candidate, width, situation)
            yield candidate
        topology = shorten(topology, dataset, situation.topology)


def coarsen_candidate(candidate: Candidate, width: int, situation: Situation) -> Candidate:
    """Returns the candidate of the same patch at a spacing at which it covers enough of the median case."""
    coarse = coarsen_for_context(candidate.dataset, candidate.topology)
    topology = situation.topology.compute(coarse.spacing_mm, candidate.topology.patch_voxels)
    return evaluate_candidate(coarse, topology, width, situation)


def evaluate_candidate(dataset: ResampledDataset, topology: Topology, width: int, situation: Situation) -> Candidate:
    """Estimates the cost of a network on the machine, with the largest batch that leaves enough iterations."""
    network = situation.build_network(topology, width)
    cost = situation.measure_cost(network, topology.patch_voxels, 1)
    fixed_seconds = estimate_fixed_seconds(cost, situation.throughput)
    patch_seconds = estimate_step_seconds(cost, situation.throughput) - fixed_seconds
    elements = sum(convolution.output_elements for convolution in cost.convolutions)
    if situation.count_objective is not None:
        elements += situation.count_objective(network, topology)
    patch_bytes = float(elements * BYTES_PER_ELEMENT)
    batch = choose_batch(patch_seconds, fixed_seconds, patch_bytes, situation)
    step_seconds = fixed_seconds + batch.value * patch_seconds
    return Candidate(
        dataset=dataset,
        topology=topology,
        width=width,
        network=network,
        batch=batch,
        step_seconds=step_seconds,
        iterations=int(situation.training_seconds / step_seconds),
        memory_bytes=batch.value * patch_bytes,
    )


def choose_small_unet(
    topology: Topology, *, input_channels: int, output_channels: int, width: int | None = None
) -> tuple[PlainUNetPlan, tuple[Reason, ...]]:
    """Chooses a plain U-Net with `width` features in its first stage, doubled with every stage up to a limit."""
    stages, first = topology.stage_count, WIDTHS[0] if width is None else width
    network = PlainUNetPlan(
        dimensions=2 if len(topology.patch_voxels) == 2 else 3,
        input_channels=input_channels,
        output_channels=output_channels,
        features_per_stage=tuple(min(MOST_FEATURES, first * 2 ** min(stage, 10)) for stage in range(stages)),
        kernel_sizes=topology.kernel_sizes,
        strides=topology.strides,
        blocks_per_stage=(CONVOLUTIONS_PER_STAGE,) * stages,
        convolutions_per_decoder_stage=(CONVOLUTIONS_PER_STAGE,) * (stages - 1),
        deep_supervision=choose_deep_supervision(topology).value,
    )
    return network, ()


def choose_batch(patch_seconds: float, fixed_seconds: float, patch_bytes: float, situation: Situation) -> Decision[int]:
    """Chooses one patch in little time, because many small steps teach more than few large ones; two in more time.

    Args:
        patch_seconds: Time for one patch in a step.
        fixed_seconds: Time of a step that does not depend on the number of patches.
        patch_bytes: Its feature maps.
    """
    iterations = int(situation.training_seconds / (fixed_seconds + LARGER_BATCH * patch_seconds))
    minutes = f"{situation.training_seconds / 60:.3g} minutes"
    single, double = (fixed_seconds + count * patch_seconds for count in (1, LARGER_BATCH))
    is_launched = fixed_seconds > 0 and double <= (1 + SMALL_ADDITION) * single
    held = f"with {LARGER_BATCH} patches {minutes} hold {format_count(iterations)} iterations"
    needed = LARGER_BATCH * patch_bytes
    if iterations < ITERATIONS_FOR_LARGER_BATCH and not is_launched:
        return Decision(
            1,
            f"{held}, fewer than {format_count(ITERATIONS_FOR_LARGER_BATCH)}: up to there as many patches, one at a "
            f"time, teach more in twice the iterations ({FEWER_PATCHES})",
        )
    if needed > situation.memory_limit_bytes:
        return Decision(
            1,
            f"the feature maps of {LARGER_BATCH} patches take {needed / 1e9:.2g} GB, more than the "
            f"{situation.memory_limit_bytes / 1e9:.2g} GB that are kept for them",
        )
    if is_launched:
        return Decision(
            LARGER_BATCH,
            f"a second patch makes a step of {1e3 * single:.3g} ms longer by only {format_share(double / single - 1)}, "
            f"as launches of kernels take most of it; {held}",
        )
    return Decision(LARGER_BATCH, f"{held}, at least {format_count(ITERATIONS_FOR_LARGER_BATCH)}; {MORE_PATCHES}")


def shorten(topology: Topology, dataset: ResampledDataset, rule: TopologyRule = UNET_TOPOLOGY) -> Topology | None:
    """Shortens the topology by one step along the axis that covers most of the median case; None at the smallest."""
    shares = [
        extent / median if extent > divisor else 0.0
        for extent, median, divisor in zip(
            topology.patch_voxels, dataset.median_shape_voxels, topology.divisors, strict=True
        )
    ]
    axis = max(range(len(shares)), key=lambda candidate: (shares[candidate], candidate))
    if shares[axis] == 0:
        return None
    extents = list(topology.patch_voxels)
    extents[axis] -= topology.divisors[axis]
    shorter = rule.compute(dataset.spacing_mm, extents)
    is_smaller = math.prod(shorter.patch_voxels) < math.prod(topology.patch_voxels)
    return shorter if is_smaller and shorter.stage_count >= FEWEST_STAGES else None


def coarsen_for_context(dataset: ResampledDataset, topology: Topology) -> ResampledDataset:
    """Coarsens the spacing in steps of 3 % until a patch covers enough of the median case."""
    fine_mm, fine_shape = np.array(dataset.spacing_mm), np.array(dataset.median_shape_voxels)
    spacing_mm = fine_mm.copy()
    wanted = math.prod(topology.patch_voxels) / SUFFICIENT_CONTEXT_FRACTION
    while np.prod(shape := fine_shape * fine_mm / spacing_mm) > wanted:
        spacing_mm = coarsen(spacing_mm)
    rounded = np.maximum(np.round(shape), 1.0)
    return replace(
        dataset,
        spacing_mm=tuple(float(value) for value in spacing_mm),
        median_shape_voxels=tuple(float(extent) for extent in rounded),
        voxel_count=float(dataset.voxel_count * np.prod(rounded) / np.prod(fine_shape)),
    )


def warn_of_smallest(candidate: Candidate, full: ResampledDataset, situation: Situation) -> tuple[Reason, ...]:
    """Returns a warning where not even the smallest candidate learns enough within the time and the memory.

    Args:
        candidate: The chosen candidate.
        full: The dataset at full resolution.
        situation: The conditions.
    """
    problems, limit = [], situation.memory_limit_bytes
    if candidate.patches < ENOUGH_PATCHES:
        minutes = math.ceil(ENOUGH_PATCHES * candidate.step_seconds / candidate.batch.value / TRAINING_SHARE / 60)
        problems.append(
            f"{situation.training_seconds / 60:.3g} minutes hold {format_count(candidate.patches)} patches of the "
            f"smallest network instead of {format_count(ENOUGH_PATCHES)} (--budget {minutes}m would do)"
        )
    if candidate.memory_bytes > limit:
        problems.append(
            f"its feature maps take {candidate.memory_bytes / 1e9:.2g} GB, more than the {limit / 1e9:.2g} GB that are "
            f"kept for them"
        )
    if not problems:
        return ()
    patch, unit = format_extents(candidate.topology.patch_voxels), full.distance_unit
    spacing = format_lengths(candidate.dataset.spacing_mm, unit)
    if candidate.dataset != full:
        spacing = f"{spacing}, coarser than the {format_lengths(full.spacing_mm, unit)} of the data"
    share = f"a patch of {patch} covers {format_share(candidate.context)} of the median case at {spacing}"
    because = f"{'; '.join(problems)}; {share}{warn_of_disturbance(situation.throughput)}"
    return (Reason(subject="warning: smallest network", value=f"patch {patch}", because=because),)


def _explain(candidate: Candidate, considered: int, situation: Situation) -> str:
    spacing = format_lengths(candidate.dataset.spacing_mm, candidate.dataset.distance_unit)
    enough = "at least" if candidate.patches >= ENOUGH_PATCHES else "fewer than"
    larger = "no wider network and no larger patch is tried"
    if considered > 1:
        tried = format_amount(considered - 1, "larger combination")
        larger = f"{tried} of network and patch would see too few patches in the time, or need too much memory"
    return (
        f"{larger}; at an estimated "
        f"{candidate.step_seconds:.3g} s per iteration {situation.training_seconds / 60:.3g} minutes hold "
        f"{format_count(candidate.patches)} patches, {enough} the {format_count(ENOUGH_PATCHES)} that are wanted, with "
        f"{candidate.memory_bytes / 1e9:.2g} GB of feature maps; a patch covers {format_share(candidate.context)} of "
        f"the median case at {spacing}"
    )
