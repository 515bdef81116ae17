"""Runs with imported models: the plan, the weights, and the record of their origin."""

from collections.abc import Sequence
from typing import Final, Literal

from torch import Tensor

import autoseg
from autoseg.document import Document, read_document, write_document
from autoseg.errors import ExchangeError
from autoseg.exchange.nnunet_checkpoint import NnunetCheckpoint
from autoseg.exchange.nnunet_weights import convert_from_nnunet
from autoseg.files.checksums import compute_sha256
from autoseg.files.temporary_files import remove_leftovers
from autoseg.inference.folds import find_trained_folds
from autoseg.networks.weights import write_weights
from autoseg.plan.document import Plan
from autoseg.run_folder import FoldFolder, RunFolder, check_writable, remove_folder

COMMON_FIELDS: Final = ("dataset_name", "file_ending", "orientation", "axis_permutation", "labels", "channels")


class ImportRecord(Document):
    """Origin of the weights of a fold.

    Attributes:
        source: Path of the checkpoint, or of the zip file with the path inside.
        epochs: Number of epochs that were trained.
    """

    schema_version: Literal[1] = 1
    autoseg_version: str
    source: str
    source_sha256: str
    trainer: str
    epochs: int


def check_importable(run: RunFolder, plan: Plan, configuration: str, *, overwrite: bool) -> None:
    """Checks that a model can be imported beside those that a run holds.

    Args:
        run: A new run, or one with models of the same dataset.
        plan: The plan of the model.
        configuration: The configuration of the model.
        overwrite: Whether to replace an earlier model of the configuration that followed another plan.

    Raises:
        ExchangeError: The run holds something else.
        RunError: It is a file, or may not be written.
    """
    check_writable(run.root)
    remove_leftovers(run.root)
    if not run.plan.exists():
        if any(path.is_file() for path in run.root.rglob("*")) and not overwrite:
            msg = f"{run.root} holds other files; choose a new folder for the run, or add to them with --overwrite"
            raise ExchangeError(msg)
        return
    earlier = read_document(run.plan, Plan)
    _check_common(run, earlier, plan)
    if _follows_other_plan(earlier, plan, configuration) and find_trained_folds(run, configuration) and not overwrite:
        msg = (
            f"{run.root} holds a model for {configuration} that followed another plan; import into a folder of its "
            f"own, or replace the model with --overwrite"
        )
        raise ExchangeError(msg)


def record_imported_model(
    run: RunFolder, plan: Plan, configuration: str, *, folds: Sequence[str], replaces_model: bool
) -> None:
    """Writes the plan of a model into a run, beside those of models that were imported before, and removes the folds of
    an earlier model that it replaces.

    Args:
        run: The run.
        plan: The plan of the model.
        configuration: The configuration of the model.
        folds: Folds of the model.
        replaces_model: Whether to remove other folds also where they followed the same plan.
    """
    earlier = read_document(run.plan, Plan) if run.plan.exists() else None
    write_document(run.plan, plan if earlier is None else _merge(earlier, plan, configuration))
    if replaces_model or (earlier is not None and _follows_other_plan(earlier, plan, configuration)):
        for fold in set(find_trained_folds(run, configuration)) - set(folds):
            remove_folder(run.fold(configuration, fold).root)


def _follows_other_plan(earlier: Plan, plan: Plan, configuration: str) -> bool:
    return earlier.configurations.get(configuration) != plan.configurations[configuration]


def convert_weights(plan: Plan, checkpoint: NnunetCheckpoint) -> dict[str, Tensor]:
    """Converts the weights to those of autoseg's network.

    Raises:
        ExchangeError: They belong to another network than the plan's.
    """
    network = plan.configurations[checkpoint.configuration].network
    return convert_from_nnunet(checkpoint.weights, network, where=str(checkpoint.path))


def build_import_record(checkpoint: NnunetCheckpoint, origin: str) -> ImportRecord:
    """Builds the record of a checkpoint that the user knows by another path."""
    return ImportRecord(
        autoseg_version=autoseg.__version__,
        source=origin,
        source_sha256=compute_sha256(checkpoint.path),
        trainer=checkpoint.trainer,
        epochs=checkpoint.epochs,
    )


def holds_fold(training: FoldFolder, record: ImportRecord, *, overwrite: bool) -> bool:
    """Returns whether a run holds the weights of a fold already.

    Args:
        training: The fold's folder in the run.
        record: Record of the checkpoint.
        overwrite: Whether to replace whatever weights it holds.

    Raises:
        ExchangeError: The run has other weights for the fold.
    """
    if overwrite or not training.final_checkpoint.exists():
        return False
    if _is_same(training, record):
        return True
    msg = f"{training.root} holds another model already; choose another run, or replace it with --overwrite"
    raise ExchangeError(msg)


def write_imported_fold(training: FoldFolder, plan: Plan, weights: dict[str, Tensor], record: ImportRecord) -> None:
    """Writes the weights of a fold into an empty folder, with its plan and its origin."""
    write_document(training.plan, plan)
    write_document(training.import_record, record)
    write_weights(training.final_checkpoint, weights)


def _check_common(run: RunFolder, earlier: Plan, plan: Plan) -> None:
    if not earlier.is_imported:
        msg = f"{run.root} is a run of autoseg's planner {earlier.planner!r}; import into a folder of its own"
        raise ExchangeError(msg)
    if run.model_record.exists():
        msg = f"{run.root} holds a model that came in one file of autoseg; import into a folder of its own"
        raise ExchangeError(msg)
    different = [field for field in COMMON_FIELDS if getattr(earlier, field) != getattr(plan, field)]
    if different:
        msg = (
            f"{run.root} holds models of {earlier.dataset_name} that differ in {', '.join(different)} from this one of "
            f"{plan.dataset_name}; import into a folder of its own"
        )
        raise ExchangeError(msg)


def _merge(earlier: Plan, plan: Plan, configuration: str) -> Plan:
    """Merges two plans; the configuration of the model itself takes precedence."""
    subjects = {reason.subject for reason in plan.reasons}
    kept = tuple(reason for reason in earlier.reasons if reason.subject not in subjects)
    own = {configuration: plan.configurations[configuration]}
    merged = {**plan.configurations, **earlier.configurations, **own}
    return earlier.model_copy(update={"configurations": merged, "reasons": kept + plan.reasons})


def _is_same(training: FoldFolder, record: ImportRecord) -> bool:
    if not training.import_record.exists():
        return False
    return read_document(training.import_record, ImportRecord).source_sha256 == record.source_sha256
