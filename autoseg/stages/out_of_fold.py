"""Out-of-fold predictions: each training case is predicted by the fold of the previous stage that held it out.

Predictions for cases that the previous stage was trained on would teach a network to trust masks that are better than
those of new images will be. The fold "all" is trained on the same out-of-fold predictions.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int16

from autoseg.errors import TrainingError
from autoseg.files.network_drives import refresh_folder
from autoseg.networks.weights import hash_weights
from autoseg.plan.document import Plan
from autoseg.preprocessing.cache import open_case
from autoseg.preprocessing.case import CaseGeometry
from autoseg.run_folder import FoldFolder, RunFolder
from autoseg.stages.inputs import build_previous_input
from autoseg.stages.previous_input import PreviousStageInput
from autoseg.stages.stored_maps import PredictionSource, is_stage_map_current, write_stage_map
from autoseg.stages.training_cases import StoredStageInput


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLink:
    """A configuration of a run and the previous stage from which it gets input.

    Attributes:
        configuration: The configuration that gets the input.
        holders: Fold of the previous stage that held out each case, by case.
    """

    run: RunFolder
    plan: Plan
    configuration: str
    holders: Mapping[str, str]

    @property
    def previous(self) -> str:
        """The configuration that predicts."""
        name = self.plan.configurations[self.configuration].previous_configuration
        assert name is not None, "there is no previous stage"
        return name

    @property
    def begins_with_previous(self) -> bool:
        """Whether a training begins with the weights of the previous stage."""
        part = self.plan.configurations[self.configuration].previous_stage
        return part is not None and part.begins_with_previous

    @property
    def input(self) -> PreviousStageInput:
        """The conversion of its predictions to input channels."""
        found = build_previous_input(self.plan, self.configuration)
        assert found is not None, "there is no previous stage"
        return found

    @property
    def folds(self) -> dict[str, FoldFolder]:
        """The folds of the previous stage, all of which must be trained."""
        names = sorted(set(self.holders.values()), key=int)
        return {name: self.run.fold(self.previous, name) for name in names}

    @property
    def folder(self) -> Path:
        """Folder of the stored maps."""
        return self.run.preprocessed(self.configuration)

    def list_untrained_folds(self) -> tuple[str, ...]:
        """Lists folds of the previous stage whose training is not finished."""
        for fold in self.folds.values():
            refresh_folder(fold.root)
        return tuple(name for name, fold in self.folds.items() if not fold.final_checkpoint.exists())

    def find_sources(self) -> dict[str, PredictionSource]:
        """Finds the weights that predict each case, sorted by case.

        Raises:
            RunError: A checkpoint cannot be read.
        """
        weights = {name: hash_weights(fold.final_checkpoint) for name, fold in self.folds.items()}
        return {
            case: PredictionSource(configuration=self.previous, fold=fold, weights_sha256=weights[fold])
            for case, fold in sorted(self.holders.items())
        }

    def list_outdated_cases(self, sources: Mapping[str, PredictionSource]) -> list[str]:
        """Lists cases whose map is missing, damaged, or was made by other weights, for another grid or box.

        Raises:
            RunError: A preprocessed case is missing or damaged.
        """
        box = self.input.plan
        is_current = partial(
            is_stage_map_current, self.folder, margin_mm=box.box_margin_mm, minimum_mm3=box.box_minimum_mm3
        )
        return [
            case
            for case, source in sources.items()
            if not is_current(case, source=source, geometry=self.read_geometry(case))
        ]

    def read_geometry(self, case: str) -> CaseGeometry:
        """Reads the geometry of a preprocessed case of the configuration that gets the map.

        Raises:
            RunError: It is missing or damaged.
        """
        return open_case(self.run.preprocessed(self.plan.configurations[self.configuration].data_of), case).geometry

    def write_map(self, case: str, stage_map: Int16[np.ndarray, "z y x"], *, source: PredictionSource) -> None:
        """Stores the map of a case.

        Raises:
            RunError: The preprocessed case is missing or damaged, or the disk is full.
        """
        write_stage_map(
            self.folder,
            case,
            stage_map,
            source=source,
            geometry=self.read_geometry(case),
            patch_voxels=self.plan.configurations[self.configuration].patch_voxels,
            margin_mm=self.input.plan.box_margin_mm,
            minimum_mm3=self.input.plan.box_minimum_mm3,
        )

    def build_stored_input(self, sources: Mapping[str, PredictionSource]) -> StoredStageInput:
        """Builds the input of a training; the maps of all cases must be stored."""
        return StoredStageInput(folder=self.folder, input=self.input, digest=digest_sources(sources))


def digest_sources(sources: Mapping[str, PredictionSource]) -> str:
    """Computes the digest of the weights that predict the cases; it is part of a training's identity."""
    text = "\n".join(f"{case} {source.model_dump_json()}" for case, source in sources.items())
    return hashlib.sha256(text.encode()).hexdigest()


def find_holders(held_out: Sequence[Collection[str]], cases: Iterable[str]) -> dict[str, str]:
    """Finds the fold that holds out each case; the first one, if there are several.

    Args:
        held_out: The held-out cases of fold "0", "1", ...
        cases: All that are trained on.

    Raises:
        TrainingError: A case is held out by no fold.
    """
    holders: dict[str, str] = {}
    for index, names in enumerate(held_out):
        for case in names:
            holders.setdefault(case, str(index))
    lost = sorted(set(cases) - holders.keys())
    if lost:
        msg = (
            f"a cascade needs for every case a fold that holds it out, found none for {len(lost)} of "
            f"{len(lost) + len(holders)} ({', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''}); "
            f"plan again with folds that hold every case out, or train 3d_fullres"
        )
        raise TrainingError(msg)
    return holders
