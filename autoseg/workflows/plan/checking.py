"""Checks a dataset: reports everything that planning would refuse or mention, without writing anything."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from autoseg.dataset import Case, Dataset, allow_geometry_fixes, pack_cases, read_dataset_with_problems
from autoseg.dataset.folds import Splits
from autoseg.errors import AutosegError, DatasetError, Problem, group_problems
from autoseg.exchange.nnunet_limits import describe_export_limits
from autoseg.fingerprint import CaseFingerprint
from autoseg.geometry import DistanceUnit, FloatTriple, find_distance_unit
from autoseg.labels import LabelScheme
from autoseg.measurement import CaseMeasurement, MeasuredCases, collect_measurements, merge_channels
from autoseg.plan.preprocessing import CT_NAME, WINDOW_ADVICE, IntensityWindow
from autoseg.processes.case_pool import (
    CaseSize,
    PoolOutcome,
    compute_worker_count,
    find_largest,
    list_problems,
    run_over_cases,
)
from autoseg.processes.progress import Progress
from autoseg.workflows.plan.case_warnings import warn_of_intensities, warn_of_spacing
from autoseg.workflows.plan.class_counts import (
    ClassCount,
    count_class_occurrences,
    find_duplicates,
    warn_of_rare_classes,
)
from autoseg.workflows.plan.class_losses import (
    find_crop_losses,
    find_resampling_losses,
    predict_target_spacing,
    warn_of_losses,
)
from autoseg.workflows.plan.dataset_corrections import Diagnosis, diagnose
from autoseg.workflows.plan.header_survey import survey_headers
from autoseg.workflows.plan.measuring import estimate_measuring_sizes, read_and_measure
from autoseg.workflows.plan.splitting import SplitRequest, describe_duplicates, divide_into_folds


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """Options of a check.

    Attributes:
        split: Source of the folds.
        fix_geometry: Report files on another grid as files that planning with the same option would resample.
        workers: Number of processes; None chooses it from cores and free memory.
    """

    split: SplitRequest
    fix_geometry: bool = False
    workers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """Result of a check.

    Attributes:
        dataset: Folder of the dataset.
        cases: Number of cases.
        problems: All problems, case by case.
        diagnosis: The same problems, grouped by kind.
        notes: Remarks that prevent nothing, one sentence each.
        classes: Occurrence of each class in the cases without problems.
        orientations: Axis codes with their number of cases, the most frequent first.
        duplicates: Names of cases with the same image.
    """

    dataset: Path
    cases: int
    problems: tuple[Problem, ...]
    diagnosis: Diagnosis
    notes: tuple[str, ...]
    classes: tuple[ClassCount, ...]
    orientations: tuple[tuple[str, int], ...]
    duplicates: tuple[tuple[str, ...], ...]


def check_dataset(folder: Path, request: CheckRequest, *, progress: Progress) -> CheckReport:
    """Reads every case and reports all problems of the dataset; problems in the data are reported, not raised."""
    try:
        dataset, listed = read_dataset_with_problems(folder)
    except DatasetError as error:
        return _report_unread(folder, error.problems)
    if request.fix_geometry:
        dataset = allow_geometry_fixes(dataset)
    problems, notes, splits = _check_folds(dataset, request.split)
    complete = _leave_out(dataset, listed)
    headers = survey_headers(complete.cases)
    orientation = headers.orientations[0][0] if headers.orientations else None
    sizes = estimate_measuring_sizes(headers.grids, channels=len(dataset.channel_names))
    examine = partial(
        read_and_examine,
        labels=dataset.labels,
        channel_names=dataset.channel_names,
        orientation=orientation,
        target_spacing_mm=predict_target_spacing(headers.grids.values(), orientation),
    )
    with collect_measurements() as measured:
        outcome = _measure(complete, examine, sizes, measured=measured, workers=request.workers, progress=progress)
        problems += _check_windows(dataset, measured)
        fingerprints = measured.fingerprints
    classes = count_class_occurrences(dataset.labels, fingerprints)
    duplicates = find_duplicates(fingerprints)
    of_cases = (*listed, *list_problems(outcome.failures))
    distance_unit = find_distance_unit(headers.grids.values())
    diagnosis = diagnose(dataset, of_cases, fingerprints)
    return CheckReport(
        dataset=dataset.root,
        cases=len(dataset.cases),
        problems=(*problems, *of_cases),
        diagnosis=replace(diagnosis, problems=(*problems, *diagnosis.problems)),
        notes=(
            *dataset.notes,
            *notes,
            *headers.notes,
            *warn_of_rare_classes(classes, counted=len(fingerprints), uncounted=len(dataset.cases) - len(fingerprints)),
            *_warn_of_losses(dataset.labels, fingerprints, distance_unit),
            *warn_of_intensities(fingerprints),
            *warn_of_spacing(fingerprints, distance_unit),
            *describe_duplicates(duplicates, splits),
            *describe_export_limits(dataset),
        ),
        classes=classes,
        orientations=headers.orientations,
        duplicates=duplicates,
    )


def read_and_examine(
    case: Case,
    *,
    labels: LabelScheme,
    channel_names: Sequence[str],
    orientation: str | None,
    target_spacing_mm: FloatTriple | None,
) -> CaseMeasurement:
    """Reads, checks and measures one case in a worker process; the intensities are sent back only if one is CT.

    Raises:
        DatasetError: Everything that is wrong with the case.
    """
    measured = read_and_measure(
        case,
        labels=labels,
        channel_names=channel_names,
        orientation=orientation,
        target_spacing_mm=target_spacing_mm,
        checks_instances=True,
    )
    return measured if any(name.casefold() == CT_NAME for name in channel_names) else replace(measured, intensities=())


def _check_windows(dataset: Dataset, measured: MeasuredCases) -> tuple[Problem, ...]:
    """Finds CT channels whose window would leave no contrast, as planning would refuse them."""
    problems = []
    for index, channel in enumerate(merge_channels(measured.intensities, dataset.channel_names)):
        if channel.name.casefold() == CT_NAME and channel.foreground is not None:
            flaw = IntensityWindow.from_foreground(channel.foreground).explain_flaw()
            if flaw is not None:
                problems.append(Problem(text=f"channel {index} ({channel.name}): {flaw}; {WINDOW_ADVICE}"))
    return tuple(problems)


def _leave_out(dataset: Dataset, problems: Sequence[Problem]) -> Dataset:
    """Returns the dataset without the cases that have a problem."""
    names = {name for problem in problems for name in problem.cases}
    return replace(dataset, cases=pack_cases(dataset.root, (case for case in dataset.cases if case.name not in names)))


def _check_folds(dataset: Dataset, request: SplitRequest) -> tuple[tuple[Problem, ...], tuple[str, ...], Splits | None]:
    try:
        division = divide_into_folds(dataset, request)
    except AutosegError as error:
        return (Problem(text=str(error)),), (), None
    return (), division.notes, division.splits


def _measure(
    dataset: Dataset,
    measure: Callable[[Case], CaseMeasurement],
    sizes: Mapping[str, CaseSize],
    *,
    measured: MeasuredCases,
    workers: int | None,
    progress: Progress,
) -> PoolOutcome[CaseMeasurement]:
    jobs = dataset.jobs
    largest = find_largest(sizes.values())
    count = compute_worker_count(requested=workers, case_count=len(jobs), bytes_per_case=largest)
    return run_over_cases(
        measure,
        jobs,
        workers=count,
        label="Checking",
        progress=progress,
        sizes=sizes,
        collect=lambda index, found: measured.add(index, found.forget_mirror_counts()),
    )


def _warn_of_losses(labels: LabelScheme, cases: Sequence[CaseFingerprint], unit: DistanceUnit) -> list[str]:
    losses = (*find_crop_losses(labels, cases), *find_resampling_losses(labels, cases, distance_unit=unit))
    return warn_of_losses(losses, case_count=len(cases))


def _report_unread(folder: Path, problems: tuple[Problem, ...]) -> CheckReport:
    return CheckReport(
        dataset=folder,
        cases=0,
        problems=problems,
        diagnosis=Diagnosis(problems=group_problems(problems), corrections=()),
        notes=(),
        classes=(),
        orientations=(),
        duplicates=(),
    )
