"""The document plan.json: configurations, channels, labels, and the reason of every decision.

Axes: a 3D configuration lists three values in **plan axes**, a 2D configuration the last two of them. Plan axis i is
axis `axis_permutation[i]` of the array (z, y, x) in the training orientation.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from autoseg.document import Document, OneOf, Part, Upgrade
from autoseg.errors import PlanError, VolumeError
from autoseg.geometry import (
    Border,
    Borders,
    DistanceUnit,
    IntTriple,
    add_slice_axis,
    compute_reorientation,
    list_plane_order,
)
from autoseg.labels import InstanceTargets, LabelScheme
from autoseg.plan.augmentation import find_content_problems, find_problems
from autoseg.plan.decisions import Reason
from autoseg.plan.losses import list_loss_problems
from autoseg.plan.network import NETWORK_PLANS, NetworkPlan
from autoseg.plan.preprocessing import ChannelPlan, ResamplingPlan
from autoseg.plan.stages import PREVIOUS_STAGE_PLANS, PreviousStagePlan
from autoseg.plan.training import TrainingPlan
from autoseg.plan.upgrades import PLAN_UPGRADES
from autoseg.plan.values import MOST_CONTEXT_SLICES, ConfigurationName, Extents, Positive

PREFERRED_CONFIGURATIONS: Final = (
    "3d_fullres",
    "3d_cascade_fullres",
    "3d_lowres",
    "2d",
    "3d_roi",
    "2.5d",
    "2d_triplanar",
    "detect_then_segment",
    "boundary_refinement",
)
"""Configurations in the order of preference where the user names none."""
IMPORTED_PLANNER: Final = "nnU-Net"
"""Beginning of the planner's name in a plan that was imported."""


