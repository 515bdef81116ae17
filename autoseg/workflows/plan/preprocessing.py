"""Preprocesses the cases of a run for the requested configurations; finished cases are kept."""

import itertools
from collections.abc import Iterable, Sequence
from functools import partial
from math import prod
from operator import attrgetter
from typing import Final, Literal

from autoseg.dataset import Case, Dataset, pack_cases
from autoseg.document import Document, FieldsCodec, NamedItems, PackedMapping, read_document, write_document
from autoseg.errors import CasesFailedError, DocumentError, PlanError, RunError, quote_path
from autoseg.files.network_drives import refresh_folder
from autoseg.fingerprint import CaseFingerprint, Fingerprint
from autoseg.inference.folds import is_imported_run
from autoseg.labels import InstanceTargets, LabelScheme
from autoseg.measurement import count_class_voxels
from autoseg.places.place import Place, check_workers
from autoseg.plan.document import Plan
from autoseg.plan.preprocessing import ChannelPlan, ResamplingPlan
from autoseg.preprocessing.cache import is_case_written, write_case
from autoseg.preprocessing.case import PreparedCase, PreprocessedCase
from autoseg.preprocessing.class_locations import find_class_locations
from autoseg.preprocessing.pipeline import (
    ResamplingTask,
    compute_preprocessed_shape,
    compute_resampling_task,
    prepare_case,
    preprocess_prepared_case,
    resample_labels,
)
from autoseg.processes.case_pool import (
    CaseSize,
    compute_worker_count,
    find_largest,
    list_problems,
    write_failure_log,
)
from autoseg.processes.fold_lock import find_trainings
from autoseg.processes.fork_server import LIBRARIES, prepare_worker_context
from autoseg.processes.progress import Progress
from autoseg.run_folder import ALL_CASES, RunFolder, check_writable, remove_folder, translate_write_errors
from autoseg.runtime.host_memory import find_available_ram
from autoseg.workflows.cases.reading import read_instances, read_labelled_case
from autoseg.workflows.plan.class_losses import KEPT, ClassLoss, compare_counts, format_spacing, warn_of_losses

# Modules that workers import in advance: it takes half a second, during which the dataset is inspected.
WORKER_MODULES = ("autoseg.workflows.plan.preprocessing", *LIBRARIES)
# Per voxel of a case and of its largest resampled array together. Measured: 8 bytes for one channel of CT
# (512 x 512 x 160), 14 for two channels of MR; a quarter or more is added.
BYTES_PER_IMAGE_VOXEL = 6
BYTES_PER_LABEL_VOXEL = 5
LABEL: Final = "Preprocessing"


class PreprocessingRecipe(Document):
    """The part of a plan that preprocessed arrays depend on.

    Attributes:
        separates_objects: Whether touching objects of the dataset are separated by background.
        instances: Core and border of objects; None where they are not told apart.
    """

    schema_version: Literal[1] = 1
    orientation: str | None
    axis_permutation: tuple[int, int, int]
    labels: LabelScheme
    channels: tuple[ChannelPlan, ...]
    spacing_mm: tuple[float, ...]
    resampling: ResamplingPlan
    separates_objects: bool = False
    instances: InstanceTargets | None = None


def select_data_configurations(plan: Plan, requested: Sequence[str]) -> tuple[str, ...]:
    """Returns the configurations whose arrays must exist; all planned ones if none is requested.

    Raises:
        PlanError: A requested configuration is not in the plan.
    """
    for name in requested:
        plan.get_configuration(name)
    stages = {stage for name in requested or plan.configurations for stage in plan.list_stages(name)}
    names = {plan.configurations[stage].data_of for stage in stages}
    return tuple(name for name in plan.configurations if name in names)


