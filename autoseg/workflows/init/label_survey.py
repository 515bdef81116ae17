"""Surveys the values in the label maps of a folder that has no dataset.json yet."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Integer

from autoseg.dataset.drafting.draft import DraftCase
from autoseg.dataset.drafting.label_proposal import MOST_VALUES, LabelProposal, propose_labels
from autoseg.dataset.drafting.mask_joining import Combination
from autoseg.errors import VolumeError
from autoseg.geometry import Grid
from autoseg.processes.case_pool import Failure, PoolOutcome, compute_worker_count, list_problems, run_over_cases
from autoseg.processes.progress import Progress
from autoseg.volume_io import list_grid_differences, read_grid, read_label_map
from autoseg.workflows.cases.reading import try_reading_grid
from autoseg.workflows.init.file_pairing import refuse

LARGEST_RANGE: Final = 2**16  # of values that can be counted in a table
BYTES_PER_VOXEL: Final = 16  # file and label map; a table is filled plane by plane
VALUES_ADVICE: Final = "a label map has one value for each class"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSurvey:
    """Label values of a case.

    Attributes:
        name: Name of the case.
        voxels: Number of voxels by value; for joined masks by structure i + 1, where shared voxels count for each.
        combinations: Number of voxels by combination of structures, for joined masks.
        mixed: Combinations of several structures, in the order of their numbers in the joined label map.
        voxel_count: Number of voxels of the whole case.
        grid_differences: Differences between the grids of image and label map.
    """

    name: str
    voxels: Mapping[int, int]
    combinations: Mapping[Combination, int]
    mixed: tuple[Combination, ...]
    voxel_count: int
    grid_differences: tuple[str, ...]

    def count_voxels(self, value: int) -> int:
        """Counts the voxels of a value, or of a structure including those inside it; 0 is what no structure covers."""
        if value == 0 and self.combinations:
            return self.voxel_count - sum(self.combinations.values())
        return self.voxels.get(value, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelsFound:
    """Labels found in a folder, in label maps or in joined masks.

    Attributes:
        cases: Cases that could be read.
        proposal: Proposed names and values.
        surveys: Label values of each of these cases.
        failures: Cases that could not be read.
    """

    cases: tuple[DraftCase, ...]
    proposal: LabelProposal
    surveys: tuple[LabelSurvey, ...]
    failures: tuple[Failure, ...]


def survey_label_map(case: DraftCase, *, root: Path) -> LabelSurvey:
    """Counts the values of one label map, in a worker process.

    Raises:
        VolumeError: A file cannot be read, or does not hold labels.
    """
    path = root / next(iter(case.masks.values()))
    volume = read_label_map(path)
    found = count_values(volume.array)
    _check_values(found, path)
    return LabelSurvey(
        name=case.name,
        voxels=found,
        combinations={},
        mixed=(),
        voxel_count=volume.array.size,
        grid_differences=compare_grids([root / image for image in case.images], volume.grid),
    )


def count_values(label_map: Integer[np.ndarray, "z y x"]) -> dict[int, int]:
    """Counts voxels by value, ascending."""
    lowest, highest = int(label_map.min()), int(label_map.max())
    if highest - lowest >= LARGEST_RANGE:
        values, numbers = np.unique(label_map, return_counts=True)
        return dict(zip(values.tolist(), numbers.tolist(), strict=True))
    counts = np.zeros(highest - lowest + 1, np.int64)
    for plane in label_map:
        counts += np.bincount((plane - lowest).ravel(), minlength=counts.size)
    return {int(index) + lowest: int(counts[index]) for index in np.flatnonzero(counts)}


def survey_label_maps(
    root: Path, cases: Sequence[DraftCase], *, workers: int | None, progress: Progress
) -> LabelsFound:
    """Reads the label map of every case and proposes names for its values.

    Raises:
        DatasetError: No label map can be used.
    """
    jobs = [(case.name, case) for case in cases]
    survey = partial(survey_label_map, root=root)
    count = count_workers(root, cases, bytes_per_voxel=BYTES_PER_VOXEL, requested=workers)
    outcome = run_over_cases(survey, jobs, workers=count, label="Reading", progress=progress)
    check_some_left(root, outcome)
    totals: Counter[int] = Counter()
    for found in outcome.results:
        totals.update(found.voxels)
    if len(totals) > MOST_VALUES:
        problem = f"the label maps hold {len(totals)} different values, as numbered objects do; {VALUES_ADVICE}"
        refuse(root, [problem])
    if set(totals) <= {0}:
        refuse(root, ["the label maps hold nothing but background"])
    structure = next(iter(cases[0].masks))
    return LabelsFound(
        cases=keep_surveyed(cases, outcome.results),
        proposal=propose_labels(totals, structure=structure),
        surveys=outcome.results,
        failures=outcome.failures,
    )


def count_workers(root: Path, cases: Sequence[DraftCase], *, bytes_per_voxel: int, requested: int | None) -> int:
    """Returns as many processes as memory allows for the largest case."""
    grids = [try_reading_grid(root / case.images[0]) for case in cases]
    largest = max((math.prod(grid.shape_voxels) for grid in grids if grid is not None), default=0)
    return compute_worker_count(requested=requested, case_count=len(cases), bytes_per_case=largest * bytes_per_voxel)


def check_some_left(root: Path, outcome: PoolOutcome[LabelSurvey]) -> None:
    """Checks that not all cases failed.

    Raises:
        DatasetError: All cases failed.
    """
    if not outcome.results:
        refuse(root, list_problems(outcome.failures))


def keep_surveyed(cases: Sequence[DraftCase], surveys: Sequence[LabelSurvey]) -> tuple[DraftCase, ...]:
    """Returns the cases that could be read."""
    names = {survey.name for survey in surveys}
    return tuple(case for case in cases if case.name in names)


def compare_grids(images: Sequence[Path], label: Grid) -> tuple[str, ...]:
    """Lists the differences between the grids of images and of their label map."""
    grids = [read_grid(image) for image in images]
    return tuple(dict.fromkeys(difference for grid in grids for difference in list_grid_differences(grid, label)))


def _check_values(found: Mapping[int, int], path: Path) -> None:
    if len(found) > MOST_VALUES:
        msg = (
            f"{path} holds {len(found)} different values, from {min(found)} to {max(found)}: an image, numbered "
            f"objects, or a label map that was interpolated; {VALUES_ADVICE}"
        )
        raise VolumeError(msg)
