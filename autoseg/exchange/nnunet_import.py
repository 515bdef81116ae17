"""Translates nnU-Net's plans.json, dataset.json and checkpoints into a plan."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

import autoseg
from autoseg.errors import ExchangeError
from autoseg.exchange.nnunet_checkpoint import NnunetCheckpoint
from autoseg.exchange.nnunet_folders import NnunetModel, read_labelled_channels
from autoseg.exchange.nnunet_networks import build_network_plan
from autoseg.exchange.nnunet_preprocessing import (
    PICTURE_READER,
    build_channels,
    build_resampling,
    find_orientation,
)
from autoseg.exchange.nnunet_schema import NnunetConfiguration, NnunetPlans, read_nnunet_plans, select_configuration
from autoseg.exchange.nnunet_trainers import build_trainer_plan
from autoseg.labels import LabelScheme
from autoseg.plan.decisions import Reason
from autoseg.plan.document import IMPORTED_PLANNER, ConfigurationPlan, Plan
from autoseg.plan.preprocessing import ChannelPlan
from autoseg.plan.stages import MasksOfPreviousStage

PLANNED_MEMORY_GB: Final = {"nnUNetPlannerResEncL": 24.0, "nnUNetPlannerResEncXL": 40.0}
USUAL_MEMORY_GB: Final = 8.0
PREPROCESSOR: Final = "DefaultPreprocessor"
LABEL_MANAGER: Final = "LabelManager"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """The model, which all its configurations share."""

    model: NnunetModel
    checkpoint: NnunetCheckpoint
    plans: NnunetPlans
    labels: LabelScheme
    channel_names: tuple[str, ...]

    @property
    def where(self) -> str:
        return str(self.model.plans_file)


def import_plan(model: NnunetModel, checkpoint: NnunetCheckpoint) -> Plan:
    """Translates the plan of a model: its configuration, and for a cascade those it depends on.

    Args:
        model: The model folder.
        checkpoint: The checkpoint of any fold; it names configuration, trainer and mirroring axes.

    Raises:
        ExchangeError: autoseg cannot express the model; the message names the difference.
        DocumentError: plans.json or dataset.json is incomplete.
    """
    dataset = read_labelled_channels(model)
    source = _Source(
        model=model,
        checkpoint=checkpoint,
        plans=read_nnunet_plans(model.plans_file),
        labels=dataset.labels,
        channel_names=dataset.channel_names,
    )
    if source.plans.label_manager != LABEL_MANAGER:
        msg = f"{source.where} interprets labels with {source.plans.label_manager}, expected {LABEL_MANAGER}"
        raise ExchangeError(msg)
    try:
        return _build_plan(source, dataset.file_ending)
    except ValidationError as error:
        problems = "; ".join(_describe(problem) for problem in error.errors())
        msg = f"{source.where} describes what autoseg cannot express: {problems}"
        raise ExchangeError(msg) from error


def _describe(problem: ErrorDetails) -> str:
    place = ".".join(str(step) for step in problem["loc"])
    text = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {text}" if place else text


def _build_plan(source: _Source, file_ending: str) -> Plan:
    names = _list_needed(source)
    found = {name: _select(source, name) for name in names}
    first, second, third = source.plans.transpose_forward
    return Plan(
        autoseg_version=autoseg.__version__,
        planner=f"{IMPORTED_PLANNER} {source.plans.experiment_planner_used}",
        accelerator_memory_gb=PLANNED_MEMORY_GB.get(source.plans.experiment_planner_used, USUAL_MEMORY_GB),
        budget_seconds=None,
        dataset_name=source.plans.dataset_name,
        file_ending=file_ending,
        orientation=find_orientation(source.plans, where=source.where),
        distance_unit="pixel" if source.plans.image_reader_writer == PICTURE_READER else "mm",
        axis_permutation=(first, second, third),
        labels=source.labels,
        channels=_build_common_channels(source, found),
        configurations={name: _build_configuration(source, name, part) for name, part in found.items()},
        reasons=_explain(source),
    )


def _list_needed(source: _Source) -> list[str]:
    """Lists the needed configurations; the imported one is last, behind those that a cascade depends on."""
    own = _select(source, source.checkpoint.configuration)
    needed = [own.previous_stage, own.inherits_from if own.previous_stage else None, source.checkpoint.configuration]
    return [name for name in dict.fromkeys(needed) if name is not None]


def _select(source: _Source, name: str) -> NnunetConfiguration:
    chosen = select_configuration(source.plans, name, where=source.where)
    if chosen.preprocessor_name != PREPROCESSOR:
        msg = (
            f"{source.where}: {name} preprocesses with {chosen.preprocessor_name}, which autoseg does not have; "
            f"only models of nnU-Net's {PREPROCESSOR} can be imported"
        )
        raise ExchangeError(msg)
    return chosen


def _build_common_channels(source: _Source, found: dict[str, NnunetConfiguration]) -> tuple[ChannelPlan, ...]:
    """Builds the channels, whose normalization must be the same for all configurations."""
    variants = {
        name: build_channels(source.channel_names, part, source.plans, where=source.where)
        for name, part in found.items()
    }
    own = variants[source.checkpoint.configuration]
    different = [name for name, channels in variants.items() if channels != own]
    if different:
        msg = (
            f"{source.where}: {source.checkpoint.configuration} normalizes in another way than "
            f"{', '.join(different)}, on which it builds; autoseg has one normalization for all"
        )
        raise ExchangeError(msg)
    return own


def _build_configuration(source: _Source, name: str, part: NnunetConfiguration) -> ConfigurationPlan:
    where = f"{source.where}: {name}"
    previous = MasksOfPreviousStage(configuration=part.previous_stage) if part.previous_stage else None
    extra = 0 if previous is None else previous.count_channels(source.labels)
    network = build_network_plan(
        part,
        input_channels=len(source.channel_names) + extra,
        output_channels=source.labels.output_channel_count,
        where=where,
    )
    is_own = name == source.checkpoint.configuration
    training = build_trainer_plan(
        part.patch_size,
        batch_size=part.batch_size,
        batch_dice=part.batch_dice,
        is_cascade=part.previous_stage is not None,
        mirror_axes=source.checkpoint.mirror_axes if is_own else tuple(range(len(part.patch_size))),
    )
    return ConfigurationPlan(
        dimensions=network.dimensions,
        spacing_mm=part.spacing,
        median_shape_voxels=part.median_image_size_in_voxels,
        patch_voxels=part.patch_size,
        border="zeros",
        previous_stage=previous,
        data_of=part.inherits_from if part.previous_stage and part.inherits_from else name,
        resampling=build_resampling(part, where=where),
        network=network,
        training=training,
    )


def _explain(source: _Source) -> tuple[Reason, ...]:
    plans, name, trainer = source.plans, source.checkpoint.configuration, source.checkpoint.trainer
    mirrored = ", ".join(str(axis) for axis in source.checkpoint.mirror_axes) or "none"
    reader = find_orientation(plans, where=source.where)
    facts: Sequence[tuple[str, str, str]] = (
        (
            f"{name}: origin",
            f"imported from {source.model.name}",
            f"nnU-Net's planner {plans.experiment_planner_used} decided everything about {plans.dataset_name} "
            f"({plans.plans_name}); no dataset was measured here",
        ),
        (
            f"{name}: orientation",
            reader or "as stored",
            f"nnU-Net read the training images with {plans.image_reader_writer}, which "
            + ("brings them to this orientation" if reader else "leaves them as they are stored"),
        ),
        (
            f"{name}: mirrored axes",
            mirrored,
            f"the checkpoints of {trainer} allow these in prediction",
        ),
        (
            f"{name}: training",
            "that of nnUNetTrainer",
            f"model folders record the name of the trainer ({trainer}) but not what it did; the default stands "
            f"here, and nothing but batch size and mirroring matters to prediction",
        ),
    )
    return tuple(Reason(subject=subject, value=value, because=because) for subject, value, because in facts)
