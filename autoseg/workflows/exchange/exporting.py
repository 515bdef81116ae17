"""Exports trained models: as model folders of nnU-Net, or as one file for autoseg."""

import filecmp
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from autoseg.document import read_document
from autoseg.errors import ExchangeError
from autoseg.exchange.nnunet_export import (
    describe_export_differences,
    drop_unknown_configurations,
    name_model_folder,
    write_model_description,
    write_nnunet_checkpoint,
)
from autoseg.exchange.nnunet_folders import FOLD_PREFIX, get_checkpoint_name
from autoseg.exchange.nnunet_limits import check_no_instances
from autoseg.fingerprint import Fingerprint
from autoseg.inference.folds import find_folds
from autoseg.inference.model import load_network, read_common_plan
from autoseg.plan.document import Plan
from autoseg.processes.progress import Progress
from autoseg.run_folder import RunFolder, check_writable, open_run, write_folder_atomically
from autoseg.workflows.exchange.model_file import export_model_file, list_exported
from autoseg.workflows.exchange.request import ExchangedModel, ExportRequest
from autoseg.workflows.select.selection_document import read_selection


def export_model(
    run_root: Path, output: Path, request: ExportRequest | None = None, *, progress: Progress
) -> tuple[ExchangedModel, ...]:
    """Writes one model folder of nnU-Net for every trained configuration into `output`, or one file for autoseg.

    Nothing is left of an export that is refused. One that exists already is kept if it is the same, so that a command
    that was killed at any moment can be repeated.

    Raises:
        PredictionError: Nothing is trained, or a requested model is not trained.
        SelectionError: A selected model was trained again since.
        ExchangeError: nnU-Net cannot express the model, or `output` holds one already.
        RunError: There is no run, or the folder cannot be written.
    """
    chosen = request or ExportRequest()
    if chosen.format == "autoseg":
        return export_model_file(run_root, output, chosen, progress=progress)
    run = open_run(run_root)
    check_writable(output)
    plan = read_document(run.plan, Plan)
    check_no_instances(plan)
    models = [_describe_export(run, name, output, chosen) for name in list_exported(run, plan, chosen)]
    plans = [_read_trained_plan(run, model) for model in models]
    for note in (note for trained in plans for note in describe_export_differences(trained)):
        progress.note(f"warning: {note}")
    fingerprint = read_document(run.fingerprint, Fingerprint) if run.fingerprint.exists() else None
    with ExitStack() as stack:  # all folders appear at the end, or none
        for model, trained in zip(models, plans, strict=True):
            folder = stack.enter_context(write_folder_atomically(model.folder))
            write_model_description(folder, trained, fingerprint)
            _write_checkpoints(folder, run, model, trained)
            _check_same(folder, model.folder, chosen, progress)
    for loss in _describe_lost_selection(run):
        progress.note(f"warning: {loss}")
    return tuple(models)


def _describe_lost_selection(run: RunFolder) -> Iterator[str]:
    """Yields the selected postprocessing and ensembling steps that nnU-Net will not apply."""
    selection = read_selection(run)
    if selection is None:
        return
    if selection.postprocessing.rules:
        rules = "; ".join(rule.describe() for rule in selection.postprocessing.rules)
        yield f"the selected postprocessing is not exported, nnU-Net will not apply it: {rules}"
    if len(selection.members) > 1:
        yield f"{selection.name} was selected, whose probabilities are averaged; exported are single models"
    if selection.prediction is not None and selection.prediction.decoding == "dice":
        yield "decoding with the highest expected Dice was selected, nnU-Net will take the most probable labels instead"
    if selection.prediction is not None and not selection.prediction.mirroring:
        yield "prediction without mirrored views was selected; with nnU-Net: --disable_tta"


def _describe_export(run: RunFolder, configuration: str, output: Path, request: ExportRequest) -> ExchangedModel:
    folds = find_folds(run, configuration, request.folds)
    folder = output / name_model_folder(configuration)
    return ExchangedModel(configuration=configuration, folds=folds, written=folds, folder=folder)


def _check_same(new: Path, existing: Path, request: ExportRequest, progress: Progress) -> None:
    if not existing.exists() or request.overwrite:
        return
    if not _are_equal(new, existing):
        msg = f"{existing} exists and holds something else; choose another folder, or replace it with --overwrite"
        raise ExchangeError(msg)
    progress.note(f"{existing}: exported before, unchanged")


def _are_equal(first: Path, second: Path) -> bool:
    names = {path.relative_to(first) for path in first.rglob("*")}
    if names != {path.relative_to(second) for path in second.rglob("*")}:
        return False
    files = [name for name in names if (first / name).is_file()]
    return all(filecmp.cmp(first / name, second / name, shallow=False) for name in files)


def _read_trained_plan(run: RunFolder, model: ExchangedModel) -> Plan:
    plan = read_common_plan([run.fold(model.configuration, fold) for fold in model.folds], model.configuration)
    return drop_unknown_configurations(plan, model.configuration)


def _write_checkpoints(folder: Path, run: RunFolder, model: ExchangedModel, plan: Plan) -> None:
    for fold in model.folds:
        training = run.fold(model.configuration, fold)
        weights = load_network(training, plan.configurations[model.configuration]).state_dict()
        path = folder / f"{FOLD_PREFIX}{fold}" / get_checkpoint_name("final")
        write_nnunet_checkpoint(path, weights, plan, configuration=model.configuration, fold=fold)
