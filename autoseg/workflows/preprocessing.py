"""Preprocesses the cases of a run for every configuration that is asked for; finished cases are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from autoseg.dataset import Case, Dataset
from autoseg.document import Document, read_document, write_document
from autoseg.errors import CasesFailedError, DocumentError, RunError
from autoseg.fingerprint import CaseFingerprint, Fingerprint
from autoseg.fork_server import prepare_workers
from autoseg.geometry import IntTriple
from autoseg.inference.folds import is_import
from autoseg.labels import LabelScheme
from autoseg.plan import ChannelPlan, Plan, ResamplingPlan
from autoseg.preprocessing.cache import is_case_written, write_case
from autoseg.preprocessing.case import (
    PreparedCase,
    ResamplingTask,
    compute_resampling_task,
    compute_target_spacing,
    prepare_case,
    preprocess_prepared_case,
)
from autoseg.preprocessing.class_locations import find_class_locations
from autoseg.preprocessing.resample import compute_resampled_shape
from autoseg.progress import Progress
from autoseg.run_folder import RunFolder, remove_folder
from autoseg.workflows.case_pool import (
    CaseSize,
    compute_worker_count,
    find_largest,
    list_problems,
    run_over_cases,
    write_failure_log,
)
from autoseg.workflows.case_reading import read_labelled_case

# What the workers of planning and preprocessing load: half a second that passes while the dataset is being looked at.
WORKER_MODULES = (
    "autoseg.workflows.preprocessing",
    "blosc2",
    "cc3d",
    "isal.igzip",
    "nibabel",
    "scipy.ndimage",
)
# Of a case and its largest resampled array together, per channel and for labels. Measured: 8 bytes for one channel of
# CT (512 x 512 x 160), 14 for two channels of MR; a quarter or more is added.
BYTES_PER_IMAGE_VOXEL = 6
BYTES_PER_LABEL_VOXEL = 5


class PreprocessingRecipe(Document):
    """The part of a plan that preprocessed arrays depend on."""

    schema_version: Literal[1] = 1
    orientation: str | None
    axis_permutation: tuple[int, int, int]
    labels: LabelScheme
    channels: tuple[ChannelPlan, ...]
    spacing_mm: tuple[float, ...]
    resampling: ResamplingPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessingJob:
    """What a worker needs to preprocess one case for some configurations."""

    case: Case
    labels: LabelScheme
    plan: Plan
    configurations: tuple[str, ...]
    run: RunFolder


def select_data_configurations(plan: Plan, requested: Sequence[str]) -> tuple[str, ...]:
    """Names of the configurations whose arrays must exist; all planned ones if none is requested.

    Raises:
        PlanError: A requested configuration is not in the plan.
    """
    for name in requested:
        plan.get_configuration(name)
    chosen = [plan.configurations[name].data_of for name in requested or plan.configurations]
    previous = [plan.configurations[name].previous_stage for name in requested or plan.configurations]
    names = [*chosen, *(name for name in previous if name is not None)]
    return tuple(name for name in plan.configurations if name in names)


def preprocess_dataset(
    dataset: Dataset,
    run: RunFolder,
    plan: Plan,
    *,
    configurations: Sequence[str],
    workers: int | None,
    progress: Progress,
) -> int:
    """Writes the missing cases and returns how many were written.

    Arrays that were made by another plan are removed first.

    Raises:
        CasesFailedError: Some cases failed; the others are written.
    """
    for name in configurations:
        if not is_recipe_followed(run, plan, name):
            remove_folder(run.preprocessed(name))
            write_document(run.recipe(name), extract_recipe(plan, name))
    jobs = _list_missing_jobs(dataset, run, plan, configurations)
    if not jobs:
        return 0
    prepare_workers(WORKER_MODULES)
    measured = read_document(run.fingerprint, Fingerprint).cases
    sizes = {case.name: estimate_size(case, plan, configurations) for case in measured}
    outcome = run_over_cases(
        preprocess_job,
        jobs,
        workers=compute_worker_count(
            requested=workers, case_count=len(jobs), bytes_per_case=find_largest(sizes.values())
        ),
        label="Preprocessing",
        progress=progress,
        sizes=sizes,
    )
    if outcome.failures:
        problems = [*list_problems(outcome.failures)]
        problems += write_failure_log(run.logs / "preprocessing.log", outcome.failures)
        heading = f"{len(outcome.failures)} of {len(jobs)} cases failed; the others are finished:"
        raise CasesFailedError(heading, problems)
    return len(outcome.results)


def estimate_size(case: CaseFingerprint, plan: Plan, configurations: Sequence[str]) -> CaseSize:
    """What preprocessing a case takes: the case itself, and its largest resampled array."""
    resampled = max(prod(compute_preprocessed_shape(case, plan, name)) for name in configurations)
    voxels = prod(case.shape_voxels)
    channels = len(plan.channels)
    return CaseSize(
        voxels=voxels,
        estimated_bytes=(voxels + resampled) * (channels * BYTES_PER_IMAGE_VOXEL + BYTES_PER_LABEL_VOXEL),
    )


def compute_preprocessed_shape(case: CaseFingerprint, plan: Plan, configuration: str) -> IntTriple:
    """Extents of a case's arrays for a configuration, plan axes."""
    z, y, x = plan.axis_permutation
    spacing_mm = (case.spacing_mm[z], case.spacing_mm[y], case.spacing_mm[x])
    shape = case.cropped_shape_voxels
    target = compute_target_spacing(spacing_mm, plan.configurations[configuration])
    return compute_resampled_shape((shape[z], shape[y], shape[x]), spacing_mm, target)