class ConfigurationPlan(Part):
    """One of 2d, 3d_lowres, 3d_fullres, 3d_cascade_fullres, 2.5d, 2d_triplanar, or another name.

    Attributes:
        spacing_mm: Target spacing. A 2D configuration never resamples plan axis 0, unless its slices lie across several
            axes: then it has three values, as `median_shape_voxels`.
        median_shape_voxels: Median shape of the resampled cases (may be fractional).
        patch_voxels: Network input, the margin of the network included.
        border: Content of training patches and windows of prediction beyond the volume: "zeros" (and background),
            "mirror", the image and its labels mirrored at the outermost voxels (the overlap-tile strategy of the U-Net,
            arXiv:1505.04597), or "replicate", their outermost voxels.
        previous_stage: Input of the network from a configuration that was trained before; None without one.
        data_of: Configuration whose preprocessed arrays are used (itself, except for those that share another's).
        context_slices: Neighbouring slices on either side that a 2D network gets as further channels; those beyond the
            volume repeat its outermost slice. 0 in plans of earlier versions.
        plane_axes: Plan axes across which 2D networks see slices, one axis each (`network.planes`), or one network all,
            in training by chance; prediction averages the logits of all. Axis 0 alone in plans of earlier versions.
    """

    dimensions: Literal[2, 3]
    spacing_mm: Annotated[tuple[Positive, ...], Field(min_length=2, max_length=3)]
    median_shape_voxels: Annotated[tuple[Positive, ...], Field(min_length=2, max_length=3)]
    patch_voxels: Extents
    border: Border
    previous_stage: Annotated[PreviousStagePlan, OneOf(PREVIOUS_STAGE_PLANS, "input")] | None
    data_of: ConfigurationName
    context_slices: Annotated[int, Field(ge=0, le=MOST_CONTEXT_SLICES)] = 0
    plane_axes: Annotated[tuple[Annotated[int, Field(ge=0, le=2)], ...], Field(min_length=1)] = (0,)
    resampling: ResamplingPlan
    network: Annotated[NetworkPlan, OneOf(NETWORK_PLANS, "family")]
    training: TrainingPlan

    @property
    def separates_objects(self) -> bool:
        """Returns whether touching objects are separated by background in its preprocessed data."""
        return any(term.needs_instances for term in self.training.losses)

    @property
    def slice_count(self) -> int:
        """Number of slices that a 2D network gets as channels: the one that it segments, and its context."""
        return 2 * self.context_slices + 1

    @property
    def sample_voxels(self) -> tuple[int, ...]:
        """Extents of a sample while it is augmented: those of the patch, behind the slices that become channels."""
        return (self.slice_count, *self.patch_voxels) if self.context_slices else self.patch_voxels

    @property
    def sample_margin_voxels(self) -> IntTriple:
        """Voxels by which the network's output is smaller at either end, along all three axes of a volume."""
        return add_slice_axis(self.network.margin_voxels, self.context_slices)

    @property
    def sample_border(self) -> Borders:
        """Content of samples beyond the volume; context repeats the outermost slice."""
        return ("replicate", self.border, self.border) if self.context_slices else self.border

    @property
    def sees_other_planes(self) -> bool:
        """Whether slices across other axes than the first are seen, so that volumes are resampled along all axes."""
        return self.plane_axes != (0,)

    @property
    def resampled_axis_count(self) -> int:
        """Number of the last plan axes along which volumes are resampled."""
        return 3 if self.sees_other_planes else self.dimensions

    @property
    def patch_spacing_mm(self) -> tuple[float, ...]:
        """Distance of neighbouring voxels along each axis of a patch; of slices across several axes, the mean."""
        if not self.sees_other_planes:
            return self.spacing_mm
        planes = [[self.spacing_mm[axis] for axis in list_plane_order(across)[1:]] for across in self.plane_axes]
        return tuple(sum(along) / len(planes) for along in zip(*planes, strict=True))

    @property
    def is_class_by_class(self) -> bool:
        """Whether the network sees one class at a time, around the boundaries that a previous stage predicts."""
        return self.previous_stage is not None and self.previous_stage.is_class_by_class

    def choose_network_labels(self, labels: LabelScheme) -> LabelScheme:
        """Returns the labels that the network tells apart, by the labels of the plan."""
        return labels if self.previous_stage is None else self.previous_stage.choose_network_labels(labels)

    @property
    def previous_configuration(self) -> str | None:
        """The configuration that is the previous stage; None if there is none."""
        return None if self.previous_stage is None else self.previous_stage.configuration

    @model_validator(mode="after")
    def _check(self) -> "ConfigurationPlan":
        self._check_axes()
        if self.context_slices and self.dimensions == 3:
            msg = f"context_slices must be 0 for a 3D network, which sees them anyway (got {self.context_slices})"
            raise ValueError(msg)
        stage, axes = self.previous_stage, len(self.sample_voxels)
        stage_input = stage.input if stage is not None and stage.has_channels else None
        problems = find_problems(
            self.training.transforms, axes, stage_input=stage_input, in_plane_only=axes > self.dimensions
        )
        if problems:
            raise ValueError("; ".join(problems))
        objective, beside = self.training.objective, self.training.plausibility
        unfit = objective.find_problem(self.network)
        if unfit is None and beside is not None:
            unfit = beside.find_problem(self.network, objective, self.patch_voxels)
        if unfit is not None:
            msg = f"training.{unfit}"
            raise ValueError(msg)
        self._check_patch()
        if stage is not None and self.is_class_by_class:
            self._check_placed_patches(stage.input)
        return self

    def _check_placed_patches(self, stage_input: str) -> None:
        """Checks that patches can be placed anywhere."""
        wanted = {"context_slices": 0, "plane_axes": (0,), "border": "zeros"}
        for field, value in wanted.items():
            if getattr(self, field) != value:
                msg = f"{field} must be {value!r} where previous_stage.input is {stage_input!r}"
                raise ValueError(msg)
        if any(self.network.margin_voxels):
            msg = f"the network must have no margin where previous_stage.input is {stage_input!r}; choose another one"
            raise ValueError(msg)

    def _check_axes(self) -> None:
        resampled, patch = self.resampled_axis_count, self.dimensions
        for field, count in (("spacing_mm", resampled), ("median_shape_voxels", resampled), ("patch_voxels", patch)):
            if len(getattr(self, field)) != count:
                msg = f"{field} must have {count} values"
                raise ValueError(msg)
        unfit = self._find_plane_problem() if self.sees_other_planes or self.network.planes > 1 else None
        if unfit is not None:
            raise ValueError(unfit)

    def _check_patch(self) -> None:
        if self.network.dimensions != self.dimensions:
            msg = f"network.dimensions must be {self.dimensions}"
            raise ValueError(msg)
        for axis, (extent, divisor) in enumerate(zip(self.patch_voxels, self.network.patch_divisors, strict=True)):
            if extent % divisor:
                msg = f"patch_voxels.{axis} must be a multiple of {divisor}, as the network demands (got {extent})"
                raise ValueError(msg)
            margins = 2 * self.network.margin_voxels[axis]
            if extent < margins + divisor:
                msg = (
                    f"patch_voxels.{axis} must be at least {margins + divisor}: margins of the network take {margins} "
                    f"voxels, and {divisor} must be left (got {extent})"
                )
                raise ValueError(msg)

    def _find_plane_problem(self) -> str | None:
        """Reports what does not go with slices across several axes."""
        named = f"plane_axes are {list(self.plane_axes)}"
        planes = self.network.planes
        if planes not in (1, len(self.plane_axes)):
            return f"network.planes must be 1, or {len(self.plane_axes)}, the number of plane_axes (got {planes})"
        if planes > 1 and not self.network.may_have_planes:
            return f"network.planes must be 1 for the family {self.network.family} (got {planes})"
        if self.dimensions == 3:
            return f"plane_axes must be [0] for a 3D network, which sees no slices (got {list(self.plane_axes)})"
        if sorted(set(self.plane_axes)) != list(self.plane_axes):
            return f"plane_axes must be different axes in ascending order (got {list(self.plane_axes)})"
        if self.context_slices:
            return f"context_slices must be 0 where {named} (got {self.context_slices})"
        if self.training.mirror_pairs is not None:
            return f"training.transforms must hold no mirror_pairs where {named}"
        if self.previous_stage is not None and self.previous_stage.is_in_plane:
            return f"previous_stage.input must not be {self.previous_stage.input!r} where {named}"
        return None