def preprocess_dataset(
    dataset: Dataset,
    run: RunFolder,
    plan: Plan,
    *,
    configurations: Sequence[str],
    workers: int | None,
    place: Place,
    progress: Progress,
) -> int:
    """Preprocesses the missing cases and returns how many were written.

    Arrays that follow another plan are removed first.

    Raises:
        PlanError: The plan tells objects apart in another way than the run was planned.
        RunError: The run cannot be written, or another process reads arrays that would be removed.
        CasesFailedError: Some cases failed; the others are written.
        OptionError: A number of processes is given for jobs.
    """
    check_workers(workers, place)
    if plan.instances != dataset.targets:
        msg = (
            f"{run.plan}: instances was changed since the run was planned, as its references say; put it back, or "
            f"plan again with --overwrite"
        )
        raise PlanError(msg)
    outdated = [name for name in configurations if not is_recipe_followed(run, plan, name)]
    for name in outdated:
        _refuse_to_remove_what_is_read(run, plan, name)
    for name in outdated:
        with translate_write_errors(run.recipe(name)):  # which goes first, so that no other process adds to the folder
            run.recipe(name).unlink(missing_ok=True)
        remove_folder(run.preprocessed(name))
        write_document(run.recipe(name), extract_recipe(plan, name))
    waiting = (case for case in dataset.cases if _list_missing(case, run, configurations))
    jobs = NamedItems(pack_cases(dataset.root, waiting), attrgetter("name"))
    if not jobs:
        return 0
    for name in configurations:
        check_writable(run.preprocessed(name))
    prepare_worker_context(WORKER_MODULES)
    sizes = _estimate_sizes(run, plan, configurations)
    outcome = place.run_over_cases(
        partial(preprocess_case, plan=plan, run=run, configurations=configurations),
        jobs,
        workers=compute_worker_count(
            requested=workers,
            case_count=len(jobs),
            bytes_per_case=find_largest_that_fits(sizes.values(), available_bytes=find_available_ram()),
        ),
        label=LABEL,
        progress=progress,
        sizes=sizes,
    )
    losses = itertools.chain.from_iterable(outcome.results)
    for warning in warn_of_losses(losses, case_count=len(jobs)):
        progress.note(warning)
    if outcome.failures:
        problems = [*list_problems(outcome.failures)]
        problems += write_failure_log(run.logs / "preprocessing.log", outcome.failures)
        heading = f"{len(outcome.failures)} of {len(jobs)} cases failed; the others are finished:"
        raise CasesFailedError(heading, problems)
    return len(outcome.results)


def _refuse_to_remove_what_is_read(run: RunFolder, plan: Plan, configuration: str) -> None:
    """Refuses to remove the arrays of a configuration while a fold is trained on them, or synthetic cases are made from
    them: that would fail, or continue with other arrays."""
    readers = [name for name, other in plan.configurations.items() if other.data_of == configuration]
    places = [
        place for name in readers for place in (run.configuration_models(name), run.synthetic(name, ALL_CASES).parent)
    ]
    for fold, holder in (item for place in places for item in find_trainings(place).items()):
        is_training = fold.parent in map(run.configuration_models, readers)
        does = f"trains {fold} with" if is_training else f"makes the synthetic cases in {fold} from"
        seen = f" (autoseg status {quote_path(run.root)})" if is_training else ""
        msg = (
            f"plan.json was changed after {run.preprocessed(configuration)} was made, and process {holder.pid} on "
            f"{holder.host} {does} what would be replaced; wait until it has ended or stop it{seen}, or put the plan "
            f"back"
        )
        raise RunError(msg)


def describe_preprocessing(
    dataset: Dataset, run: RunFolder, plan: Plan, *, configurations: Sequence[str], place: Place
) -> str:
    """Describes the jobs that would preprocess the missing and outdated cases.

    Raises:
        OptionError: The place has no jobs.
    """
    outdated = not all(is_recipe_followed(run, plan, name) for name in configurations)
    waiting = (case for case in dataset.cases if outdated or _list_missing(case, run, configurations))
    jobs = NamedItems(pack_cases(dataset.root, waiting), attrgetter("name"))
    return place.describe_cases(jobs, label=LABEL, sizes=_estimate_sizes(run, plan, configurations) if jobs else None)


def _estimate_sizes(run: RunFolder, plan: Plan, configurations: Sequence[str]) -> PackedMapping[CaseSize]:
    """Estimates the memory that each case needs."""
    sizes = PackedMapping(FieldsCodec(CaseSize))
    for case in read_document(run.fingerprint, Fingerprint).cases:
        sizes.add(case.name, estimate_preprocessing_size(case, plan, configurations))
    return sizes


def find_largest_that_fits(sizes: Iterable[CaseSize], *, available_bytes: int) -> int:
    """Returns the memory that a worker needs; a case beyond that of the computer is refused and slows down no other."""
    return find_largest(size for size in sizes if size.estimated_bytes <= available_bytes)


def estimate_preprocessing_size(case: CaseFingerprint, plan: Plan, configurations: Sequence[str]) -> CaseSize:
    """Estimates the memory that preprocessing a case needs: the case itself and its largest resampled array."""
    resampled = max(prod(compute_preprocessed_shape(case, plan, name)) for name in configurations)
    voxels = prod(case.shape_voxels)
    channels = len(plan.channels)
    return CaseSize(
        voxels=voxels,
        estimated_bytes=(voxels + resampled) * (channels * BYTES_PER_IMAGE_VOXEL + BYTES_PER_LABEL_VOXEL),
    )


def extract_recipe(plan: Plan, configuration: str) -> PreprocessingRecipe:
    """Extracts the part of the plan that the arrays of a configuration depend on."""
    chosen = plan.configurations[configuration]
    return PreprocessingRecipe(
        orientation=plan.orientation,
        axis_permutation=plan.axis_permutation,
        labels=plan.labels,
        channels=plan.channels,
        spacing_mm=chosen.spacing_mm,
        resampling=chosen.resampling,
        separates_objects=chosen.separates_objects,
        instances=plan.instances,
    )