def extract_recipe(plan: Plan, configuration: str) -> PreprocessingRecipe:
    """The part of the plan that the arrays of a configuration depend on."""
    chosen = plan.configurations[configuration]
    return PreprocessingRecipe(
        orientation=plan.orientation,
        axis_permutation=plan.axis_permutation,
        labels=plan.labels,
        channels=plan.channels,
        spacing_mm=chosen.spacing_mm,
        resampling=chosen.resampling,
    )


def is_recipe_followed(run: RunFolder, plan: Plan, configuration: str) -> bool:
    """Whether the arrays of a configuration were made by this plan, and not by one before it was edited."""
    try:
        return read_document(run.recipe(configuration), PreprocessingRecipe) == extract_recipe(plan, configuration)
    except DocumentError:
        return False


def check_preprocessed(run: RunFolder, plan: Plan, configuration: str, case_names: Sequence[str]) -> None:
    """Checks that the arrays of these cases are there and were made by this plan.

    Raises:
        RunError: Says what is missing, and the command that makes it.
    """
    remedy = f"run: autoseg preprocess {run.root} --configuration {configuration}"
    folder = run.preprocessed(configuration)
    missing = [name for name in case_names if not is_case_written(folder, name)]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        msg = f"{len(missing)} of {len(case_names)} cases are not preprocessed for {configuration} ({shown}); {remedy}"
        raise RunError(msg)
    if not is_recipe_followed(run, plan, configuration):
        msg = f"plan.json was changed after {folder} was made (spacing, normalization, labels or axes); {remedy}"
        raise RunError(msg)


def check_has_data(run: RunFolder, plan: Plan) -> None:
    """Checks that a run was planned from a dataset and can be preprocessed and trained.

    Raises:
        RunError: Its models were imported.
    """
    if is_import(run, plan):
        msg = (
            f"{run.root} holds imported models ({plan.planner}) and no training data: it predicts, but nothing can be "
            f"preprocessed or trained in it; to train, make another run: autoseg plan DATASET --run OTHER"
        )
        raise RunError(msg)


def preprocess_job(job: PreprocessingJob) -> str:
    """Runs in a worker process: reads the case once and writes every missing configuration."""
    prepared = _read_prepared(job)
    tasks: dict[ResamplingTask, list[str]] = {}
    for name in job.configurations:
        tasks.setdefault(compute_resampling_task(prepared, job.plan, name), []).append(name)
    for names in tasks.values():
        _write_configurations(job, prepared, names)
    return job.case.name


def _read_prepared(job: PreprocessingJob) -> PreparedCase:
    names = [channel.name for channel in job.plan.channels]
    labelled = read_labelled_case(job.case, labels=job.labels, channel_names=names)
    return prepare_case(labelled.image, labelled.label_map, labelled.grid, job.plan)


def _write_configurations(job: PreprocessingJob, prepared: PreparedCase, names: Sequence[str]) -> None:
    """Resamples once for configurations that ask for the same."""
    first = preprocess_prepared_case(prepared, job.plan, names[0])
    assert first.label_map is not None, "a training case keeps its labels"
    locations = find_class_locations(first.label_map, job.labels)
    for name in names:
        is_first = name == names[0]
        write_case(
            job.run.preprocessed(name),
            job.case.name,
            first if is_first else preprocess_prepared_case(prepared, job.plan, name, like=first),
            locations=locations,
            patch_voxels=job.plan.configurations[name].patch_voxels,
            twin=None if is_first else job.run.preprocessed(names[0]),
        )


def _list_missing_jobs(
    dataset: Dataset, run: RunFolder, plan: Plan, configurations: Sequence[str]
) -> list[tuple[str, PreprocessingJob]]:
    jobs = []
    for case in dataset.cases:
        missing = tuple(name for name in configurations if not is_case_written(run.preprocessed(name), case.name))
        if missing:
            job = PreprocessingJob(case=case, labels=plan.labels, plan=plan, configurations=missing, run=run)
            jobs.append((case.name, job))
    return jobs
