"""Takes over models of others and hands models to others: nnU-Net's, and autoseg's own in one file."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from autoseg.document import read_document
from autoseg.errors import ExchangeError
from autoseg.exchange.archives import unpack_archive
from autoseg.exchange.imported_run import add_fold, convert_weights, prepare_run
from autoseg.exchange.model_file import is_model_file
from autoseg.exchange.nnunet_checkpoint import NnunetCheckpoint, read_nnunet_checkpoint
from autoseg.exchange.nnunet_export import (
    describe_losses,
    name_model_folder,
    write_model_description,
    write_nnunet_checkpoint,
)
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
    list_lacking,
    open_nnunet_model,
    select_folds,
)
from autoseg.exchange.nnunet_import import import_plan
from autoseg.exchange.nnunet_trainers import check_trainer
from autoseg.fingerprint import Fingerprint
from autoseg.inference.folds import find_folds, find_trained_folds
from autoseg.inference.model import load_network, read_common_plan
from autoseg.plan import Plan
from autoseg.progress import Progress
from autoseg.run_folder import RunFolder, check_writable, open_run, write_folder_atomically
from autoseg.workflows.exchange_request import ExchangedModel, ExportRequest, ImportRequest
from autoseg.workflows.model_sharing import export_model_file, import_model_file, list_exported
from autoseg.workflows.selection_document import read_selection

ARCHIVE_ENDING: Final = ".zip"


def import_model(
    source: Path, run_root: Path, request: ImportRequest | None = None, *, progress: Progress
) -> tuple[ExchangedModel, ...]:
    """Makes a run of nnU-Net's models, or adds them to one that holds others of the same dataset.

    A repeated call keeps what was imported before. A cascade is imported with the model of its first stage, if that
    lies beside it. A model that autoseg exported to one file becomes a run as a whole.

    Args:
        source: A model folder, a folder of such (a dataset's results), a zip file that nnU-Net exported, or one that
            autoseg exported.
        run_root: Folder to be written.
        request: None for everything.
        progress: Who is told.

    Raises:
        ExchangeError: There is no model, or it is none that autoseg can express, or the run holds something else.
        DocumentError: plans.json lacks something.
        DatasetError: dataset.json lacks something.
    """
    chosen = request or ImportRequest()
    check_source(source)
    if is_model_file(source):
        return import_model_file(source, run_root, chosen, progress=progress)
    models: dict[str, ExchangedModel] = {}
    with _open_source(source) as opened:
        job = _ImportJob(source=opened, run=RunFolder(run_root), request=chosen, progress=progress)
        for root in _choose_roots(opened, chosen.configuration):
            if guess_configuration(root) in models:  # the first stage of a cascade, imported with it
                continue
            models |= {model.configuration: model for model in _import_with_first_stage(job, root)}
    return tuple(models.values())


def check_source(source: Path) -> None:
    """Checks that a path may lead to a model of nnU-Net.

    Raises:
        ExchangeError: There is nothing, or it is a part of a model.
    """
    if not source.exists():
        msg = (
            f"{source} does not exist; expected a model of nnU-Net as a folder or {ARCHIVE_ENDING} file, or one that "
            f"autoseg exported: check the path"
        )
        raise ExchangeError(msg)
    enclosing = find_enclosing_model(source)
    if enclosing is not None:
        raise ExchangeError(advise_to_name(enclosing, source))


def advise_to_name(model: Path, part: Path) -> str:
    """What to do instead of naming a part of a model."""
    kind = "checkpoint" if part.is_file() else "fold"
    return (
        f"{part} is one {kind} of a model of nnU-Net; name the folder with {PLANS_NAME} and {DATASET_NAME} above it: "
        f"{model}"
    )


def export_model(
    run_root: Path, output: Path, request: ExportRequest | None = None, *, progress: Progress
) -> tuple[ExchangedModel, ...]:
    """Writes one model folder of nnU-Net for every trained configuration into `output`, or one file for autoseg.

    Nothing is left of an export that is refused.

    Raises:
        PredictionError: Nothing is trained, or not what was asked for.
        SelectionError: What was selected was trained again since.
        ExchangeError: nnU-Net cannot express the model, or `output` holds one already.
        RunError: There is no run, or the folder cannot be written.
    """
    chosen = request or ExportRequest()
    if chosen.format == "autoseg":
        return export_model_file(run_root, output, chosen, progress=progress)
    run = open_run(run_root)
    check_writable(output)
    plan = read_document(run.plan, Plan)
    exports = [_prepare_export(run, name, output, chosen) for name in list_exported(run, plan, chosen)]
    for note in (note for export in exports for note in describe_losses(export.plan)):
        progress.note(f"warning: {note}")
    fingerprint = read_document(run.fingerprint, Fingerprint) if run.fingerprint.exists() else None
    with ExitStack() as stack:  # all folders appear at the end, or none
        for export in exports:
            _write_export(export, stack.enter_context(write_folder_atomically(export.folder)), fingerprint)
    for loss in _describe_lost_selection(run):
        progress.note(f"warning: {loss}")
    return tuple(
        ExchangedModel(
            configuration=export.configuration, folds=export.folds, written=export.folds, folder=export.folder
        )
        for export in exports
    )


def _describe_lost_selection(run: RunFolder) -> Iterator[str]:
    """What `autoseg predict` does after the networks, and nnU-Net will not."""
    selection = read_selection(run)
    if selection is None:
        return
    if selection.postprocessing.rules:
        rules = "; ".join(rule.describe() for rule in selection.postprocessing.rules)
        yield f"the selected postprocessing is not exported, nnU-Net will not apply it: {rules}"
    if len(selection.members) > 1:
        yield f"{selection.name} was selected, whose probabilities are averaged; exported are single models"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What the user named, and where its files lie: elsewhere if it had to be unpacked."""

    named: Path
    folder: Path

    def describe(self, path: Path) -> str:
        """Where the user has a file of `folder`."""
        resolved, folder = path.resolve(), self.folder.resolve()
        return str(self.named / resolved.relative_to(folder)) if resolved.is_relative_to(folder) else str(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ImportJob:
    source: _Source
    run: RunFolder
    request: ImportRequest
    progress: Progress


@contextmanager
def _open_source(source: Path) -> Iterator[_Source]:
    if not source.is_file():
        yield _Source(named=source, folder=source)
        return
    wanted = frozenset((PLANS_NAME, DATASET_NAME, *(get_checkpoint_name(kind) for kind in CHECKPOINT_KINDS)))
    with tempfile.TemporaryDirectory(prefix="autoseg-") as temporary:
        unpack_archive(source, Path(temporary), names=wanted)
        yield _Source(named=source, folder=Path(temporary))


def _choose_roots(source: _Source, configuration: str | None) -> list[Path]:
    """The model folders of a source, at most one for each configuration."""
    found = find_model_roots(source.folder)
    if not found:
        msg = (
            f"{source.named} holds no model of nnU-Net v2: expected a folder with {PLANS_NAME}, {DATASET_NAME} and "
            f"{FOLD_PREFIX}0 or the like, such as results/Dataset001_X/nnUNetTrainer__nnUNetPlans__3d_fullres; it has "
            f"no {', no '.join(list_lacking(source.folder))}"
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


def _import_with_first_stage(job: _ImportJob, root: Path) -> Iterator[ExchangedModel]:
    request = job.request
    model = open_nnunet_model(root, request.checkpoint)
    folds = select_folds(model, request.folds)
    first = read_nnunet_checkpoint(model.get_checkpoint(folds[0]))
    if request.configuration not in (None, first.configuration):
        msg = f"{root} is a model for {first.configuration}, not for {request.configuration}"
        raise ExchangeError(msg)
    check_trainer(first.trainer, where=str(root), accepts_any=request.accepts_any_trainer)
    plan = import_plan(model, first)
    convert_weights(plan, first)  # refuses what does not fit before anything is written
    previous = plan.configurations[first.configuration].previous_configuration
    if previous is not None:
        yield from _import_first_stage(job, root, previous)
    prepare_run(job.run, plan, first.configuration, overwrite=request.overwrite)
    written = _add_folds(job, model, folds, first=first, plan=plan)
    folder = job.run.configuration_models(first.configuration)
    yield ExchangedModel(configuration=first.configuration, folds=folds, written=written, folder=folder)


def _add_folds(
    job: _ImportJob, model: NnunetModel, folds: Sequence[str], *, first: NnunetCheckpoint, plan: Plan
) -> tuple[str, ...]:
    """Returns those that the run did not hold."""
    written = []
    for fold in folds:
        path = model.get_checkpoint(fold)
        checkpoint = first if fold == folds[0] else read_nnunet_checkpoint(path)
        _check_belongs(checkpoint, first)
        training = job.run.fold(first.configuration, fold)
        origin = job.source.describe(path)
        if add_fold(training, plan, checkpoint, origin=origin, overwrite=job.request.overwrite):
            written.append(fold)
        else:
            job.progress.note(f"{training.root}: imported before, kept")
    return tuple(written)


def _import_first_stage(job: _ImportJob, root: Path, configuration: str) -> Iterator[ExchangedModel]:
    sibling = find_sibling(root, configuration)
    if sibling is not None:
        asked = replace(job.request, configuration=configuration, folds=None)
        yield from _import_with_first_stage(replace(job, request=asked), sibling)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Export:
    """A configuration on its way to nnU-Net.

    Attributes:
        plan: Of its trainings.
        folder: To be written.
    """

    run: RunFolder
    configuration: str
    folds: tuple[str, ...]
    plan: Plan
    folder: Path


def _prepare_export(run: RunFolder, configuration: str, output: Path, request: ExportRequest) -> _Export:
    folds = find_folds(run, configuration, request.folds)
    plan = read_common_plan([run.fold(configuration, fold) for fold in folds], configuration)
    folder = output / name_model_folder(configuration)
    if folder.exists() and not request.overwrite:
        msg = f"{folder} exists; choose another folder, or replace it with --overwrite"
        raise ExchangeError(msg)
    return _Export(run=run, configuration=configuration, folds=folds, plan=plan, folder=folder)


def _write_export(export: _Export, folder: Path, fingerprint: Fingerprint | None) -> None:
    write_model_description(folder, export.plan, fingerprint)
    for fold in export.folds:
        training = export.run.fold(export.configuration, fold)
        weights = load_network(training, export.plan.configurations[export.configuration]).state_dict()
        path = folder / f"{FOLD_PREFIX}{fold}" / get_checkpoint_name("final")
        write_nnunet_checkpoint(path, weights, export.plan, configuration=export.configuration, fold=fold)