def is_recipe_followed(run: RunFolder, plan: Plan, configuration: str) -> bool:
    """Whether the arrays of a configuration follow this plan, rather than the plan before it was edited."""
    try:
        return read_document(run.recipe(configuration), PreprocessingRecipe) == extract_recipe(plan, configuration)
    except DocumentError:
        return False


def check_preprocessed(run: RunFolder, plan: Plan, configuration: str, case_names: Sequence[str]) -> None:
    """Checks that the arrays of these cases exist and follow this plan.

    Raises:
        RunError: Arrays are missing or outdated; the message names the command that writes them.
    """
    remedy = f"run: autoseg preprocess {quote_path(run.root)} --configuration {configuration}"
    folder = run.preprocessed(configuration)
    refresh_folder(folder)
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
        RunError: Its models were imported, or only what predicts was copied.
    """
    if is_imported_run(run, plan):
        msg = (
            f"{run.root} holds imported models ({plan.planner}) and no training data: it predicts, but nothing can be "
            f"preprocessed or trained in it; to train, make another run: autoseg plan DATASET --run OTHER"
        )
        raise RunError(msg)
    if not run.splits.is_file():
        msg = (
            f"{run.root} lacks {run.splits.name}, which says what each fold trains on: it predicts, but nothing can be "
            f"preprocessed or trained in it; copy the whole run, or what is missing of it: {run.splits.name}, "
            f"{run.dataset.name}, {run.fingerprint.name}, references and preprocessed"
        )
        raise RunError(msg)


def preprocess_case(case: Case, *, plan: Plan, run: RunFolder, configurations: Sequence[str]) -> tuple[ClassLoss, ...]:
    """Reads a case once and writes its missing arrays, in a worker process; returns what resampling lost.

    Args:
        case: Image and label map on disk.
        plan: Plan of the run.
        run: Run folder to write into.
        configurations: Configurations whose arrays are needed.

    Raises:
        DatasetError: The case cannot be read.
        RunError: The arrays cannot be written.
    """
    names = [channel.name for channel in plan.channels]
    labelled = read_labelled_case(case, labels=plan.labels, channel_names=names)
    missing = _list_missing(case, run, configurations)
    are_separated = any(plan.configurations[name].separates_objects for name in missing)
    objects = read_instances(case, labelled) if are_separated else None
    prepared = prepare_case(labelled.image, labelled.label_map, labelled.grid, plan, objects=objects)
    tasks: dict[ResamplingTask, list[str]] = {}
    for name in missing:
        tasks.setdefault(compute_resampling_task(prepared, plan, name), []).append(name)
    losses: list[ClassLoss] = []
    for same in tasks.values():
        losses += _write_configurations(case, prepared, same, plan=plan, run=run)
    return tuple(losses)


def _write_configurations(
    case: Case, prepared: PreparedCase, names: Sequence[str], *, plan: Plan, run: RunFolder
) -> tuple[ClassLoss, ...]:
    """Resamples once for all configurations that need the same arrays; returns what that lost.

    Raises:
        RunError: Another process replaces the arrays, by another plan.
    """
    first = preprocess_prepared_case(prepared, plan, names[0])
    assert first.label_map is not None, "a training case keeps its labels"
    locations = find_class_locations(first.label_map, plan.labels)
    for name in names:
        if not is_recipe_followed(run, plan, name):
            msg = f"plan.json was changed while this case was preprocessed for {name}; repeat autoseg preprocess"
            raise RunError(msg)
        is_first = name == names[0]
        write_case(
            run.preprocessed(name),
            case.name,
            first if is_first else preprocess_prepared_case(prepared, plan, name, like=first),
            locations=locations,
            patch_voxels=plan.configurations[name].patch_voxels,
            twin=None if is_first else run.preprocessed(names[0]),
        )
    return _find_losses(case.name, prepared, first, plan=plan, names=names)


def _find_losses(
    case: str, prepared: PreparedCase, resampled: PreprocessedCase, *, plan: Plan, names: Sequence[str]
) -> tuple[ClassLoss, ...]:
    before, after = prepared.label_map, resampled.label_map
    assert before is not None, "a training case keeps its labels"
    assert after is not None, "a training case keeps its labels"
    if after.size >= before.size:
        return ()
    if plan.configurations[names[0]].separates_objects:
        after = resample_labels(prepared, plan, names[0])  # background between touching objects is no loss
    counts = (count_class_voxels(label_map, plan.labels) for label_map in (before, after))
    spacing = format_spacing(plan.configurations[names[0]].spacing_mm, plan.distance_unit)
    rule = f"resampling to {spacing} for {' and '.join(names)}; {KEPT}"
    return tuple(compare_counts(case, plan.labels, *counts, rule=rule, scale=after.size / before.size))


def _list_missing(case: Case, run: RunFolder, configurations: Sequence[str]) -> list[str]:
    return [name for name in configurations if not is_case_written(run.preprocessed(name), case.name)]
