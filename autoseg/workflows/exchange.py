"""Takes over models of nnU-Net, and hands models to it."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from autoseg.document import read_document
from autoseg.errors import ExchangeError, RunError
from autoseg.exchange.archives import unpack_archive
from autoseg.exchange.imported_run import add_fold, convert_weights, prepare_run
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
    CheckpointKind,
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
from autoseg.inference.folds import find_configuration, find_folds, find_trained_folds
from autoseg.inference.model import load_network, read_common_plan
from autoseg.plan import Plan
from autoseg.progress import Progress, Silent
from autoseg.run_folder import FoldFolder, RunFolder, check_writable, open_run, write_folder_atomically
from autoseg.workflows.selection_document import read_selection

ARCHIVE_ENDING: Final = ".zip"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What the user asked for.

    Attributes:
        configuration: None takes every model of the source.
        folds: None takes every fold.
        checkpoint: Which of nnU-Net's checkpoints; its prediction takes "final" by default.
        accepts_any_trainer: The user vouches for trainers that nnU-Net does not ship.
        overwrite: Replace models that the run already holds.
    """

    configuration: str | None = None
    folds: tuple[str, ...] | None = None
    checkpoint: CheckpointKind = "final"
    accepts_any_trainer: bool = False
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangedModel:
    """One configuration that was imported or exported, with its folds.

    Attributes:
        written: Those of the folds that were not there already.
        folder: Where it lies now.
    """

    configuration: str
    folds: tuple[str, ...]
    written: tuple[str, ...]
    folder: Path

    def describe(self) -> str:
        """What was written, in one line for the user."""
        return f"{self.configuration}, fold {', '.join(self.written)}: {self.folder}"


