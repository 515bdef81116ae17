"""Imports trained models into a run: models of nnU-Net, or one that autoseg exported to a file."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from autoseg.dataset.label_entries import warn_of_region_order
from autoseg.document import read_document
from autoseg.errors import ExchangeError, shorten_names
from autoseg.exchange.archives import unpack_archive
from autoseg.exchange.imported_run import (
    build_import_record,
    check_importable,
    convert_weights,
    holds_fold,
    record_imported_model,
    write_imported_fold,
)
from autoseg.exchange.model_file import (
    MEMBER_NAMES,
    ModelRecord,
    is_model_file,
    read_model_record,
    unpack_model_file,
)
from autoseg.exchange.nnunet_checkpoint import NnunetCheckpoint, read_nnunet_checkpoint
from autoseg.exchange.nnunet_folders import (
    CHECKPOINT_KINDS,
    DATASET_NAME,
    FOLD_PREFIX,
    PLANS_NAME,
    NnunetModel,
    find_enclosing_model,
    find_model_roots,
    find_sibling,
    get_checkpoint_name,
    guess_configuration,
    list_folds_without,
    list_missing_parts,
    open_nnunet_model,
    select_folds,
)
from autoseg.exchange.nnunet_import import import_plan
from autoseg.exchange.nnunet_trainers import check_trainer
from autoseg.files.temporary_files import make_temporary_folder
from autoseg.inference.folds import find_trained_folds
from autoseg.plan.document import Plan
from autoseg.processes.progress import Progress
from autoseg.run_folder import FoldFolder, RunFolder, check_writable, write_folder_atomically
from autoseg.workflows.exchange.request import ExchangedModel, ImportRequest

ARCHIVE_ENDING: Final = ".zip"
MADE_NAMES: Final = frozenset((*MEMBER_NAMES, "models", "logs", "report.html"))
"""Names in a run that came in a file, or was reported on: what they hold can be made again."""


def import_model(
    source: Path, run_root: Path, request: ImportRequest | None = None, *, progress: Progress
) -> tuple[ExchangedModel, ...]:
    """Imports models of nnU-Net into a new run, or into a run that holds other models of the same dataset.

    A repeated call keeps earlier imports. A cascade is imported with the model of its first stage, if that is found
    beside it. A model that autoseg exported to one file becomes a whole run.

    Args:
        source: A model folder, a folder of model folders (a dataset's results), or a zip file exported by nnU-Net or
            autoseg.
        run_root: Run folder to write.
        request: Options; None imports everything.
        progress: Receives notes and progress.

    Raises:
        ExchangeError: There is no model, autoseg cannot express it, or the run holds something else.
        DocumentError: plans.json is incomplete.
        DatasetError: dataset.json is incomplete.
    """
    chosen = request or ImportRequest()
    check_source(source)
    if is_model_file(source):
        return import_model_file(source, run_root, chosen, progress=progress)
    models: dict[str, ExchangedModel] = {}
    with _open_source(source) as opened:
        replaces_models = chosen.overwrite and chosen.folds is None
        job = _ImportJob(
            source=opened,
            run=RunFolder(run_root),
            request=chosen,
            progress=progress,
            replaces_models=replaces_models,
        )
        for root in _find_roots(opened, chosen.configuration):
            if guess_configuration(root) in models:  # the first stage of a cascade, imported with it
                continue
            models |= {model.configuration: model for model in _import_with_previous_stages(job, root)}
    return tuple(models.values())


def check_source(source: Path) -> None:
    """Checks that a path can be a model of nnU-Net.

    Raises:
        ExchangeError: The path does not exist, or is a part of a model.
    """
    if not source.exists():
        msg = (
            f"{source} does not exist; expected a model of nnU-Net as a folder or {ARCHIVE_ENDING} file, or one that "
            f"autoseg exported: check the path"
        )
        raise ExchangeError(msg)
    enclosing = find_enclosing_model(source)
    if enclosing is not None:
        raise ExchangeError(advise_enclosing_model(enclosing, source))


def advise_enclosing_model(model: Path, part: Path) -> str:
    """Describes which folder to name instead of a part of a model."""
    kind = "checkpoint" if part.is_file() else "fold"
    return (
        f"{part} is one {kind} of a model of nnU-Net; name the folder with {PLANS_NAME} and {DATASET_NAME} above it: "
        f"{model}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _ImportSource:
    """Path named by the user, and the folder with its files, which differs if it had to be unpacked."""

    named: Path
    folder: Path

    def describe(self, path: Path) -> str:
        """Translates the path of a file in `folder` to the path that the user knows."""
        resolved, folder = path.resolve(), self.folder.resolve()
        return str(self.named / resolved.relative_to(folder)) if resolved.is_relative_to(folder) else str(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ImportJob:
    source: _ImportSource
    run: RunFolder
    request: ImportRequest
    progress: Progress
    replaces_models: bool  # with all their folds; not where folds were named, from which first stages are taken whole


@contextmanager
def _open_source(source: Path) -> Iterator[_ImportSource]:
    if not source.is_file():
        yield _ImportSource(named=source, folder=source)
        return
    wanted = frozenset((PLANS_NAME, DATASET_NAME, *(get_checkpoint_name(kind) for kind in CHECKPOINT_KINDS)))
    with make_temporary_folder() as temporary:
        unpack_archive(source, temporary, names=wanted)
        yield _ImportSource(named=source, folder=temporary)


def _find_roots(source: _ImportSource, configuration: str | None) -> list[Path]:
    """Finds the model folders of a source, at most one for each configuration."""
    found = find_model_roots(source.folder)
    if not found:
        msg = (
            f"{source.named} holds no model of nnU-Net v2: expected a folder with {PLANS_NAME}, {DATASET_NAME} and "
            f"{FOLD_PREFIX}0 or the like, such as results/Dataset001_X/nnUNetTrainer__nnUNetPlans__3d_fullres; it has "
            f"no {', no '.join(list_missing_parts(source.folder))}"
        )
        raise ExchangeError(msg)
    if len(found) == 1:
        return list(found)
    roots = [root for root in found if configuration in (None, guess_configuration(root))]
    guesses = [guess_configuration(root) for root in roots]
    if not roots or len(set(guesses)) < len(guesses):
        names = ", ".join(root.relative_to(source.folder).as_posix() for root in found)
        wanted = "each configuration" if configuration is None else configuration
        advice = "unpack it, then name one of these folders" if source.named.is_file() else "name one of these folders"
        msg = f"{source.named} must hold one model for {wanted}, found: {names}; {advice}"
        raise ExchangeError(msg)
    return roots


def _import_with_previous_stages(job: _ImportJob, root: Path) -> Iterator[ExchangedModel]:
    request = job.request
    model = open_nnunet_model(root, request.checkpoint)
    folds = select_folds(model, request.folds)
    if request.folds is None and (unfinished := list_folds_without(model)):
        name = get_checkpoint_name(model.kind)
        job.progress.note(f"warning: {root}: {', '.join(unfinished)} left out, without {name}")
    first = read_nnunet_checkpoint(model.get_checkpoint(folds[0]))
    if request.configuration not in (None, first.configuration):
        msg = f"{root} is a model for {first.configuration}, not for {request.configuration}"
        raise ExchangeError(msg)
    check_trainer(first.trainer, where=str(root), accepts_any=request.accepts_any_trainer)
    plan = import_plan(model, first)
    convert_weights(plan, first)  # refuses weights that do not fit before anything is written
    previous = plan.configurations[first.configuration].previous_configuration
    if previous is not None:
        yield from _import_previous_stage(job, root, previous)
    check_importable(job.run, plan, first.configuration, overwrite=request.overwrite)
    for warning in warn_of_region_order(plan.labels):
        job.progress.note(warning)
    with ExitStack() as stack:  # all folds appear at the end, or none
        written = _add_folds(job, model, folds, first=first, plan=plan, stack=stack)
        record_imported_model(job.run, plan, first.configuration, folds=folds, replaces_model=job.replaces_models)
    folder = job.run.configuration_models(first.configuration)
    yield ExchangedModel(configuration=first.configuration, folds=folds, written=written, folder=folder)


def _add_folds(
    job: _ImportJob,
    model: NnunetModel,
    folds: Sequence[str],
    *,
    first: NnunetCheckpoint,
    plan: Plan,
    stack: ExitStack,
) -> tuple[str, ...]:
    """Imports folds, which appear when the stack is closed; returns those that the run did not hold."""
    written = []
    for fold in folds:
        path = model.get_checkpoint(fold)
        checkpoint = first if fold == folds[0] else read_nnunet_checkpoint(path)
        _check_belongs(checkpoint, first)
        training = job.run.fold(first.configuration, fold)
        record = build_import_record(checkpoint, job.source.describe(path))
        if holds_fold(training, record, overwrite=job.request.overwrite):
            job.progress.note(f"{training.root}: imported before, kept")
            continue
        weights = convert_weights(plan, checkpoint)
        folder = FoldFolder(stack.enter_context(write_folder_atomically(training.root)))
        write_imported_fold(folder, plan, weights, record)
        written.append(fold)
    return tuple(written)


def _import_previous_stage(job: _ImportJob, root: Path, configuration: str) -> Iterator[ExchangedModel]:
    sibling = find_sibling(root, configuration)
    if sibling is not None:
        asked = replace(job.request, configuration=configuration, folds=None)
        yield from _import_with_previous_stages(replace(job, request=asked), sibling)
    elif not find_trained_folds(job.run, configuration):
        job.progress.note(
            f"{root.name} refines the predictions of {configuration}, which does not lie beside it: import that "
            f"model into the same run, or the cascade cannot predict"
        )


def _check_belongs(checkpoint: NnunetCheckpoint, first: NnunetCheckpoint) -> None:
    for field in ("configuration", "trainer", "mirror_axes"):
        found, expected = getattr(checkpoint, field), getattr(first, field)
        if found != expected:
            msg = (
                f"the folds of a model must agree, but {checkpoint.path} has {field} {found} and {first.path} has "
                f"{expected}; import them one by one with --fold"
            )
            raise ExchangeError(msg)


def import_model_file(
    source: Path, run_root: Path, request: ImportRequest, *, progress: Progress
) -> tuple[ExchangedModel, ...]:
    """Imports a model file into a new run; keeps the run if it holds the same model already.

    Raises:
        ExchangeError: The file cannot be used, only a part of it is requested, or the folder holds something else.
        RunError: The folder cannot be written.
    """
    if request != ImportRequest(overwrite=request.overwrite):
        msg = (
            f"{source} is a model of autoseg, which is imported as a whole: leave out --configuration, --fold, "
            f"--checkpoint and --any-trainer (autoseg predict takes --configuration and --fold)"
        )
        raise ExchangeError(msg)
    check_writable(run_root)
    run, record = RunFolder(run_root), read_model_record(source)
    is_kept = _is_same(run, record)
    if is_kept:
        progress.note(f"{run_root}: imported before, kept")
    else:
        _refuse_to_replace(run, overwrite=request.overwrite)
        with write_folder_atomically(run_root) as temporary:
            unpack_model_file(source, temporary)
    return tuple(
        ExchangedModel(
            configuration=name,
            folds=shared.folds,
            written=() if is_kept else shared.folds,
            folder=run.configuration_models(name),
        )
        for name, shared in record.configurations.items()
    )


def _is_same(run: RunFolder, record: ModelRecord) -> bool:
    if not run.model_record.is_file() or read_document(run.model_record, ModelRecord) != record:
        return False
    return all(
        set(shared.folds) <= set(find_trained_folds(run, name)) for name, shared in record.configurations.items()
    )


def _refuse_to_replace(run: RunFolder, *, overwrite: bool) -> None:
    """Refuses to replace anything but an earlier import, which can be repeated."""
    if not run.root.exists() or not any(run.root.iterdir()):
        return
    if not run.model_record.is_file():
        msg = f"{run.root} holds other files; choose a new folder for the run"
        raise ExchangeError(msg)
    if not overwrite:
        msg = f"{run.root} holds another model; choose a new folder for the run, or replace it with --overwrite"
        raise ExchangeError(msg)
    others = sorted(
        path.name for path in run.root.iterdir() if path.name not in MADE_NAMES and not path.name.startswith(".")
    )
    if others:
        msg = (
            f"{run.root} holds files that did not come with its model, and would be removed with it: "
            f"{shorten_names(others)}; move them away, or choose a new folder for the run"
        )
        raise ExchangeError(msg)
