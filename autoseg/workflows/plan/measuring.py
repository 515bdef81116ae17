"""Measures every case of a dataset and collects everything that is wrong with it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from autoseg.dataset import Case, Dataset
from autoseg.document import ComputedMapping
from autoseg.errors import DatasetError, Problem, has_unnamed_cases, quote_path
from autoseg.fingerprint import CaseFingerprint, Fingerprint
from autoseg.geometry import FloatTriple, Grid, find_distance_unit
from autoseg.labels import LabelScheme
from autoseg.measurement import CaseMeasurement, build_fingerprint, collect_measurements, measure_case
from autoseg.nonzero_region import compute_nonzero_box, slice_box
from autoseg.places.place import Place, check_workers
from autoseg.processes.case_pool import (
    CaseSize,
    Failure,
    compute_worker_count,
    find_largest,
    list_problems,
    write_failure_log,
)
from autoseg.processes.progress import Progress
from autoseg.run_folder import RunFolder
from autoseg.workflows.cases.reading import read_labelled_case, read_objects
from autoseg.workflows.plan.class_losses import count_resampled, find_reorientation, predict_target_spacing
from autoseg.workflows.plan.dataset_corrections import diagnose

# Measured: 11 bytes per voxel for one channel of CT (512 x 512 x 160), 16 for two channels of MR; plus a third.
BYTES_PER_IMAGE_VOXEL = 7
BYTES_PER_LABEL_VOXEL = 8
LABEL: Final = "Measuring"


def measure_dataset(
    dataset: Dataset,
    run: RunFolder,
    *,
    grids: Mapping[str, Grid],
    workers: int | None,
    place: Place,
    progress: Progress,
) -> Fingerprint:
    """Reads, checks and measures all cases.

    Args:
        dataset: Dataset to measure.
        run: Run folder whose logs receive the tracebacks of unexpected errors.
        grids: Grid of the first channel by case name; cases whose header cannot be read are missing.
        workers: Number of processes; None chooses it from cores and free memory.
        place: Runs the work on each case.
        progress: Receives notes and progress.

    Raises:
        DatasetError: All problems of all cases in one report.
        OptionError: A number of processes is given for jobs.
    """
    check_workers(workers, place)
    sizes = estimate_measuring_sizes(grids, channels=len(dataset.channel_names))
    orientation = find_common_orientation(grids.values())
    measure = partial(
        read_and_measure,
        labels=dataset.labels,
        channel_names=dataset.channel_names,
        orientation=orientation,
        target_spacing_mm=predict_target_spacing(grids.values(), orientation),
    )
    with collect_measurements() as measured:
        outcome = place.run_over_cases(
            measure,
            dataset.jobs,
            workers=compute_worker_count(
                requested=workers, case_count=len(dataset.cases), bytes_per_case=find_largest(sizes.values())
            ),
            label=LABEL,
            progress=progress,
            sizes=sizes,
            collect=measured.add,
        )
        if outcome.failures:
            _report(dataset, outcome.failures, run, measured.fingerprints)
        return build_fingerprint(
            measured,
            dataset_name=dataset.name,
            file_ending=dataset.file_ending,
            labels=dataset.labels,
            channel_names=dataset.channel_names,
            orientation=orientation,
            distance_unit=find_distance_unit(grids.values()),
            has_instances=dataset.has_instances,
            targets=dataset.targets,
        )


def describe_measuring(dataset: Dataset, grids: Mapping[str, Grid], place: Place) -> str:
    """Describes the jobs that would measure the cases.

    Raises:
        OptionError: The place has no jobs.
    """
    sizes = estimate_measuring_sizes(grids, channels=len(dataset.channel_names))
    return place.describe_cases(dataset.jobs, label=LABEL, sizes=sizes)


def read_and_measure(
    case: Case,
    *,
    labels: LabelScheme,
    channel_names: Sequence[str],
    orientation: str | None,
    target_spacing_mm: FloatTriple | None,
    checks_instances: bool = False,
) -> CaseMeasurement:
    """Reads, checks and measures one case, in a worker process.

    Args:
        case: Image and label map on disk.
        labels: Labels of the dataset.
        channel_names: Names of the channels that the image must have.
        orientation: Axis code that images are brought to; None for pictures.
        target_spacing_mm: The spacing at which the voxels of every class are counted; None for none.
        checks_instances: Whether the numbers of its objects are read, too, if it has any.

    Raises:
        DatasetError: Everything that is wrong with the case.
    """
    read = read_labelled_case(case, labels=labels, channel_names=channel_names)
    if checks_instances and case.instances_path is not None:
        read = replace(read, warnings=(*read.warnings, *read_objects(case, read).warnings))
    reorientation = find_reorientation(read.grid, orientation)
    image, label_map = reorientation.apply(read.image), reorientation.apply(read.label_map)
    spacing_mm = reorientation.apply_to_grid(read.grid).spacing_mm
    box = compute_nonzero_box(image)
    measured = measure_case(
        read.name,
        image,
        label_map,
        spacing_mm=spacing_mm,
        labels=labels,
        nonzero_box=box,
        intensity_warnings=read.warnings,
    )
    if target_spacing_mm is None:
        return measured
    resampled = count_resampled(
        label_map[slice_box(box)],
        labels,
        spacing_mm=spacing_mm,
        target_spacing_mm=target_spacing_mm,
    )
    return replace(measured, fingerprint=measured.fingerprint.model_copy(update={"resampled": resampled}))


def find_common_orientation(grids: Iterable[Grid]) -> str | None:
    """Finds the most frequent axis code (the alphabetically first on ties); None for pictures, which have none."""
    codes = Counter(grid.orientation_code for grid in grids if grid.is_oriented)
    return min(codes, key=lambda code: (-codes[code], code)) if codes else None


def estimate_measuring_sizes(grids: Mapping[str, Grid], *, channels: int) -> Mapping[str, CaseSize]:
    """Estimates the memory that measuring each case needs, whenever it is asked for."""
    return ComputedMapping(grids, partial(estimate_measuring_size, channels=channels))


def estimate_measuring_size(grid: Grid, *, channels: int) -> CaseSize:
    """Estimates the memory that measuring a case needs."""
    depth, height, width = grid.shape_voxels
    voxels = depth * height * width
    return CaseSize(voxels=voxels, estimated_bytes=voxels * (channels * BYTES_PER_IMAGE_VOXEL + BYTES_PER_LABEL_VOXEL))


def _report(dataset: Dataset, failures: Sequence[Failure], run: RunFolder, measured: Sequence[CaseFingerprint]) -> None:
    diagnosis = diagnose(dataset, list_problems(failures), measured)
    problems = [*diagnosis.problems, *(Problem(text=entry.describe()) for entry in diagnosis.corrections)]
    if has_unnamed_cases(diagnosis.problems):
        problems.append(Problem(text=f"every case with its problems: autoseg check {quote_path(dataset.root)} --all"))
    problems += write_failure_log(run.logs / "measuring.log", failures, lists_cases=False)
    heading = f"{dataset.name}: {len(failures)} of {len(dataset.cases)} cases cannot be used; nothing was written:"
    raise DatasetError(heading, problems)
