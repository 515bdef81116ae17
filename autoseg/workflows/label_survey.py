"""What the label maps of a dataset hold, before dataset.json says what they should."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Integer

from autoseg.dataset.draft import DraftCase
from autoseg.dataset.label_proposal import MOST_VALUES, LabelProposal, propose_labels
from autoseg.dataset.mask_joining import Combination
from autoseg.errors import VolumeError
from autoseg.geometry import Grid
from autoseg.progress import Progress
from autoseg.volume_io import list_grid_differences, read_grid, read_label_map
from autoseg.workflows.case_pool import Failure, PoolOutcome, compute_worker_count, list_problems, run_over_cases
from autoseg.workflows.case_reading import try_reading_grid
from autoseg.workflows.file_pairing import refuse

LARGEST_RANGE: Final = 2**16  # of values that are counted in a table
BYTES_PER_VOXEL: Final = 16  # file and label map; a table is filled plane by plane
VALUES_ADVICE: Final = "a label map has one value for each class"


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyJob:
    """What a worker needs for a case."""

    name: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSurvey:
    """What was found in a case.

    Attributes:
        voxels: By value; for joined masks by structure i + 1, where shared voxels count for each.
        combinations: Voxels by combination of structures, of joined masks.
        mixed: Combinations of several structures, in the order of their numbers in the joined label map.
        voxel_count: Of the whole case.
        grid_differences: How image and label map differ, empty if they do not.
    """

    name: str
    voxels: Mapping[int, int]
    combinations: Mapping[Combination, int]
    mixed: tuple[Combination, ...]
    voxel_count: int
    grid_differences: tuple[str, ...]

    def count_voxels(self, value: int) -> int:
        """Voxels of a value, or of a structure with all that lies in it; background is what no structure holds."""
        if value == 0 and self.combinations:
            return self.voxel_count - sum(self.combinations.values())
        return self.voxels.get(value, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelsFound:
    """What the label files say, whether they are label maps or were joined.

    Attributes:
        cases: Those that could be read.
        failures: The others.
    """

    cases: tuple[DraftCase, ...]
    proposal: LabelProposal
    surveys: tuple[LabelSurvey, ...]
    failures: tuple[Failure, ...]


def survey_job(job: SurveyJob) -> LabelSurvey:
    """Runs in a worker process.

    Raises:
        VolumeError: A file cannot be read, or does not hold labels.
    """
    volume = read_label_map(job.label)
    found = count_values(volume.array)
    _check_values(found, job.label)
    return LabelSurvey(
        name=job.name,
        voxels=found,
        combinations={},
        mixed=(),
        voxel_count=volume.array.size,
        grid_differences=compare_grids(job.images, volume.grid),
    )


def count_values(label_map: Integer[np.ndarray, "z y x"]) -> dict[int, int]:
    """Number of voxels by value, ascending."""
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
    jobs = [
        (
            case.name,
            SurveyJob(
                name=case.name,
                images=tuple(root / image for image in case.images),
                label=root / next(iter(case.masks.values())),
            ),
        )
        for case in cases
    ]
    count = count_workers(root, cases, bytes_per_voxel=BYTES_PER_VOXEL, requested=workers)
    outcome = run_over_cases(survey_job, jobs, workers=count, label="Reading", progress=progress)
    check_some_left(root, outcome)
    totals: Counter[int] = Counter()
    for survey in outcome.results:
        totals.update(survey.voxels)
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
    """As many processes as memory holds of the largest case."""
    grids = [try_reading_grid(root / case.images[0]) for case in cases]
    largest = max((math.prod(grid.shape_voxels) for grid in grids if grid is not None), default=0)
    return compute_worker_count(requested=requested, case_count=len(cases), bytes_per_case=largest * bytes_per_voxel)


def check_some_left(root: Path, outcome: PoolOutcome[LabelSurvey]) -> None:
    """Checks that not all cases failed.

    Raises:
        DatasetError: Names what is wrong with them.
    """
    if not outcome.results:
        refuse(root, list_problems(outcome.failures))


def keep_surveyed(cases: Sequence[DraftCase], surveys: Sequence[LabelSurvey]) -> tuple[DraftCase, ...]:
    """The cases that could be read."""
    names = {survey.name for survey in surveys}
    return tuple(case for case in cases if case.name in names)


def compare_grids(images: Sequence[Path], label: Grid) -> tuple[str, ...]:
    """In what the grids of images differ from that of their label map."""
    grids = [read_grid(image) for image in images]
    return tuple(dict.fromkeys(difference for grid in grids for difference in list_grid_differences(grid, label)))


def _check_values(found: Mapping[int, int], path: Path) -> None:
    if len(found) > MOST_VALUES:
        msg = (
            f"{path} holds {len(found)} different values, from {min(found)} to {max(found)}: an image, numbered "
            f"objects, or a label map that was interpolated; {VALUES_ADVICE}"
        )
        raise VolumeError(msg)