def import_model(
    source: Path, run_root: Path, request: ImportRequest | None = None, *, progress: Progress
) -> tuple[ExchangedModel, ...]:
    """Makes a run of nnU-Net's models, or adds them to one that holds others of the same dataset.

    A repeated call keeps what was imported before. A cascade is imported with the model of its first stage, if that
    lies beside it.

    Args:
        source: A model folder, a folder of such (a dataset's results), or a zip file that nnU-Net exported.
        run_root: Folder to be written.
        request: None for everything.
        progress: Who is told.

    Raises:
        ExchangeError: There is no model, or it is none that autoseg can express, or the run holds something else.
        DocumentError: plans.json lacks something.
        DatasetError: dataset.json lacks something.
    """
    chosen = request or ImportRequest()
    _check_source(source)
    models: dict[str, ExchangedModel] = {}
    with _open_source(source) as opened:
        job = _ImportJob(source=opened, run=RunFolder(run_root), request=chosen, progress=progress)
        for root in _choose_roots(opened, chosen.configuration):
            if guess_configuration(root) in models:  # the first stage of a cascade, imported with it
                continue
            models |= {model.configuration: model for model in _import_with_first_stage(job, root)}
    return tuple(models.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedModel:
    """A run to predict with.

    Attributes:
        configuration: None leaves the choice to prediction.
    """

    run: Path
    configuration: str | None


@contextmanager
def open_model(
    path: Path,
    *,
    configuration: str | None = None,
    folds: tuple[str, ...] | None = None,
    progress: Progress | None = None,
) -> Iterator[OpenedModel]:
    """Yields a run: the path itself if it is one, else a temporary import of nnU-Net's model there.

    Raises:
        RunError: There is neither a run nor a model of nnU-Net.
        ExchangeError: There is a model of nnU-Net, but none that autoseg can express.
    """
    if not is_foreign(path):
        _check_is_run(path)
        yield OpenedModel(run=path, configuration=configuration)
        return
    teller = progress or Silent()
    teller.note(
        f"{path} is no run but has the form of nnU-Net's models: importing for this call (`autoseg import` does so "
        f"once and for all)"
    )
    with tempfile.TemporaryDirectory(prefix="autoseg-") as temporary:
        run_root = Path(temporary) / path.resolve().stem
        request = ImportRequest(configuration=configuration, folds=folds)
        models = import_model(path, run_root, request, progress=teller)
        yield OpenedModel(run=run_root, configuration=configuration or _find_last_stage(run_root, models))


def _check_is_run(path: Path) -> None:
    if not path.exists():
        msg = f"{path} does not exist; expected a run or a model folder of nnU-Net: check the path"
        raise RunError(msg)
    if RunFolder(path).plan.is_file():
        return
    enclosing = find_enclosing_model(path)
    if enclosing is not None:
        raise RunError(_advise_to_name(enclosing, path))
    if path.is_file():
        msg = (
            f"{path} is a file; expected a run, or nnU-Net's model as a folder or {ARCHIVE_ENDING} file: check the path"
        )
        raise RunError(msg)
    msg = (
        f"{path} is neither a run (it has no {RunFolder(path).plan.name}) nor a model folder of nnU-Net (it has no "
        f"{', no '.join(list_lacking(path))}): check the path"
    )
    raise RunError(msg)


def _check_source(source: Path) -> None:
    if not source.exists():
        msg = (
            f"{source} does not exist; expected a model of nnU-Net as a folder or {ARCHIVE_ENDING} file: check the path"
        )
        raise ExchangeError(msg)
    enclosing = find_enclosing_model(source)
    if enclosing is not None:
        raise ExchangeError(_advise_to_name(enclosing, source))


def _advise_to_name(model: Path, part: Path) -> str:
    kind = "checkpoint" if part.is_file() else "fold"
    return (
        f"{part} is one {kind} of a model of nnU-Net; name the folder with {PLANS_NAME} and {DATASET_NAME} above it: "
        f"{model}"
    )


def _find_last_stage(run_root: Path, models: Sequence[ExchangedModel]) -> str | None:
    """The one configuration that is no first stage of another; None if several are left."""
    plan = read_document(RunFolder(run_root).plan, Plan)
    names = [model.configuration for model in models]
    first_stages = {plan.configurations[name].previous_stage for name in names}
    last_stages = [name for name in names if name not in first_stages]
    return last_stages[0] if len(last_stages) == 1 else None


def is_foreign(path: Path) -> bool:
    """Whether a path leads to models of nnU-Net rather than to a run."""
    if path.is_file():
        return path.suffix.lower() == ARCHIVE_ENDING
    return path.is_dir() and not RunFolder(path).plan.exists() and bool(find_model_roots(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What the user asked for.

    Attributes:
        configuration: None takes every one that is trained.
        folds: None takes every trained fold.
        overwrite: Replace what was exported before.
    """

    configuration: str | None = None
    folds: tuple[str, ...] | None = None
    overwrite: bool = False


def export_model(
    run_root: Path, output: Path, request: ExportRequest | None = None, *, progress: Progress
) -> tuple[ExchangedModel, ...]:
    """Writes one model folder of nnU-Net for every trained configuration into `output`.

    Raises:
        PredictionError: Nothing is trained, or not what was asked for.
        ExchangeError: nnU-Net cannot express the model, or `output` holds one already.
        RunError: There is no run, or the folder cannot be written.
    """
    chosen = request or ExportRequest()
    run = open_run(run_root)
    check_writable(output)
    plan = read_document(run.plan, Plan)
    names = [name for name in plan.configurations if find_trained_folds(run, name)]
    if chosen.configuration is not None or not names:
        names = [find_configuration(run, plan, chosen.configuration)]
    models = tuple(_export_one(run, name, output, request=chosen, progress=progress) for name in names)
    for loss in _describe_lost_selection(run):
        progress.note(f"warning: {loss}")
    return models


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
    previous = plan.configurations[first.configuration].previous_stage
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


def _export_one(
    run: RunFolder, configuration: str, output: Path, *, request: ExportRequest, progress: Progress
) -> ExchangedModel:
    folds = find_folds(run, configuration, request.folds)
    trainings = [run.fold(configuration, fold) for fold in folds]
    plan = read_common_plan(trainings, configuration)
    folder = output / name_model_folder(configuration)
    if folder.exists() and not request.overwrite:
        msg = f"{folder} exists; choose another folder, or replace it with --overwrite"
        raise ExchangeError(msg)
    for note in describe_losses(plan):
        progress.note(f"warning: {note}")
    fingerprint = read_document(run.fingerprint, Fingerprint) if run.fingerprint.exists() else None
    with write_folder_atomically(folder) as temporary:
        write_model_description(temporary, plan, fingerprint)
        for fold, training in zip(folds, trainings, strict=True):
            _export_fold(training, temporary / f"{FOLD_PREFIX}{fold}", plan, configuration=configuration, fold=fold)
    return ExchangedModel(configuration=configuration, folds=folds, written=folds, folder=folder)


def _export_fold(training: FoldFolder, folder: Path, plan: Plan, *, configuration: str, fold: str) -> None:
    weights = load_network(training, plan.configurations[configuration]).state_dict()
    path = folder / get_checkpoint_name("final")
    write_nnunet_checkpoint(path, weights, plan, configuration=configuration, fold=fold)