class Plan(Document):
    """Everything that was decided for a dataset.

    Attributes:
        accelerator_memory_gb: Memory that was planned for.
        budget_seconds: Time that was planned for, from raw images to predictions; None: without a limit.
        orientation: Axis code (x, y, z) to which images are brought before anything else; None for pictures.
        axis_permutation: Plan axis i is array axis `axis_permutation[i]`.
        distance_unit: Unit of all lengths; "pixel" where no file tells a spacing, whatever the names of the fields say.
        file_ending: Ending of predicted label maps, as in the dataset.
        instances: Core and border by which objects are told apart, and of which `labels` are; None where they are not.
    """

    upgrades: ClassVar[Mapping[int | None, Upgrade]] = PLAN_UPGRADES

    schema_version: Literal[3] = 3
    autoseg_version: str
    planner: str
    accelerator_memory_gb: Positive
    budget_seconds: Positive | None
    dataset_name: str
    file_ending: str
    orientation: str | None
    distance_unit: DistanceUnit
    axis_permutation: tuple[int, int, int]
    labels: LabelScheme
    channels: Annotated[tuple[ChannelPlan, ...], Field(min_length=1)]
    configurations: Annotated[dict[ConfigurationName, ConfigurationPlan], Field(min_length=1)]
    reasons: tuple[Reason, ...]
    instances: InstanceTargets | None = None

    @property
    def dataset_labels(self) -> LabelScheme:
        """The labels of the dataset, which predictions hold; `labels` are those of the network."""
        return self.labels if self.instances is None else self.instances.labels

    def join_borders(self, label_map: NDArray[np.integer]) -> NDArray[np.integer]:
        """Turns file values of cores and borders into those of their classes, where objects are told apart."""
        if self.instances is None:
            return label_map
        return self.instances.labels.decode(self.instances.merge(self.labels.encode(label_map)))

    @property
    def is_imported(self) -> bool:
        """Returns whether another tool made the decisions, so that the run holds its models and no training data."""
        return self.planner.startswith(IMPORTED_PLANNER)

    @model_validator(mode="after")
    def _check(self) -> "Plan":
        if sorted(self.axis_permutation) != [0, 1, 2]:
            msg = f"axis_permutation must hold 0, 1 and 2 once each (got {self.axis_permutation})"
            raise ValueError(msg)
        if self.orientation is not None:
            try:
                compute_reorientation(self.orientation, self.orientation)
            except VolumeError as error:
                msg = f"orientation must have one letter of each of R L, A P and S I (got {self.orientation!r})"
                raise ValueError(msg) from error
        if self.instances is not None and self.labels != self.instances.target_labels:
            msg = "labels must be core and border of each class in instances.labels; plan again with --task instances"
            raise ValueError(msg)
        for name, configuration in self.configurations.items():
            self._check_names(name, configuration)
        for name, configuration in self.configurations.items():
            self._check_configuration(name, configuration)
        return self

    def list_segmenting(self) -> tuple[str, ...]:
        """Lists the configurations that segment: all but those that find boxes for others."""
        return tuple(name for name, part in self.configurations.items() if not part.network.finds_boxes)

    def list_stages(self, configuration: str) -> tuple[str, ...]:
        """Lists the configurations that predict one after the other, in training order; the given one is last."""
        stages = [configuration]
        while (previous := self.configurations[stages[0]].previous_configuration) is not None:
            if previous in stages:  # in a plan that is still being checked
                msg = (
                    f"configurations.{configuration}.previous_stage must not lead back to a configuration itself "
                    f"(got {' -> '.join((previous, *stages))})"
                )
                raise ValueError(msg)
            stages.insert(0, previous)
        return tuple(stages)

    def _check_names(self, name: str, chosen: ConfigurationPlan) -> None:
        named = {"data_of": chosen.data_of, "previous_stage.configuration": chosen.previous_configuration}
        for field, other in named.items():
            if other is not None and other not in self.configurations:
                msg = f"configurations.{name}.{field} must name one of {', '.join(self.configurations)} (got {other!r})"
                raise ValueError(msg)

    def _check_configuration(self, name: str, chosen: ConfigurationPlan) -> None:
        self.list_stages(name)
        labels = chosen.choose_network_labels(self.labels)
        misplaced = find_content_problems(chosen.training.transforms, self.channels, labels)
        if misplaced:
            raise ValueError("; ".join(f"configurations.{name}.{problem}" for problem in misplaced))
        extra = 0 if chosen.previous_stage is None else chosen.previous_stage.count_channels(self.labels)
        expected = {
            "input_channels": (len(self.channels) + extra) * chosen.slice_count,
            "output_channels": labels.output_channel_count,
        }
        for field, count in expected.items():
            if getattr(chosen.network, field) != count:
                msg = f"configurations.{name}.network.{field} must be {count}, as channels and labels demand"
                raise ValueError(msg)
        problems = list_loss_problems(chosen.training.losses, labels)
        if problems:
            msg = f"configurations.{name}.training.losses: {'; '.join(problems)}"
            raise ValueError(msg)
        if self.instances is None and chosen.network.finds_objects:
            msg = (
                f"configurations.{name}.network must not be of the family {chosen.network.family}, which finds "
                f"objects, where these are not told apart; plan again with --task instances"
            )
            raise ValueError(msg)
        if self.instances is not None and self.instances.centre_steps and chosen.network.finds_objects:
            msg = (
                f"configurations.{name}.network must not be of the family {chosen.network.family}, which draws cores "
                f"and borders alone, where centre distances are learned; plan again without --targets centre_distance"
            )
            raise ValueError(msg)
        if self.instances is not None and chosen.separates_objects:
            msg = (
                f"configurations.{name}.training.losses must tell objects apart by components: cores and borders leave "
                f"no voxels of background between objects of instancesTr to be drawn"
            )
            raise ValueError(msg)
        owner = self.configurations[chosen.data_of]
        if chosen.separates_objects != owner.separates_objects:
            msg = (
                f"configurations.{name}.training.losses and those of {chosen.data_of}, whose preprocessed data it "
                f"shares, must both tell objects apart by instances, or neither"
            )
            raise ValueError(msg)

    def get_configuration(self, name: ConfigurationName) -> ConfigurationPlan:
        """Returns the configuration of that name.

        Raises:
            PlanError: It is not planned.
        """
        if name not in self.configurations:
            msg = f"the plan has no configuration {name!r}; it has: {', '.join(self.configurations)}"
            if self.budget_seconds is not None and {name, *self.configurations} >= {"3d_fullres", "3d_lowres"}:
                more = "longer" if name == "3d_fullres" else "shorter"
                msg = f"{msg}, as its time decides the resolution: plan with a {more} --budget, or leave out {name}"
            raise PlanError(msg)
        return self.configurations[name]

    def prune(self, name: ConfigurationName, depth: int) -> "Plan":
        """Returns the plan with the network of a configuration pruned.

        Raises:
            PlanError: The configuration is not planned, or its network cannot be pruned to that depth.
        """
        configuration = self.get_configuration(name)
        try:
            network = configuration.network.prune(depth)
        except ValueError as error:
            msg = f"configurations.{name}.network: {error}; choose a depth anew with autoseg select, or name none"
            raise PlanError(msg) from error
        pruned = configuration.model_copy(update={"network": network})
        return self.model_copy(update={"configurations": self.configurations | {name: pruned}})
