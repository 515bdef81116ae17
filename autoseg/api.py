"""Public Python API of autoseg, available after `import autoseg`; everything else may change between versions."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, SupportsFloat

from autoseg.errors import PredictionError
from autoseg.evaluation import EvaluationSummary
from autoseg.fingerprint import Machine
from autoseg.inference.model import SegmentationModel
from autoseg.inference.options import DEFAULT_OPTIONS, PredictionOptions
from autoseg.plan.document import Plan
from autoseg.postprocessing.instances import ObjectRule
from autoseg.postprocessing.object_table import ObjectRow
from autoseg.processes.progress import Progress, SilentProgress
from autoseg.processes.signals import CTRL_C, StopRequest
from autoseg.remote.arguments import accept_urls
from autoseg.workflows.evaluate import evaluation
from autoseg.workflows.exchange import exporting, importing
from autoseg.workflows.exchange.request import ExchangedModel, ExportRequest, ImportRequest
from autoseg.workflows.plan import planning
from autoseg.workflows.plan.planner import PlannerLike, find_label_check
from autoseg.workflows.predict import model_source, objects, prediction
from autoseg.workflows.predict.input_images import OrientationWarning, open_input_image
from autoseg.workflows.select import selection
from autoseg.workflows.select.request import SelectionRequest
from autoseg.workflows.select.selection_document import Selection
from autoseg.workflows.synthesize import synthesizing
from autoseg.workflows.synthesize.request import SynthesisRequest
from autoseg.workflows.train import training
from autoseg.workflows.train.job import TrainedFold
from autoseg.workflows.train.request import TrainingRequest

__all__ = [
    "OrientationWarning",
    "PredictionOptions",
    "SegmentationModel",
    "evaluate_folder",
    "export_model",
    "import_model",
    "load_model",
    "plan_dataset",
    "predict_images",
    "predict_objects",
    "predict_volume",
    "select_models",
    "synthesize_cases",
    "train_run",
]

load_model = accept_urls("autoseg.load_model", {"run": "read"})(model_source.load_model)


@accept_urls("autoseg.plan_dataset", {"dataset": "read", "run": "write"})
def plan_dataset(
    dataset: str | Path,
    run: str | Path,
    *,
    planner: PlannerLike,
    memory_gb: float | None = None,
    budget_seconds: float | None = None,
    configurations: Sequence[str] = (),
    border_fraction: float | None = None,
    centre_steps: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Checks, measures, plans and preprocesses a dataset, like `autoseg plan`; continues what was interrupted.

    Args:
        dataset: Folder with dataset.json, images and labels.
        run: Run folder to write.
        planner: One of `planners.PLANNERS`.
        memory_gb: Accelerator memory to plan for; None uses the planner's default.
        budget_seconds: Time from raw images to predictions of one fold, for planners that plan by time; None uses the
            planner's default.
        configurations: Configurations to preprocess; empty for all planned ones.
        border_fraction: Width of the border by which the objects of instancesTr are told apart, as a fraction of their
            radius (`autoseg plan --task instances` takes 0.25); None: they are not told apart.
        centre_steps: Steps of the distance from the centre that is learned of these objects, too (`autoseg plan --task
            instances --targets centre_distance` takes 4); 0: it is not learned.
        workers: Number of processes; None chooses it from cores and free memory. With more than one, scripts need
            `if __name__ == "__main__":`.
        progress: Receives notes and progress; None discards them.

    Raises:
        AutosegError: As the command reports it.
    """
    outcome = planning.plan_dataset(
        Path(dataset),
        Path(run),
        planning.build_plan_rule(planner),
        request=planning.PlanRequest(
            planner=planner.name,
            machine=Machine(accelerator_memory_gb=memory_gb, budget_seconds=budget_seconds),
            configurations=tuple(configurations),
            border_fraction=border_fraction,
            centre_steps=centre_steps,
            check_labels=find_label_check(planner),
            workers=workers,
        ),
        report=lambda plan: None,
        progress=progress or SilentProgress(),
    )
    return outcome.plan


