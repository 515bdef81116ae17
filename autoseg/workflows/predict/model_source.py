"""Opens a model for prediction: a run, a model file of autoseg, or a model of nnU-Net."""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autoseg.dataset.folds import name_folds
from autoseg.document import read_document
from autoseg.errors import RunError
from autoseg.exchange.model_file import is_model_file, unpack_model_file
from autoseg.exchange.nnunet_folders import find_enclosing_model, find_model_roots, list_missing_parts
from autoseg.files.temporary_files import make_temporary_folder
from autoseg.inference import model as inference
from autoseg.inference.execution.preparation import ExecutionChoice
from autoseg.inference.model import SegmentationModel
from autoseg.inference.options import ONE_IMAGE, Workload
from autoseg.plan.document import Plan
from autoseg.processes.progress import Progress, SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.runtime.precision import Precision
from autoseg.workflows.exchange.importing import ARCHIVE_ENDING, advise_enclosing_model, import_model
from autoseg.workflows.exchange.request import ExchangedModel, ImportRequest

SourceKind = Literal["run", "model_file", "nnunet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedModel:
    """A run to predict with.

    Attributes:
        run: Run folder, temporary if the model had to be imported.
        configuration: Configuration to predict with; None leaves the choice to prediction.
    """

    run: Path
    configuration: str | None


def find_kind(path: Path) -> SourceKind | None:
    """Finds the kind of model at a path; None if there is no model."""
    if path.is_file():
        if path.suffix.lower() != ARCHIVE_ENDING:
            return None
        return "model_file" if is_model_file(path) else "nnunet"
    if RunFolder(path).plan.is_file():
        return "run"
    return "nnunet" if path.is_dir() and find_model_roots(path) else None


@contextmanager
def open_model(
    path: Path,
    *,
    configuration: str | None = None,
    folds: tuple[str, ...] | None = None,
    progress: Progress | None = None,
) -> Iterator[OpenedModel]:
    """Yields a run: the path itself if it is a run, else a temporary run with the imported model.

    Raises:
        RunError: There is no model.
        ExchangeError: This version of autoseg cannot import the model.
    """
    kind, listener = find_kind(path), progress or SilentProgress()
    if kind is None:
        raise RunError(_describe_unknown(path))
    if kind == "run":
        yield OpenedModel(run=path, configuration=configuration)
        return
    with make_temporary_folder() as temporary:
        run_root = temporary / path.resolve().stem
        if kind == "model_file":
            listener.note(f"unpacking {path} for this call (`autoseg import` does so permanently)")
            unpack_model_file(path, run_root)
            yield OpenedModel(run=run_root, configuration=configuration)
            return
        if path.is_dir() or zipfile.is_zipfile(path):  # else importing says what is wrong with the file
            listener.note(
                f"{path} is a model of nnU-Net, not a run: importing it for this call (`autoseg import` does so "
                f"permanently)"
            )
        request = ImportRequest(configuration=configuration, folds=folds or None)
        models = import_model(path, run_root, request, progress=listener)
        yield OpenedModel(run=run_root, configuration=configuration or _find_last_stage(run_root, models))


def load_model(
    run: str | Path | RunFolder,
    *,
    configuration: str | None = None,
    folds: Sequence[str | int] | int | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    execution: ExecutionChoice = "auto",
    workload: Workload = ONE_IMAGE,
    with_previous: bool = True,
    pruned_depth: int | None = None,
) -> SegmentationModel:
    """Loads the trained networks of one configuration, ready to predict, and those of its previous stages.

    A model outside a run is unpacked into a temporary folder while it is loaded. On a CPU, the fastest inference batch
    size is measured when a network is loaded for the first time, and cached (see
    `autoseg.inference.execution.batch_size`); for a large workload, so is the fastest execution backend (see
    `autoseg.inference.execution.choice`).

    Args:
        run: Folder of a run, a model that `autoseg export` wrote to one file, or a model of nnU-Net.
        configuration: Name of the configuration; None for the trained one, or if several are trained for the first of
            3d_fullres, 3d_cascade_fullres, 3d_lowres, 2d, 3d_roi, 2.5d, 2d_triplanar,
            boundary_refinement.
        folds: Names or numbers of the folds, or one of them; None for every trained one ("all" only if no numbered fold
            is trained). A previous stage predicts with the same folds, or with every trained one for "all".
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        precision: Precision of the networks; "float32" is the reference, "auto" the fastest that preserves the labels
            (see `autoseg.runtime.precision.find_dtype`).
        execution: Backend that runs the networks on a CPU; "auto" selects the one that finishes first.
        workload: Expected use of the model.
        with_previous: Whether to load previous stages; without them, only `predict_preprocessed` works.
        pruned_depth: Depth to which the networks of the configuration are pruned, such as `select_models` found; only
            the weights that are left are read. None loads whole networks. A model file of a selected pruned network
            holds no more than that.

    Raises:
        PredictionError: The configuration or a fold is not trained, or folds or stages follow different plans.
        PlanError: The networks cannot be pruned to that depth.
        RunError: There is no model, or a checkpoint is damaged.
        ExchangeError: This version of autoseg cannot import the model.
        DeviceError: The device does not exist or does not support the precision or execution.
    """
    path = run.root if isinstance(run, RunFolder) else Path(run)
    wanted = name_folds(folds)
    with open_model(path, configuration=configuration, folds=wanted) as opened:
        return inference.load_model(
            opened.run,
            configuration=opened.configuration,
            folds=wanted,
            device=device,
            precision=precision,
            execution=execution,
            workload=workload,
            with_previous=with_previous,
            pruned_depth=pruned_depth,
        )


def _describe_unknown(path: Path) -> str:
    if not path.exists():
        return f"{path} does not exist; expected a run, a model file or a model folder of nnU-Net: check the path"
    enclosing = find_enclosing_model(path)
    if enclosing is not None:
        return advise_enclosing_model(enclosing, path)
    if path.is_file():
        return (
            f"{path} is a file; expected a run, or a model of autoseg or nnU-Net as a folder or {ARCHIVE_ENDING} file: "
            f"check the path"
        )
    return (
        f"{path} is neither a run (it has no {RunFolder(path).plan.name}) nor a model folder of nnU-Net (it has no "
        f"{', no '.join(list_missing_parts(path))}): check the path"
    )


def _find_last_stage(run_root: Path, models: Sequence[ExchangedModel]) -> str | None:
    """Finds the only configuration that is not a previous stage of another; None if there are several."""
    plan = read_document(RunFolder(run_root).plan, Plan)
    names = [model.configuration for model in models]
    previous_stages = {stage for name in names for stage in plan.list_stages(name)[:-1]}
    last_stages = [name for name in names if name not in previous_stages]
    return last_stages[0] if len(last_stages) == 1 else None
