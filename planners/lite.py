"""A planner for computers without a GPU: as much network as learns enough within a given time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from autoseg.errors import PlanError
from autoseg.fingerprint import Fingerprint, HostThroughput, Machine
from autoseg.plan import (
    ConfigurationPlan,
    CrossEntropyTerm,
    Decision,
    DiceTerm,
    PlainUNetPlan,
    Plan,
    Reason,
    SegmentationObjective,
    TrainingPlan,
    TransformPlan,
)
from planners.augmentation import choose_augmentation, describe_rotation
from planners.batch_dice import choose_batch_dice
from planners.cascade import FULL_RESOLUTION, LOW_RESOLUTION
from planners.common import CommonDecisions, choose_common
from planners.configuration import explain_missing_pooling
from planners.dimensionality import choose_dimensionality
from planners.lite_time import (
    SUFFICIENT_ITERATIONS,
    TRAINING_SHARE,
    explain_budget,
    explain_needed_iterations,
    find_budget,
)
from planners.low_resolution import coarsen
from planners.median_shape import ResampledDataset
from planners.patch_size import compute_initial_patch
from planners.planner import SLICES
from planners.reasons import format_amount, format_count, format_extents, format_lengths, format_share, record
from planners.resampling import choose_resampling
from planners.step_time import estimate_step_seconds, list_convolutions
from planners.topology import FEWEST_STAGES, Topology, choose_deep_supervision, compute_topology, explain_topology

LARGER_BATCH: Final = 2
WIDTHS: Final = (32, 16)  # of the first stage; processors compute multiples of 16 channels best
CONVOLUTIONS_PER_STAGE: Final = 2
MOST_FEATURES: Final = 256
ENOUGH_PATCHES: Final = 5000
"""Measured on Hippocampus, in batches of 2: up to here more patches gain more than more features, from here on it is
the reverse."""
ITERATIONS_FOR_LARGER_BATCH: Final = 5000
"""Below them, as many patches teach more in twice the iterations of half the batch (measured)."""
SUFFICIENT_CONTEXT_FRACTION: Final = 1 / 8  # of the median case in one patch; else the spacing is made coarser
MEMORY_SHARE: Final = 0.5  # of the computer's memory, for feature maps
BYTES_PER_ELEMENT: Final = 8  # of a feature map: itself, its normalization and their gradients in reduced precision
EPOCHS: Final = 1000
ITERATIONS_PER_EPOCH: Final = 250
VALIDATION_ITERATIONS_PER_EPOCH: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LitePlanner:
    """Plans one configuration for training on a processor in limited time."""

    name: str = "lite"
    description: str = (
        "Small U-Net for computers without a GPU: as wide as this machine can train within --budget (30 minutes)."
    )
    measures_host: bool = True

    def plan(self, fingerprint: Fingerprint, machine: Machine) -> Plan:
        """Decides everything about a dataset.

        Raises:
            PlanError: The machine was not measured, is too slow for the time, or the images are too small.
        """
        if machine.host is None:
            msg = "the planner 'lite' plans for a measured processor; give its throughput (Machine.host)"
            raise PlanError(msg)
        common = choose_common(fingerprint)
        situation = Situation(
            fingerprint=fingerprint, host=machine.host, training_seconds=TRAINING_SHARE * find_budget(machine)
        )
        name, dataset = _choose_dimensions(common)
        missing = explain_missing_pooling(dataset)
        if missing is not None:
            msg = f"the images are too small for a network: {missing}; pad the images or resample them to a finer grid"
            raise PlanError(msg)
        candidate = choose_candidate(dataset, situation)
        if candidate.value.dataset != dataset and name == FULL_RESOLUTION:
            name = LOW_RESOLUTION
        chosen, seconds = candidate.value, situation.training_seconds
        needed = explain_needed_iterations(chosen.iterations, chosen.step_seconds, seconds)
        configuration, reasons = build_configuration(name, candidate, situation)
        memory = _choose_memory(machine.host, machine.accelerator_memory_gb)
        return common.build_plan(
            self.name,
            memory,
            configurations={name: configuration},
            reasons=(explain_budget(machine, machine.host), needed, *reasons),
            budget_seconds=find_budget(machine),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a network is chosen for.

    Attributes:
        training_seconds: For one fold.
    """

    fingerprint: Fingerprint
    host: HostThroughput
    training_seconds: float

    @property
    def memory_limit_bytes(self) -> float:
        """For feature maps."""
        return self.host.memory_gb * 1e9 * MEMORY_SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network, and what it would cost.

    Attributes:
        dataset: At the spacing that goes with the patch.
        features: Of every stage.
        iterations: That fit into the time.
    """

    dataset: ResampledDataset
    topology: Topology
    features: tuple[int, ...]
    batch: Decision[int]
    step_seconds: float
    iterations: int
    memory_bytes: float

    @property
    def patches(self) -> int:
        """That are seen within the time."""
        return self.iterations * self.batch.value

    @property
    def context(self) -> float:
        """Share of the median case in one patch."""
        return math.prod(self.topology.patch_voxels) / math.prod(self.dataset.median_shape_voxels)


def choose_candidate(dataset: ResampledDataset, situation: Situation) -> Decision[Candidate]:
    """The first of the candidates that learns enough within the time; the last one if none does.

    Candidates come with the widest network and the largest patch first: the width shrinks before the patch does, and
    where the patch is too small for its context, the spacing becomes coarser.
    """
    considered = 0
    for candidate in list_candidates(dataset, situation):
        considered += 1
        fits = candidate.memory_bytes <= situation.memory_limit_bytes
        if candidate.patches >= ENOUGH_PATCHES and fits:
            break
    return Decision(candidate, _explain(candidate, considered, situation))


def list_candidates(dataset: ResampledDataset, situation: Situation) -> Iterator[Candidate]:
    """From the largest to the smallest network."""
    topology: Topology | None = compute_topology(dataset.spacing_mm, compute_initial_patch(dataset))
    while topology is not None:
        for width in WIDTHS:
            candidate = evaluate(dataset, topology, width, situation)
            if candidate.context < SUFFICIENT_CONTEXT_FRACTION and candidate.patches >= ENOUGH_PATCHES:
                coarse = coarsen_for_context(dataset, topology)
                candidate = evaluate(
                    coarse, compute_topology(coarse.spacing_mm, topology.patch_voxels), width, situation
                )
            yield candidate
        topology = shorten(topology, dataset)


def evaluate(dataset: ResampledDataset, topology: Topology, width: int, situation: Situation) -> Candidate:
    """What a network costs on the machine, with the largest batch that leaves enough iterations."""
    features = tuple(min(MOST_FEATURES, width * 2 ** min(stage, 10)) for stage in range(topology.stage_count))
    channels = len(situation.fingerprint.channels)
    patch_seconds = estimate_step_seconds(
        topology,
        features,
        input_channels=channels,
        batch_size=1,
        convolutions_per_stage=CONVOLUTIONS_PER_STAGE,
        host=situation.host,
    )
    layers = list_convolutions(topology, features, input_channels=channels, per_stage=CONVOLUTIONS_PER_STAGE)
    patch_bytes = float(sum(layer.channels_out * layer.output_voxels for layer in layers) * BYTES_PER_ELEMENT)
    batch = choose_batch(patch_seconds, patch_bytes, situation)
    step_seconds = batch.value * patch_seconds
    return Candidate(
        dataset=dataset,
        topology=topology,
        features=features,
        batch=batch,
        step_seconds=step_seconds,
        iterations=int(situation.training_seconds / step_seconds),
        memory_bytes=batch.value * patch_bytes,
    )


def choose_batch(patch_seconds: float, patch_bytes: float, situation: Situation) -> Decision[int]:
    """One patch in little time, because many small steps teach more than few large ones; two in more time.

    Args:
        patch_seconds: What one patch takes in a step.
        patch_bytes: Its feature maps.
    """
    iterations = int(situation.training_seconds / (LARGER_BATCH * patch_seconds))
    minutes = f"{situation.training_seconds / 60:.3g} minutes"
    held = f"with {LARGER_BATCH} patches {minutes} hold {format_count(iterations)} iterations"
    needed = LARGER_BATCH * patch_bytes
    if iterations < ITERATIONS_FOR_LARGER_BATCH:
        return Decision(
            1,
            f"{held}, fewer than {format_count(ITERATIONS_FOR_LARGER_BATCH)}: up to there as many patches, one at a "
            f"time, teach more in twice the iterations",
        )
    if needed > situation.memory_limit_bytes:
        return Decision(
            1,
            f"the feature maps of {LARGER_BATCH} patches take {needed / 1e9:.2g} GB, more than the "
            f"{situation.memory_limit_bytes / 1e9:.2g} GB that are kept for them",
        )
    return Decision(LARGER_BATCH, f"{held}, at least {format_count(ITERATIONS_FOR_LARGER_BATCH)}")


def shorten(topology: Topology, dataset: ResampledDataset) -> Topology | None:
    """The topology with one step less along the axis that covers most of the median case; None at the smallest."""
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
    shorter = compute_topology(dataset.spacing_mm, extents)
    is_smaller = math.prod(shorter.patch_voxels) < math.prod(topology.patch_voxels)
    return shorter if is_smaller and shorter.stage_count >= FEWEST_STAGES else None


def coarsen_for_context(dataset: ResampledDataset, topology: Topology) -> ResampledDataset:
    """The dataset at the finest spacing, in steps of 3 %, at which a patch covers enough of the median case."""
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


def build_configuration(
    name: str, decision: Decision[Candidate], situation: Situation
) -> tuple[ConfigurationPlan, tuple[Reason, ...]]:
    """The chosen network with everything that follows from it."""
    chosen, fingerprint = decision.value, situation.fingerprint
    topology, dimensions = chosen.topology, len(chosen.dataset.spacing_mm)
    supervision = choose_deep_supervision(topology)
    batch_dice = choose_batch_dice(
        topology.patch_voxels, chosen.dataset.median_shape_voxels, has_coarser_configuration=False
    )
    augmentation = choose_lite_augmentation(topology, orientation=fingerprint.orientation)
    resampling = choose_resampling(chosen.dataset.spacing_mm, chosen.dataset.distance_unit)
    plan = ConfigurationPlan(
        dimensions=2 if dimensions == 2 else 3,
        spacing_mm=chosen.dataset.spacing_mm,
        median_shape_voxels=chosen.dataset.median_shape_voxels,
        patch_voxels=topology.patch_voxels,
        previous_stage=None,
        data_of=name,
        resampling=resampling.value,
        network=PlainUNetPlan(
            dimensions=2 if dimensions == 2 else 3,
            input_channels=len(fingerprint.channels),
            output_channels=fingerprint.labels.output_channel_count,
            features_per_stage=chosen.features,
            kernel_sizes=topology.kernel_sizes,
            strides=topology.strides,
            blocks_per_stage=(CONVOLUTIONS_PER_STAGE,) * topology.stage_count,
            convolutions_per_decoder_stage=(CONVOLUTIONS_PER_STAGE,) * (topology.stage_count - 1),
            deep_supervision=supervision.value,
        ),
        training=build_lite_training(
            situation, batch_size=chosen.batch.value, batch_dice=batch_dice.value, transforms=augmentation.value
        ),
    )
    halved = " x ".join(str(divisor) for divisor in topology.divisors)
    pooling = explain_topology(topology, chosen.dataset.spacing_mm, chosen.dataset.distance_unit)
    reasons = (
        record(f"{name}: network", decision, _describe(chosen)),
        record(f"{name}: batch", chosen.batch, str(chosen.batch.value)),
        record(f"{name}: topology", pooling, f"{topology.stage_count} stages, divided by {halved}"),
        record(f"{name}: deep supervision", supervision, "yes" if supervision.value else "no"),
        TRAINING_REASON,
        record(f"{name}: batch Dice", batch_dice, "yes" if batch_dice.value else "no"),
        record(f"{name}: augmentation", augmentation, describe_rotation(augmentation.value)),
        record(f"{name}: resampling", resampling, "cubic images, linear labels and logits"),
    )
    return plan, reasons


def choose_lite_augmentation(topology: Topology, *, orientation: str | None) -> Decision[tuple[TransformPlan, ...]]:
    """The usual augmentation, but without mirroring where every image has the same orientation."""
    usual = choose_augmentation(topology.patch_voxels)
    if orientation is None:
        return usual
    because = (
        f"{usual.because.partition('; all ')[0]}; nothing is mirrored: every image is brought to the orientation "
        f"{orientation}, so mirrored anatomy need not be learnt in little time, and prediction takes one pass instead "
        f"of {2 ** len(topology.patch_voxels)}"
    )
    return Decision(tuple(transform for transform in usual.value if transform.name != "mirror"), because)


TRAINING_REASON: Final = Reason(
    subject="training",
    value="AdamW, cosine, moving average of weights",
    because=(
        "with few iterations AdamW (learning rate 0.001, rising over 100 iterations, then falling as a cosine) learns "
        "faster than stochastic gradient descent, and the moving average of the weights (decay 0.999) takes the place "
        "of a long fall; epochs are laid out by the budget when training begins"
    ),
)


def build_lite_training(
    situation: Situation, *, batch_size: int, batch_dice: bool, transforms: tuple[TransformPlan, ...]
) -> TrainingPlan:
    """What was measured best on a processor in 8 to 30 minutes."""
    return TrainingPlan(
        epochs=EPOCHS,
        iterations_per_epoch=ITERATIONS_PER_EPOCH,
        validation_iterations_per_epoch=VALIDATION_ITERATIONS_PER_EPOCH,
        budget_seconds=situation.training_seconds,
        sufficient_iterations=SUFFICIENT_ITERATIONS,
        batch_size=batch_size,
        foreground_fraction=0.33,
        foreground_placement="centred",
        foreground_choice="class",
        losses=(DiceTerm(weight=1.0, batch_dice=batch_dice), CrossEntropyTerm(weight=1.0)),
        objective=SegmentationObjective(),
        optimizer="adamw",
        initial_learning_rate=1e-3,
        momentum=0.9,
        second_moment_decay=0.999,
        weight_decay=0.01,
        schedule="cosine",
        schedule_exponent=0.9,
        warmup_iterations=100,
        weight_average_decay=0.999,
        gradient_norm_limit=12.0,
        transforms=transforms,
    )


def _choose_dimensions(common: CommonDecisions) -> tuple[str, ResampledDataset]:
    dataset = common.dataset
    dimensions = choose_dimensionality(dataset, common.fingerprint.cases, common.axes.value)
    if 3 in dimensions.value and explain_missing_pooling(dataset) is None:
        return FULL_RESOLUTION, dataset
    return SLICES, dataset.in_plane


def _choose_memory(host: HostThroughput, stated_gb: float | None) -> Decision[float]:
    if stated_gb is not None:
        return Decision(stated_gb, "as stated; this planner plans for the processor and does not use it")
    return Decision(round(host.memory_gb, 1), "the memory of this computer; its processor trains, not an accelerator")


def _describe(candidate: Candidate) -> str:
    patch = format_extents(candidate.topology.patch_voxels)
    features = ", ".join(map(str, candidate.features))
    return f"patch {patch} voxels, batch {candidate.batch.value}, features {features}"


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