@accept_urls("autoseg.train_run", {"run": "write"})
def train_run(
    run: str | Path, request: TrainingRequest | None = None, *, progress: Progress | None = None
) -> tuple[TrainedFold, ...]:
    """Trains and validates folds of one configuration, one after the other, in this process.

    Continues interrupted trainings. (The command `autoseg train` trains all configurations, each fold in a process of
    its own.)

    Args:
        run: Folder made by `plan_dataset`.
        request: Configuration, folds, epochs, device, seed; None trains every fold of 3d_fullres, else of 2d, as
            planned.
        progress: Receives notes and progress; None discards them.

    Raises:
        AutosegError: As the command reports it.
        KeyboardInterrupt: After Ctrl-C (or the stop button of a notebook); the state of the training is saved.
    """
    stop, chosen = StopRequest(), request or TrainingRequest()
    with stop.handle_signals((CTRL_C,)):
        return tuple(training.train_run(Path(run), chosen, progress=progress or SilentProgress(), stop=stop))


@accept_urls("autoseg.synthesize_cases", {"run": "write"})
def synthesize_cases(
    run: str | Path, request: SynthesisRequest | None = None, *, progress: Progress | None = None
) -> int:
    """Makes synthetic training cases for folds of one configuration, like `autoseg synthesize`; returns their number.

    Continues what was interrupted. `train_run` trains on them with `TrainingRequest(synthetic=True)`.

    Args:
        run: Folder made by `plan_dataset`.
        request: Configuration, folds, number of cases, device, seed; None makes as many as training cases for every
            fold of 3d_fullres, else of 2d.
        progress: Receives notes and progress; None discards them.

    Raises:
        AutosegError: As the command reports it.
    """
    chosen = request or SynthesisRequest()
    return synthesizing.synthesize_cases(Path(run), chosen, progress=progress or SilentProgress())


@accept_urls("autoseg.select_models", {"run": "write"})
def select_models(
    run: str | Path, request: SelectionRequest | None = None, *, progress: Progress | None = None
) -> Selection:
    """Selects models and postprocessing by their scores on held-out cases, like `autoseg select`.

    `predict_images` uses the selection from then on.

    Args:
        run: Folder with trained and validated folds.
        request: Configurations and folds to compare; None compares all.
        progress: Receives notes and progress; None discards them.

    Raises:
        AutosegError: As the command reports it.
    """
    chosen = request or SelectionRequest()
    return selection.select_models(Path(run), chosen, progress=progress or SilentProgress())


@accept_urls("autoseg.predict_images", {"run": "read", "images": "read", "out": "write"})
def predict_images(
    run: str | Path,
    images: str | Path,
    out: str | Path,
    request: prediction.PredictionRequest | None = None,
    *,
    progress: Progress | None = None,
) -> prediction.PredictionOutcome:
    """Segments image files, like `autoseg predict`; `run` may be anything that `load_model` accepts.

    Raises:
        AutosegError: As the command reports it.
    """
    chosen, listener = request or prediction.PredictionRequest(), progress or SilentProgress()
    with model_source.open_model(
        Path(run), configuration=chosen.configuration, folds=chosen.folds, progress=listener
    ) as model:
        chosen = replace(chosen, configuration=model.configuration)
        return prediction.predict_images(model.run, Path(images), Path(out), request=chosen, progress=listener)


@accept_urls("autoseg.import_model", {"source": "read", "run": "write"})
def import_model(
    source: str | Path,
    run: str | Path,
    request: ImportRequest | None = None,
    *,
    progress: Progress | None = None,
) -> tuple[ExchangedModel, ...]:
    """Imports models that nnU-Net trained, or one that autoseg exported, into a run, like `autoseg import`.

    Raises:
        AutosegError: As the command reports it.
    """
    return importing.import_model(Path(source), Path(run), request, progress=progress or SilentProgress())


@accept_urls("autoseg.export_model", {"run": "read", "output": "write as named"})
def export_model(
    run: str | Path,
    output: str | Path,
    request: ExportRequest | None = None,
    *,
    progress: Progress | None = None,
) -> tuple[ExchangedModel, ...]:
    """Exports a trained model, like `autoseg export`: for nnU-Net, unless the request names another format.

    Raises:
        AutosegError: As the command reports it.
    """
    return exporting.export_model(Path(run), Path(output), request, progress=progress or SilentProgress())


@accept_urls("autoseg.evaluate_folder", {"predictions": "write", "references": "read", "run": "read"})
def evaluate_folder(
    predictions: str | Path, references: str | Path, *, run: str | Path, progress: Progress | None = None
) -> EvaluationSummary:
    """Evaluates label maps, like `autoseg evaluate`.

    Raises:
        AutosegError: As the command reports it.
    """
    return evaluation.evaluate_folder(
        Path(predictions), Path(references), run_root=Path(run), progress=progress or SilentProgress()
    )


