"""Ensembles of models of several configurations: probabilities are averaged on the grid of the image.

Logits of different configurations lie on different grids and are on different scales, so that, as in nnU-Net, the mean
is that of probabilities where the image is. They are averaged strip by strip, as each is interpolated: neither
classes times full resolution nor a file of probabilities ever exists. In memory are the logits of all members.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int16, Integer
from torch import Tensor

from autoseg.errors import PredictionError
from autoseg.geometry import Grid
from autoseg.inference.execution.preparation import ExecutionChoice
from autoseg.inference.model import SegmentationModel, load_model
from autoseg.inference.options import DEFAULT_OPTIONS, ONE_IMAGE, Decoding, PredictionOptions, Workload
from autoseg.inference.restoring.decoding import decode_probabilities
from autoseg.inference.restoring.dice_decoding import restore_dice_label_map
from autoseg.inference.restoring.restore_grid import (
    Location,
    iterate_mean_probabilities,
    iterate_with_logits_in_ram,
    retry_with_logits_in_ram,
)
from autoseg.inference.sliding_window.prediction import OnWindow
from autoseg.labels import LabelScheme
from autoseg.nonzero_region import slice_box
from autoseg.plan.document import Plan
from autoseg.plan.preprocessing import ResamplingPlan
from autoseg.preprocessing.case import CaseGeometry
from autoseg.run_folder import RunFolder
from autoseg.runtime.precision import Precision
from autoseg.stages.staged_case import StagedCase

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """One or several models with the interface of one.

    Attributes:
        members: The models, at least one.
    """

    members: tuple[SegmentationModel, ...]

    @property
    def plan(self) -> Plan:
        """The plan of the first member; labels, channels and axes are the same for all."""
        return self.members[0].plan

    @property
    def stages(self) -> tuple[SegmentationModel, ...]:
        """All models of a prediction, those of the first member first."""
        return tuple(stage for member in self.members for stage in member.stages)

    def preprocess(
        self, array: Float32[np.ndarray, "channel z y x"], grid: Grid, *, warn: Callable[[str], None] = logger.warning
    ) -> tuple[StagedCase, ...]:
        """Preprocesses a volume for each member; `warn` receives each warning about it, also while it is predicted.

        Raises:
            PredictionError: The volume does not fit the models.
        """
        told: set[str] = set()

        def warn_once(text: str) -> None:  # every member has the same
            if text not in told:
                told.add(text)
                warn(text)

        return tuple(member.preprocess(array, grid, warn=warn_once) for member in self.members)

    def predict_case(
        self,
        cases: Sequence[StagedCase],
        *,
        options: PredictionOptions = DEFAULT_OPTIONS,
        on_window: OnWindow | None = None,
    ) -> tuple[Float32[Tensor, "class _z _y _x"], ...]:
        """Computes the logits of each member."""
        return tuple(
            member.predict_case(case, options=options, on_window=on_window)
            for member, case in zip(self.members, cases, strict=True)
        )

    def restore_label_map(
        self,
        logits: Sequence[Float32[Tensor, "class _z _y _x"]],
        geometries: Sequence[CaseGeometry],
        *,
        decoding: Decoding = "argmax",
    ) -> Integer[np.ndarray, "file_z file_y file_x"]:
        """Restores the label map on the grid of the file with the values of the dataset's files."""
        if len(self.members) == 1:
            return self.members[0].restore_label_map(logits[0], geometries[0], decoding=decoding)
        resamplings = [member.configuration_plan.resampling for member in self.members]
        labels = self.plan.labels
        if decoding == "dice":
            return labels.decode(restore_dice_label_map(logits, geometries, resamplings, labels=labels))
        restore = partial(restore_mean_label_map, geometries=geometries, resamplings=resamplings, labels=labels)
        return labels.decode(retry_with_logits_in_ram(restore, logits))

    def iterate_probabilities(
        self, logits: Sequence[Float32[Tensor, "class _z _y _x"]], geometries: Sequence[CaseGeometry]
    ) -> Iterator[tuple[Location, Float32[np.ndarray, "class slab_z slab_y slab_x"]]]:
        """Yields mean probabilities slice by slice with their location."""

        def iterate(
            parts: Sequence[Tensor],
        ) -> Iterator[tuple[tuple[Location, Float32[np.ndarray, "class slab_z slab_y slab_x"]], ...]]:
            of_members = [
                member.iterate_probabilities(part, geometry)
                for member, part, geometry in zip(self.members, parts, geometries, strict=True)
            ]
            return zip(*of_members, strict=True)

        for slices in iterate_with_logits_in_ram(iterate, logits):
            location, total = slices[0]
            for _, probabilities in slices[1:]:
                total = total + probabilities
            yield location, total / np.float32(len(slices))

    def predict_volume(
        self, array: Float32[np.ndarray, "channel z y x"], grid: Grid, *, options: PredictionOptions = DEFAULT_OPTIONS
    ) -> Integer[np.ndarray, "z y x"]:
        """Predicts the label map of a volume on its own grid with the values of the dataset's files.

        Raises:
            PredictionError: The volume does not fit the models.
        """
        cases = self.preprocess(array, grid)
        logits = self.predict_case(cases, options=options)
        label_map = self.restore_label_map(logits, [case.geometry for case in cases], decoding=options.decoding)
        return self.plan.join_borders(label_map)

    def describe(self) -> str:
        """Describes each member in one line."""
        lines = [member.describe() for member in self.members]
        return lines[0] if len(lines) == 1 else "\n".join(["mean of the probabilities of:", *lines])


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberChoice:
    """A member to load; None leaves the choice to `load_model`.

    Attributes:
        pruned_depth: Depth to which its networks are pruned; None for whole ones.
    """

    configuration: str | None
    folds: tuple[str, ...] | None
    pruned_depth: int | None = None


