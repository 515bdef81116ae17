"""Maps of uncertainty of a prediction: recorded with the logits, and written for every image."""

from collections.abc import Sequence
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
from autoseg.inference.view_disagreement import compute_uncertainty, record_normalizers
from autoseg.preprocessing.case import CaseGeometry
from autoseg.stages.staged_case import StagedCase
from autoseg.workflows.predict.recorded_maps import MAP_ENDING, Maps

UNCERTAINTY_FOLDER: Final = "uncertainty"
TITLES: Final = ("entropy", "disagreement")


@dataclass(frozen=True, slots=True, kw_only=True)
class UncertaintyRecorder:
    """Models that predict, and whose folds, mirrored views and windows are compared.

    Attributes:
        models: The models, each with one more channel.
        out: Folder of the label maps.
    """

    models: Ensemble
    out: Path

    def find_paths(self, case: str) -> tuple[Path, ...]:
        """Returns the files of a case."""
        return tuple(self.out / UNCERTAINTY_FOLDER / f"{case}_{title}{MAP_ENDING}" for title in TITLES)

    def predict_case(
        self, case: str, read: Sequence[StagedCase], *, options: PredictionOptions, on_window: OnWindow
    ) -> tuple[tuple[Tensor, ...], Maps]:
        """Computes the logits of a case, which are those of a plain prediction, and its maps in steps of 1 / 255.

        The maps are computed on the network's grid and interpolated from there. For several models, they are the means
        over them: how these differ from each other is not part of them.
        """
        recorded = self.models.predict_case(read, options=options, on_window=on_window)
        total = np.zeros(0, np.uint16)
        for model, part, member in zip(self.models.members, recorded, read, strict=True):
            compute = partial(_compute_maps, model=model, geometry=member.geometry)
            restored = retry_with_logits_in_ram(compute, [part], purpose="computing maps of uncertainty")
            total = restored if len(recorded) == 1 else total + restored.astype(np.uint16)
        means = (total // len(recorded)).astype(np.uint8) if len(recorded) > 1 else total
        return tuple(part[:-1] for part in recorded), dict(zip(self.find_paths(case), means, strict=True))


def _compute_maps(
    recorded: Sequence[Tensor], *, model: SegmentationModel, geometry: CaseGeometry
) -> UInt8[np.ndarray, "2 file_z file_y file_x"]:
    uncertainty = compute_uncertainty(recorded[0], model.plan.labels)
    return restore_maps(uncertainty, geometry, resampling=model.configuration_plan.resampling)


def build_uncertainty_recorder(models: Ensemble, out: Path) -> UncertaintyRecorder:
    """Builds what predicts with models and computes maps of uncertainty."""
    members = tuple(record_normalizers(member) for member in models.members)
    return UncertaintyRecorder(models=Ensemble(members=members), out=out)
