"""What `import autoseg` offers to programs; everything else may change between versions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Integer
from numpy.typing import NDArray

from autoseg.errors import PredictionError
from autoseg.evaluation import EvaluationSummary
from autoseg.fingerprint import Machine
from autoseg.geometry import WORLD_LETTERS, FloatTriple, Grid, compute_reorientation
from autoseg.inference.model import SegmentationModel, load_model
from autoseg.inference.options import DEFAULT_OPTIONS, PredictionOptions
from autoseg.plan import Plan
from autoseg.progress import Progress, Silent
from autoseg.signals import CTRL_C, StopRequest
from autoseg.workflows import evaluation, exchange, planning, prediction, selection, training
from autoseg.workflows.selection_document import Selection
from autoseg.workflows.training_request import TrainingRequest

__all__ = [
    "PredictionOptions",
    "SegmentationModel",
    "evaluate_folder",
    "export_model",
    "import_model",
    "load_model",
    "plan_dataset",
    "predict_images",
    "predict_volume",
    "select_models",
    "train_run",
]

DEFAULT_GRID_CODE: Final = "RAS"


def plan_dataset(
    dataset: str | Path,
    run: str | Path,
    *,
    planner: planning.Planner,
    memory_gb: float | None = None,
    budget_seconds: float | None = None,
    configurations: Sequence[str] = (),
    workers: int | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Checks, measures, plans and preprocesses a dataset, like `autoseg plan`; continues what was interrupted.

    Args:
        dataset: Folder with dataset.json, images and labels.
        run: Folder to be written.
        planner: One of `planners.PLANNERS`.
        memory_gb: Accelerator memory to plan for; None for the planner's own.
        budget_seconds: For a planner that plans by time, from raw images to predictions of one fold; None for its own.
        configurations: What to preprocess; empty for everything planned.
        workers: Processes; None chooses by cores and free memory. With more than one, scripts need
            `if __name__ == "__main__":`.
        progress: Who is told; None for nobody.

    Raises:
        AutosegError: As the command reports it.
    """
    outcome = planning.plan_dataset(
        Path(dataset),
        Path(run),
        planning.make_rule(planner),
        options=planning.PlanningOptions(
            planner=planner.name,
            machine=Machine(accelerator_memory_gb=memory_gb, budget_seconds=budget_seconds),
            configurations=tuple(configurations),
            workers=workers,
        ),
        report=lambda plan: None,
        progress=progress or Silent(),
    )
    return outcome.plan


def train_run(
    run: str | Path, request: TrainingRequest | None = None, *, progress: Progress | None = None
) -> tuple[training.TrainedFold, ...]:
    """Trains and validates folds of one configuration, one after the other, in this process.

    Continues what was interrupted. (The command `autoseg train` trains all configurations, each fold in a process of
    its own.)

    Args:
        run: Folder made by `plan_dataset`.
        request: Configuration, folds, epochs, device, seed; None for every fold of 3d_fullres, else of 2d, with the
            plan's values.
        progress: Who is told; None for nobody.

    Raises:
        AutosegError: As the command reports it.
        KeyboardInterrupt: After Ctrl-C (or the stop button of a notebook); the state of the training is saved.
    """
    stop, chosen = StopRequest(), request or TrainingRequest()
    with stop.heard((CTRL_C,)):
        return tuple(training.train_run(Path(run), chosen, progress=progress or Silent(), stop=stop))


def select_models(
    run: str | Path, request: selection.SelectionRequest | None = None, *, progress: Progress | None = None
) -> Selection:
    """Chooses models and postprocessing by what they do for held-out cases, like `autoseg select`.

    `predict_images` uses the choice from then on.

    Args:
        run: Folder with trained and validated folds.
        request: Which configurations and folds; None for all.
        progress: Who is told; None for nobody.

    Raises:
        AutosegError: As the command reports it.
    """
    chosen = request or selection.SelectionRequest()
    return selection.select_models(Path(run), chosen, progress=progress or Silent())


def predict_images(
    run: str | Path,
    images: str | Path,
    out: str | Path,
    request: prediction.PredictionRequest | None = None,
    *,
    progress: Progress | None = None,
) -> prediction.PredictionOutcome:
    """Segments image files, like `autoseg predict`.

    Raises:
        AutosegError: As the command reports it.
    """
    chosen = request or prediction.PredictionRequest(options=DEFAULT_OPTIONS)
    return prediction.predict_images(Path(run), Path(images), Path(out), request=chosen, progress=progress or Silent())


