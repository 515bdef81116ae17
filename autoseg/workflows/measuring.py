"""Measures every case of a dataset and collects everything that is wrong with it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from autoseg.dataset import Case, Dataset
from autoseg.errors import DatasetError
from autoseg.fingerprint import Fingerprint
from autoseg.geometry import IDENTITY, Grid, compute_reorientation, find_distance_unit
from autoseg.labels import LabelScheme
from autoseg.measurement import CaseMeasurement, build_fingerprint, measure_case
from autoseg.problems import Problem, has_unnamed_cases
from autoseg.progress import Progress
from autoseg.run_folder import RunFolder
from autoseg.workflows.case_pool import (
    CaseSize,
    PoolOutcome,
    compute_worker_count,
    find_largest,
    list_problems,
    run_over_cases,
    write_failure_log,
)
from autoseg.workflows.case_reading import read_labelled_case
from autoseg.workflows.dataset_corrections import diagnose

# Measured: 11 bytes a voxel for one channel of CT (512 x 512 x 160), 16 for two channels of MR; a third is added.
BYTES_PER_IMAGE_VOXEL = 7
BYTES_PER_LABEL_VOXEL = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuringJob:
    """What a worker needs to measure one case."""

    case: Case
    labels: LabelScheme
    channel_names: tuple[str, ...]
    orientation: str | None


def measure_dataset(
    dataset: Dataset, run: RunFolder, *, grids: Mapping[str, Grid], workers: int | None, progress: Progress
) -> Fingerprint:
    """Reads, checks and measures all cases.

    Args:
        dataset: To be measured.
        run: Where tracebacks of unexpected errors are logged.
        grids: Of the cases' first channels, by name; what is not there could not be read.
        workers: Processes; None chooses by cores and memory.
        progress: Who is told.

    Raises:
        DatasetError: All problems of all cases in one report.
    """
    sizes = {name: estimate_size(grid, channels=len(dataset.channel_names)) for name, grid in grids.items()}
    orientation = find_common_orientation(grids.values())
    jobs = [
        (
            case.name,
            MeasuringJob(
                case=case,
                labels=dataset.labels,
                channel_names=dataset.channel_names,
                orientation=orientation,
            ),
        )
        for case in dataset.cases
    ]
    outcome = run_over_cases(
        measure_job,
        jobs,
        workers=compute_worker_count(
            requested=workers, case_count=len(jobs), bytes_per_case=find_largest(sizes.values())
        ),
        label="Measuring",
        progress=progress,
        sizes=sizes,
    )
    if outcome.failures:
        _report(dataset, outcome, run)
    return build_fingerprint(
        outcome.results,
        dataset_name=dataset.name,
        file_ending=dataset.file_ending,
        labels=dataset.labels,
        channel_names=dataset.channel_names,
        orientation=orientation,
        distance_unit=find_distance_unit(grids.values()),
    )


def measure_job(job: MeasuringJob) -> CaseMeasurement:
    """Runs in a worker process."""
    case = read_labelled_case(job.case, labels=job.labels, channel_names=job.channel_names)
    turn = (
        compute_reorientation(case.grid.orientation_code, job.orientation)
        if job.orientation is not None and case.grid.is_oriented
        else IDENTITY
    )
    return measure_case(
        case.name,
        turn.apply(case.image),
        turn.apply(case.label_map),
        spacing_mm=turn.apply_to_grid(case.grid).spacing_mm,
        labels=job.labels,
    )


def find_common_orientation(grids: Iterable[Grid]) -> str | None:
    """The most frequent axis code (alphabetically first on ties); None for pictures, which have no world."""
    codes = Counter(grid.orientation_code for grid in grids if grid.is_oriented)
    return min(codes, key=lambda code: (-codes[code], code)) if codes else None


def estimate_size(grid: Grid, *, channels: int) -> CaseSize:
    """What measuring a case takes."""
    depth, height, width = grid.shape_voxels
    voxels = depth * height * width
    return CaseSize(voxels=voxels, estimated_bytes=voxels * (channels * BYTES_PER_IMAGE_VOXEL + BYTES_PER_LABEL_VOXEL))


def _report(dataset: Dataset, outcome: PoolOutcome[CaseMeasurement], run: RunFolder) -> None:
    failures = outcome.failures
    diagnosis = diagnose(dataset, list_problems(failures), [entry.fingerprint for entry in outcome.results])
    problems = [*diagnosis.problems, *(Problem(text=entry.describe()) for entry in diagnosis.corrections)]
    if has_unnamed_cases(diagnosis.problems):
        problems.append(Problem(text=f"every case with its problems: autoseg check {dataset.root} --all"))
    problems += write_failure_log(run.logs / "measuring.log", failures, lists_cases=False)
    heading = f"{dataset.name}: {len(failures)} of {len(dataset.cases)} cases cannot be used; nothing was written:"
    raise DatasetError(heading, problems)