@accept_urls("autoseg.predict_volume", {"run": "read", "image": "read"})
def predict_volume(
    run: str | Path | SegmentationModel,
    image: Any,
    spacing_mm: Iterable[SupportsFloat] | None = None,
    *,
    orientation: str | None = None,
    configuration: str | None = None,
    folds: Sequence[str | int] | int | None = None,
    device: str = "auto",
    options: PredictionOptions = DEFAULT_OPTIONS,
) -> Any:
    """Segments one image and returns its label map: on the image's own grid, in the values of the dataset's files.

    Nothing that `select_models` has learned is applied, neither postprocessing nor rules for objects such as their
    smallest size; `predict_images` applies it.

    Args:
        run: Anything that `load_model` accepts, or a model from `load_model`, which avoids loading it for every image.
        image: One of the following, or a list with one for each channel. The label map has the same type.

            - An image of nibabel or of SimpleITK, with its geometry (and, for NIfTI and MGH, its header).
            - The path of an image file; further channels are found beside it as by `autoseg predict`. The label map is
              what the command would write: an image of nibabel for NIfTI, MGH and all formats that are only read, of
              SimpleITK for MetaImage, NRRD and the like, an array (y, x) or (z, y, x) for pictures and TIFF.
            - An array of numbers, (channel, z, y, x), or (z, y, x) for a model of one channel; the label map is an
              array (z, y, x).
        spacing_mm: Distance of neighbouring voxels along z, y, x; required for arrays, only allowed for them.
        orientation: Directions into which the axes x, y, z of an array point, for example "LPS" for arrays of SimpleITK
            from upright images; None assumes the orientation of the training images, with a warning.
        configuration: Configuration, as for `load_model`; only with a folder.
        folds: Names of folds, as for `load_model`; only with a folder.
        device: Device, as for `load_model`; only with a folder.
        options: Step of the sliding window, mirroring, decoding.

    Raises:
        PredictionError: The model is not trained, or the image does not fit it or has an unsupported type.
        VolumeError: The image cannot be read, or its channels do not lie on one grid.
        RunError: There is no run.
        DeviceError: There is no such device.
    """
    model = _open_loaded(run, configuration=configuration, folds=folds, device=device)
    taken = open_input_image(image, model, spacing_mm=spacing_mm, orientation=orientation)
    return taken.convert_result(objects.predict_classes(model, taken, options=options))


@accept_urls("autoseg.predict_objects", {"run": "read", "image": "read"})
def predict_objects(
    run: str | Path | SegmentationModel,
    image: Any,
    spacing_mm: Iterable[SupportsFloat] | None = None,
    *,
    orientation: str | None = None,
    name: str = "image",
    rules: Sequence[ObjectRule] | None = None,
    configuration: str | None = None,
    folds: Sequence[str | int] | int | None = None,
    device: str = "auto",
    options: PredictionOptions = DEFAULT_OPTIONS,
) -> tuple[Any, Any, tuple[ObjectRow, ...]]:
    """Segments one image and tells its objects apart, for a model that was planned with `--task instances`.

    All other arguments are those of `predict_volume`.

    Args:
        name: Name of the image in the rows.
        rules: A rule for each class, such as those that `select_models` learned; None for the usual ones.

    Returns:
        What `autoseg predict` writes: the label map of the classes of objects, the map of their numbers, both of the
        type of the image, and a row for each object.

    Raises:
        AutosegError: As for `predict_volume`, or the model tells no objects apart.
    """
    model = _open_loaded(run, configuration=configuration, folds=folds, device=device)
    taken = open_input_image(image, model, spacing_mm=spacing_mm, orientation=orientation)
    return objects.predict_objects(model, taken, name=name, rules=rules, options=options)


def _open_loaded(
    run: str | Path | SegmentationModel,
    *,
    configuration: str | None,
    folds: Sequence[str | int] | int | None,
    device: str,
) -> SegmentationModel:
    if not isinstance(run, SegmentationModel):
        return load_model(Path(run), configuration=configuration, folds=folds, device=device)
    _check_no_choice(configuration, folds, device)
    return run


def _check_no_choice(configuration: str | None, folds: Sequence[str | int] | int | None, device: str) -> None:
    if configuration is not None or folds is not None or device != "auto":
        msg = "configuration, folds and device belong to load_model; a loaded model has its own"
        raise PredictionError(msg)
