"""Preprocessed training cases together with the maps of the previous stage."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from autoseg.errors import TrainingError
from autoseg.nonzero_region import Box
from autoseg.plan.document import Plan
from autoseg.preprocessing.cache import CachedCase, open_case
from autoseg.preprocessing.stored_array import LazyArray
from autoseg.run_folder import RunFolder
from autoseg.stages.boundary import CLASS_MARK, BoundaryInput
from autoseg.stages.inputs import build_previous_input
from autoseg.stages.previous_input import PreviousStageInput
from autoseg.stages.stored_maps import open_stage_map


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStageInput:
    """Input of a training from the previous stage, stored for all its cases.

    Attributes:
        folder: Folder of the stored maps.
        input: Conversion of maps to channels.
        digest: Digest of the weights that predicted: another digest means other input.
    """

    folder: Path
    input: PreviousStageInput
    digest: str

    def list_cases(self, data_folder: Path, names: Sequence[str]) -> tuple[str, ...]:
        """Lists what is trained on, by names for `open_case`: the cases, or each class of each case.

        Raises:
            RunError: A file is missing or damaged, or the map lies on another grid.
            TrainingError: No class of the cases was predicted, so there is no boundary.
        """
        if not isinstance(self.input, BoundaryInput):
            return tuple(names)
        parts: list[str] = []
        for name in names:
            parts.extend(self.input.list_parts(name, self._open_map(open_case(data_folder, name))))
        if not parts:
            msg = (
                f"{self.input.plan.configuration} predicts no class with a boundary in {len(names)} cases "
                f"({', '.join(names[:5])}{', ...' if len(names) > 5 else ''}), so there is nothing to correct; train "
                f"it longer"
            )
            raise TrainingError(msg)
        return tuple(parts)

    def open_case(self, data_folder: Path, name: str) -> CachedCase:
        """Opens a preprocessed case, or a part from `list_cases`, as it is trained on.

        Raises:
            RunError: A file is missing or damaged, or the map lies on another grid.
        """
        case = open_case(data_folder, name.partition(CLASS_MARK)[0])
        stage_map = self._open_map(case)
        if isinstance(self.input, BoundaryInput):
            return self.input.open_part(case, stage_map, name, key=(self.folder, self.digest))
        return self.input.add_to_case(case, stage_map)

    def _open_map(self, case: CachedCase) -> LazyArray:
        return open_stage_map(self.folder, case.name, case.geometry)


def open_training_case(run: RunFolder, plan: Plan, configuration: str, name: str) -> CachedCase:
    """Opens a whole preprocessed case with everything that the network of a configuration gets.

    Raises:
        RunError: A file is missing or damaged.
    """
    part = plan.configurations[configuration]
    case = open_case(run.preprocessed(part.data_of), name)
    if part.previous_stage is None:
        return case
    return replace(case, further_maps=(open_stage_map(run.preprocessed(configuration), name, case.geometry),))


def read_network_input(case: CachedCase, plan: Plan, configuration: str) -> Float32[np.ndarray, "channel z y x"]:
    """Reads the whole image of a case from `open_training_case`, with the channels from the previous stage."""
    image: Float32[np.ndarray, "channel z y x"] = case.image[:]
    previous = build_previous_input(plan, configuration)
    if previous is None:
        return image
    (stage_map,) = case.further_maps
    return previous.append_to(image, stage_map[:])


def read_box(case: CachedCase, plan: Plan, configuration: str) -> Box | None:
    """Reads the box in which the network of a configuration predicts a case from `open_training_case`; None for all."""
    previous = build_previous_input(plan, configuration)
    if previous is None:
        return None
    (stage_map,) = case.further_maps
    return previous.find_box(stage_map[:])