def load_ensemble(
    run: str | Path | RunFolder,
    choices: Sequence[MemberChoice],
    *,
    device: str = "auto",
    precision: Precision = "auto",
    execution: ExecutionChoice = "auto",
    workload: Workload = ONE_IMAGE,
) -> Ensemble:
    """Loads models of one run, see `load_model`.

    Raises:
        PredictionError: Something is not trained, or the members were trained on other labels, channels or axes.
        PlanError: The networks of a member cannot be pruned as chosen.
        RunError: There is no run, or a checkpoint is damaged.
        DeviceError: There is no such device, or it has no fast way to compute in this precision, or no such execution.
    """
    members = tuple(
        load_model(
            run,
            configuration=choice.configuration,
            folds=choice.folds,
            pruned_depth=choice.pruned_depth,
            device=device,
            precision=precision,
            execution=execution,
            workload=workload,
        )
        for choice in choices
    )
    check_members_compatible(members)
    return Ensemble(members=members)


def check_members_compatible(members: Sequence[SegmentationModel]) -> None:
    """Checks that the outputs of models have the same meaning.

    Raises:
        PredictionError: They were trained on other labels, channels or axes.
    """
    first = members[0]
    for member in members[1:]:
        if get_output_signature(member.plan) != get_output_signature(first.plan):
            msg = (
                f"the members of an ensemble must have the same labels, channels and axes, but the plans that "
                f"{first.configuration} and {member.configuration} were trained by differ in them; train one of them "
                f"again, or predict with one: --configuration {first.configuration}"
            )
            raise PredictionError(msg)


@torch.inference_mode()
def restore_mean_label_map(
    logits: Sequence[Float32[Tensor, "class _z _y _x"]],
    geometries: Sequence[CaseGeometry],
    resamplings: Sequence[ResamplingPlan],
    *,
    labels: LabelScheme,
    strip_bytes: int | None = None,
) -> Int16[np.ndarray, "file_z file_y file_x"]:
    """Decodes the mean of the members' probabilities to internal labels on the grid of the image file.

    Labels: the class of the highest mean, the lowest of them on a tie. Regions: those whose mean is above one half.

    Arguments as in `iterate_mean_probabilities`.
    """
    first = geometries[0]
    volume = np.zeros(first.grid.shape_voxels, np.int16)
    cropped = first.reorientation.apply(volume)[slice_box(first.crop_box)]
    strips = iterate_mean_probabilities(logits, geometries, resamplings, labels=labels, strip_bytes=strip_bytes)
    for z, rows, probabilities in strips:
        cropped[z, rows] = decode_probabilities(probabilities, labels).cpu().numpy()
    return volume


def get_output_signature(plan: Plan) -> tuple[object, ...]:
    """Returns the parts of a plan that must be equal for outputs to have the same meaning."""
    channels = tuple(channel.name for channel in plan.channels)
    return plan.labels, channels, plan.orientation, plan.axis_permutation, plan.file_ending