def import_model(
    source: str | Path,
    run: str | Path,
    request: exchange.ImportRequest | None = None,
    *,
    progress: Progress | None = None,
) -> tuple[exchange.ExchangedModel, ...]:
    """Makes a run of models that nnU-Net trained, like `autoseg import`.

    Raises:
        AutosegError: As the command reports it.
    """
    return exchange.import_model(Path(source), Path(run), request, progress=progress or Silent())


def export_model(
    run: str | Path,
    output: str | Path,
    request: exchange.ExportRequest | None = None,
    *,
    progress: Progress | None = None,
) -> tuple[exchange.ExchangedModel, ...]:
    """Writes a trained model so that nnU-Net predicts with it, like `autoseg export --format nnunet`.

    Raises:
        AutosegError: As the command reports it.
    """
    return exchange.export_model(Path(run), Path(output), request, progress=progress or Silent())


def evaluate_folder(
    predictions: str | Path, references: str | Path, *, run: str | Path, progress: Progress | None = None
) -> EvaluationSummary:
    """Scores label maps, like `autoseg evaluate`.

    Raises:
        AutosegError: As the command reports it.
    """
    return evaluation.evaluate_folder(
        Path(predictions), Path(references), run_root=Path(run), progress=progress or Silent()
    )


def predict_volume(
    run: str | Path | SegmentationModel,
    array: NDArray[Any],
    spacing_mm: FloatTriple,
    *,
    orientation: str | None = None,
    configuration: str | None = None,
    folds: Sequence[str] | None = None,
    device: str = "auto",
    options: PredictionOptions = DEFAULT_OPTIONS,
) -> Integer[np.ndarray, "z y x"]:
    """Segments one volume and returns its label map: the same shape, in the values of the dataset's label files.

    Args:
        run: Folder of a trained run, or a model from `load_model`, which spares loading it for every volume.
        array: Numbers, (channel, z, y, x), or (z, y, x) for a model of one channel.
        spacing_mm: Distance of neighbouring voxels along z, y, x.
        orientation: Where the axes x, y, z of the array grow to, for example "LPS" for arrays of SimpleITK from
            upright images; None if they lie like those that the model was trained with.
        configuration: As in `load_model`; only with a folder.
        folds: As in `load_model`; only with a folder.
        device: As in `load_model`; only with a folder.
        options: Step of the window, mirroring.

    Raises:
        PredictionError: The model is not trained, or the volume does not fit it.
        RunError: There is no run.
        DeviceError: There is no such device.
    """
    if isinstance(run, SegmentationModel):
        _check_no_choice(configuration, folds, device)
        model = run
    else:
        model = load_model(Path(run), configuration=configuration, folds=folds, device=device)
    volume = _convert_volume(array)
    grid = _build_grid(volume, spacing_mm, orientation=orientation, trained_orientation=model.plan.orientation)
    return model.predict_volume(volume, grid, options=options)


def _check_no_choice(configuration: str | None, folds: Sequence[str] | None, device: str) -> None:
    if configuration is not None or folds is not None or device != "auto":
        msg = "configuration, folds and device belong to load_model; a loaded model has its own"
        raise PredictionError(msg)


def _convert_volume(array: NDArray[Any]) -> NDArray[np.float32]:
    if array.ndim not in (3, 4) or array.dtype.kind not in "fiub":
        msg = f"a volume is an array of numbers (channel, z, y, x) or (z, y, x), found {array.dtype} of {array.shape}"
        raise PredictionError(msg)
    volume = np.ascontiguousarray(array, dtype=np.float32)
    return volume if array.ndim == 4 else volume[None]


def _build_grid(
    volume: NDArray[np.float32],
    spacing_mm: FloatTriple,
    *,
    orientation: str | None,
    trained_orientation: str | None,
) -> Grid:
    if len(spacing_mm) != 3 or not all(np.isfinite(value) and value > 0 for value in spacing_mm):
        msg = f"spacing_mm must be three positive numbers (z, y, x), found {spacing_mm}"
        raise PredictionError(msg)
    if orientation is not None and not _is_orientation_code(orientation):
        msg = f"an orientation has one letter of L/R, one of P/A and one of I/S, such as LPS, found {orientation!r}"
        raise PredictionError(msg)
    _, depth, height, width = volume.shape
    plain = Grid(shape_voxels=(depth, height, width), spacing_mm=spacing_mm)
    code = orientation or trained_orientation or DEFAULT_GRID_CODE
    direction = compute_reorientation(DEFAULT_GRID_CODE, code).apply_to_grid(plain).direction
    return Grid(
        shape_voxels=plain.shape_voxels,
        spacing_mm=spacing_mm,
        direction=direction,
        is_oriented=trained_orientation is not None,
    )


def _is_orientation_code(text: str) -> bool:
    return sorted(len(set(text) & set(letters)) for letters in WORLD_LETTERS) == [1, 1, 1] and len(text) == 3
