"""Measures every case of a dataset and collects everything that is wrong with it."""

from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.dataset import Case, Dataset
from autoseg.errors import DatasetError
from autoseg.fingerprint import Fingerprint
from autoseg.geometry import IDENTITY, compute_reorientation
from autoseg.labels import LabelScheme
from autoseg.measurement import CaseMeasurement, build_fingerprint, measure_case
from autoseg.progress import Progress
from autoseg.run_folder import RunFolder
from autoseg.volume_io import read_grid
from autoseg.workflows.case_pool import (
    Failure,
    compute_worker_count,
    describe_failures,
    run_over_cases,
    write_failure_log,
)
from autoseg.workflows.case_reading import measure_orientation, read_labelled_case

BYTES_PER_VOXEL = 32  # float32 image, its copies while cropping and sorting, label map (peak measured per voxel)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuringJob:
    """What a worker needs to measure one case."""

    case: Case
    labels: LabelScheme
    channel_names: tuple[str, ...]
    orientation: str | None


def measure_dataset(dataset: Dataset, run: RunFolder, *, workers: int | None, progress: Progress) -> Fingerprint:
    """Reads, checks and measures all cases.

    Raises:
        DatasetError: All problems of all cases in one report.
    """
    orientation = measure_orientation(dataset.cases)
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
            requested=workers, case_count=len(jobs), bytes_per_case=estimate_case_bytes(dataset, BYTES_PER_VOXEL)
        ),
        label="Measuring",
        progress=progress,
    )
    if outcome.failures:
        _report(dataset, outcome.failures, run)
    return build_fingerprint(
        outcome.results,
        dataset_name=dataset.name,
        file_ending=dataset.file_ending,
        labels=dataset.labels,
        channel_names=dataset.channel_names,
        orientation=orientation,
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


def estimate_case_bytes(dataset: Dataset, bytes_per_voxel: int) -> int:
    """Memory for the largest case, from the file sizes' header where it can be read."""
    voxels = max(_count_voxels(case) for case in dataset.cases)
    return voxels * len(dataset.channel_names) * bytes_per_voxel


def _count_voxels(case: Case) -> int:
    try:
        depth, height, width = read_grid(case.image_paths[0]).shape_voxels
    except Exception:
        return 0
    return depth * height * width


def _report(dataset: Dataset, failures: Sequence[Failure], run: RunFolder) -> None:
    problems = [*describe_failures(failures)]
    if any(failure.traceback for failure in failures):
        log = run.logs / "measuring.log"
        write_failure_log(log, failures)
        problems.append(f"tracebacks of unexpected errors are in {log}")
    heading = f"{dataset.name}: {len(failures)} of {len(dataset.cases)} cases cannot be used; nothing was written:"
    raise DatasetError(heading, problems)
