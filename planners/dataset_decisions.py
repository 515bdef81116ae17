"""Decisions that depend on the data alone: orientation, spacing, axes and normalization."""

from dataclasses import dataclass

from autoseg import __version__
from autoseg.fingerprint import Fingerprint
from autoseg.geometry import FloatTriple, IntTriple
from autoseg.labels import InstanceTargets
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.document import ConfigurationPlan, Plan
from autoseg.plan.network import LatentDiffusionPlan
from autoseg.plan.preprocessing import ChannelPlan
from planners.architectures.mask_rcnn import check_targets
from planners.reasons import AXIS_NAMES, record
from planners.rules.axes import choose_axis_permutation
from planners.rules.ignored_voxels import choose_ignored_voxels
from planners.rules.instances import choose_border_fraction, choose_centre_loss, choose_centre_steps
from planners.rules.median_shape import ResampledDataset, compute_resampled_dataset
from planners.rules.network_data import adapt_network
from planners.rules.normalization import choose_normalization
from planners.rules.spacing import choose_target_spacing, format_spacing


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonDecisions:
    """Decisions that are the same in all planners.

    Attributes:
        spacing: Spacing along z, y, x, in mm.
        channels: Normalization of every channel.
    """

    fingerprint: Fingerprint
    spacing: Decision[FloatTriple]
    axes: Decision[IntTriple]
    channels: tuple[Decision[ChannelPlan], ...]

    @property
    def dataset(self) -> ResampledDataset:
        """The data at the target spacing."""
        return compute_resampled_dataset(
            self.fingerprint.cases,
            target_spacing_mm=self.spacing.value,
            axis_permutation=self.axes.value,
            distance_unit=self.fingerprint.distance_unit,
        )

    def build_plan(
        self,
        planner: str,
        memory: Decision[float],
        *,
        configurations: dict[str, ConfigurationPlan],
        reasons: tuple[Reason, ...],
        budget_seconds: float | None = None,
    ) -> Plan:
        """Builds the plan, with the reasons of the common decisions before those of the planner."""
        fingerprint = self.fingerprint
        adapted = {name: self._adapt(name, configuration) for name, configuration in configurations.items()}
        return Plan(
            autoseg_version=__version__,
            planner=planner,
            accelerator_memory_gb=memory.value,
            budget_seconds=budget_seconds,
            dataset_name=fingerprint.dataset_name,
            file_ending=fingerprint.file_ending,
            orientation=fingerprint.orientation,
            distance_unit=fingerprint.distance_unit,
            axis_permutation=self.axes.value,
            labels=fingerprint.labels,
            channels=tuple(decision.value for decision in self.channels),
            configurations={name: configuration for name, (configuration, _) in adapted.items()},
            instances=fingerprint.targets,
            reasons=(
                record("memory target", memory, f"{memory.value:g} GB"),
                _explain_orientation(fingerprint),
                *(() if fingerprint.targets is None else _explain_instances(fingerprint.targets)),
                record(
                    "target spacing",
                    self.spacing,
                    format_spacing(self.spacing.value, fingerprint.cases, fingerprint.distance_unit),
                ),
                record("axis permutation", self.axes, ", ".join(AXIS_NAMES[axis] for axis in self.axes.value)),
                *(
                    record(f"channel {index} ({chosen.value.name}): normalization", chosen, chosen.value.normalization)
                    for index, chosen in enumerate(self.channels)
                ),
                *reasons,
                *(reason for _, own in adapted.values() for reason in own),
            ),
        )

    def _adapt(self, name: str, configuration: ConfigurationPlan) -> tuple[ConfigurationPlan, tuple[Reason, ...]]:
        targets = self.fingerprint.targets
        if configuration.network.finds_objects:
            check_targets(targets)
        channels = tuple(decision.value for decision in self.channels)
        labels = configuration.choose_network_labels(self.fingerprint.labels)
        network, reasons = adapt_network(configuration.network, labels, channels)
        if isinstance(network, LatentDiffusionPlan) and self.fingerprint.labels.ignore_label is not None:
            filled = choose_ignored_voxels(self.fingerprint)
            reasons = (*reasons, record("ignored voxels", filled, filled.value))
        training = configuration.training
        is_compared = labels == self.fingerprint.labels and not configuration.network.finds_boxes
        if targets is not None and targets.centre_steps and is_compared:
            term = choose_centre_loss(targets)
            training = training.model_copy(update={"losses": (*training.losses, term.value)})
            reasons = (*reasons, record("centre distance", term, term.value.name))
        named = tuple(reason.model_copy(update={"subject": f"{name}: {reason.subject}"}) for reason in reasons)
        return configuration.model_copy(update={"network": network, "training": training}), named


def choose_common(fingerprint: Fingerprint) -> CommonDecisions:
    """Makes the decisions that depend on the data alone.

    Raises:
        PlanError: A CT channel without foreground.
    """
    spacing = choose_target_spacing(fingerprint.cases, fingerprint.distance_unit)
    relative_size = fingerprint.median_relative_size_after_cropping
    return CommonDecisions(
        fingerprint=fingerprint,
        spacing=spacing,
        axes=choose_axis_permutation(spacing.value, fingerprint.cases, fingerprint.distance_unit),
        channels=tuple(
            choose_normalization(channel, median_relative_size_after_cropping=relative_size)
            for channel in fingerprint.channels
        ),
    )


def _explain_instances(targets: InstanceTargets) -> tuple[Reason, ...]:
    border, steps = choose_border_fraction(), choose_centre_steps()
    found = f"core and border, of {targets.border_fraction:g} of the radius"
    reason = record("instances", Decision(targets, border.because), found)
    if not targets.centre_steps:
        return (reason,)
    return reason, record("centre distance", steps, f"{targets.centre_steps} steps")


def _explain_orientation(fingerprint: Fingerprint) -> Reason:
    code = fingerprint.orientation
    if code is None:
        because = f"files ending in {fingerprint.file_ending} have no world coordinates, so nothing is turned"
    else:
        count = len(fingerprint.cases)
        because = f"measured for the dataset: all {count} cases, and every image to come, are brought to {code}"
    return record("orientation", Decision(code, because), code or "as stored")
