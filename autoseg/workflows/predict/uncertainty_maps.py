"""Maps of uncertainty of a prediction: recorded with the logits, and written for every image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from autoseg.inference.ensemble import Ensemble
from autoseg.inference.model import SegmentationModel
from autoseg.inference.options import PredictionOptions
from autoseg.inference.restoring.restore_grid import restore_maps, retry_with_logits_in_ram
from autoseg.inference.sliding_window.prediction import OnWindow
from autoseg.inference.sliding_window.windows import compute_window_plan
from autoseg.inference.view_disagreement import compute_uncertainty, count_samples, record_normalizers
from autoseg.preprocessing.case import CaseGeometry
from autoseg.stages.staged_case import StagedCase
from autoseg.workflows.predict.recorded_maps import MAP_ENDING, Maps

UNCERTAINTY_FOLDER: Final = "uncertainty"
TITLES: Final = ("entropy", "disagreement")
WINDOWS: Final = "overlapping windows"
WINDOWS_ALONE: Final = (
    f"warning: one fold predicts without mirrored views: the disagreement is that of {WINDOWS} alone, 0 where none "
    f"overlap, which does not mean sure; images without any {WINDOWS} get no such map"
)
NO_DISAGREEMENT: Final = (
    f"no map of disagreement, as there is a single prediction: one fold, no mirrored views, no {WINDOWS}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UncertaintyRecorder:
    """Models that predict, and whose folds, mirrored views and windows are compared.

    Attributes:
        models: The models, each with one more channel.
        out: Folder of the label maps.
        mirroring: Whether mirrored views are averaged.
    """

    models: Ensemble
    out: Path
    mirroring: bool

    @property
    def compared(self) -> tuple[str, ...]:
        """Returns in words what is averaged, and may disagree."""
        members = self.models.members
        found = {
            "folds": any(len(member.networks) > 1 for member in members),
            "mirrored views": self.mirroring and any(_has_views(member) for member in members),
            "slices across several axes": any(len(_get_plane_axes(member)) > 1 for member in members),
            "samples": any(count_samples(member) > 1 for member in members),
            WINDOWS: True,
        }
        return tuple(name for name, is_averaged in found.items() if is_averaged)

    def find_paths(self, case: str) -> tuple[Path, ...]:
        """Returns the files that every finished case has; that of the entropy is written last."""
        entropy, disagreement = self._list_paths(case)
        return (entropy,) if self.compared == (WINDOWS,) else (disagreement, entropy)

    def _list_paths(self, case: str) -> tuple[Path, ...]:
        return tuple(self.out / UNCERTAINTY_FOLDER / f"{case}_{title}{MAP_ENDING}" for title in TITLES)

    def predict_case(
        self, case: str, read: Sequence[StagedCase], *, options: PredictionOptions, on_window: OnWindow
    ) -> tuple[tuple[Tensor, ...], Maps]:
        """Computes the logits of a case, which are those of a plain prediction, and its maps in steps of 1 / 255.

        The maps are computed on the network's grid and interpolated from there. For several models, they are the means
        over them: how these differ from each other is not part of them. The disagreement of a single prediction is
        None: it would be 0 everywhere.
        """
        window_count = 0

        def count(done: int, total: int) -> None:
            nonlocal window_count
            window_count = total  # at last that of the last stage, in its box
            on_window(done, total)

        recorded = self.models.predict_case(read, options=options, on_window=count)
        total = np.zeros(0, np.uint16)
        for model, part, member in zip(self.models.members, recorded, read, strict=True):
            compute = partial(_compute_maps, model=model, geometry=member.geometry)
            restored = retry_with_logits_in_ram(compute, [part], purpose="computing maps of uncertainty")
            total = restored if len(recorded) == 1 else total + restored.astype(np.uint16)
        means = (total // len(recorded)).astype(np.uint8) if len(recorded) > 1 else total
        logits, (entropy, disagreement) = tuple(part[:-1] for part in recorded), self._list_paths(case)
        is_single = self._is_single(read, window_count, options)
        return logits, {disagreement: None if is_single else means[1], entropy: means[0]}

    def _is_single(self, read: Sequence[StagedCase], window_count: int, options: PredictionOptions) -> bool:
        """Returns whether a single prediction covers each voxel of a case."""
        if self.compared != (WINDOWS,):
            return False
        members = self.models.members
        plans = (
            compute_window_plan(part.image.shape[1:], member.configuration_plan, options.step_fraction)
            for member, part in zip(members, read, strict=True)
        )
        return (len(members) == 1 and window_count == 1) or not any(plan.overlaps for plan in plans)


def _has_views(model: SegmentationModel) -> bool:
    return bool(model.configuration_plan.training.mirror_axes)


def _get_plane_axes(model: SegmentationModel) -> tuple[int, ...]:
    return tuple(model.configuration_plan.plane_axes)


def _compute_maps(
    recorded: Sequence[Tensor], *, model: SegmentationModel, geometry: CaseGeometry
) -> UInt8[np.ndarray, "2 file_z file_y file_x"]:
    uncertainty = compute_uncertainty(recorded[0], model.plan.labels)
    return restore_maps(uncertainty, geometry, resampling=model.configuration_plan.resampling)


def list_compared(recorder: object) -> tuple[str, ...]:
    """Lists what maps of disagreement compare; nothing for a recorder that makes none."""
    return recorder.compared if isinstance(recorder, UncertaintyRecorder) else ()


def build_uncertainty_recorder(
    models: Ensemble, out: Path, *, mirroring: bool, announce: Callable[[str], None]
) -> UncertaintyRecorder:
    """Builds what predicts with models and computes maps of uncertainty.

    Args:
        models: The models.
        out: Folder of the label maps.
        mirroring: Whether mirrored views are averaged.
        announce: Receives a warning where the disagreement tells less than usual.
    """
    members = tuple(record_normalizers(member) for member in models.members)
    recorder = UncertaintyRecorder(models=Ensemble(members=members), out=out, mirroring=mirroring)
    if recorder.compared == (WINDOWS,):
        announce(WINDOWS_ALONE)
    return recorder
