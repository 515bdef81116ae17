"""Corrects a label map by clicks with the network of a configuration that was trained for it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from autoseg.dataset.prediction_cases import find_images
from autoseg.document import read_document
from autoseg.errors import PredictionError, RunError, quote_path
from autoseg.file_endings import WRITABLE_ENDINGS, find_ending
from autoseg.inference.model import SegmentationModel, load_model
from autoseg.inference.options import DEFAULT_OPTIONS, PredictionOptions
from autoseg.plan.document import Plan
from autoseg.plan.stages import ClicksOfPreviousStage
from autoseg.processes.progress import Progress
from autoseg.run_folder import RunFolder
from autoseg.stages.clicks import ClickInput
from autoseg.stages.inputs import build_previous_input
from autoseg.stages.masks import resample_like
from autoseg.volume_io import Volume, check_same_grid, read_image, read_label_map, write_label_map
from autoseg.workflows.predict.model_source import find_kind, open_model
from autoseg.workflows.refine.clicks import Click, read_clicks


def refine_label_map(
    run: Path,
    image: Path,
    label_map: Path,
    *,
    clicks: Path,
    out: Path,
    configuration: str | None = None,
    folds: tuple[str, ...] | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress,
) -> int:
    """Corrects a label map by clicks and writes the result on the grid of the image.

    Args:
        run: Run folder, or a model file.
        image: File of the image; its other channels lie beside it.
        label_map: Values of the dataset's label files, on the grid of the image.
        clicks: File of clicks, see `read_clicks`.
        out: File to write.
        configuration: Configuration that corrects; None: the only one of the run.
        folds: Folds whose networks are averaged; None: all trained ones.
        device: Device that predicts.
        overwrite: Whether to replace an existing file.
        progress: Receives notes.

    Returns:
        The number of voxels whose label changed.

    Raises:
        RunError: There is no model, or the output exists.
        PredictionError: No configuration corrects, clicks or label map do not fit, or the image does not fit the model.
        GridError: The label map lies on another grid than the image.
    """
    _check_output(out, overwrite=overwrite)
    with open_model(run, configuration=configuration, folds=folds, progress=progress) as opened:
        name = find_refinement(RunFolder(opened.run), opened.configuration, source=run)
        model = load_model(opened.run, configuration=name, folds=folds, device=device, with_previous=False)
        volume, paths = _read_channels(image, model.plan)
        first = paths[0]
        _check_inputs_are_kept(out, (*paths, clicks))
        found = read_label_map(label_map)
        check_same_grid(volume.grid, found.grid, what=f"{label_map} (found) and {first} (expected)")
        check_label_values(found.array, model, where=str(label_map))
        listed = read_clicks(clicks, volume.grid, model.plan.labels)
        progress.note(model.describe())
        corrected = refine_volume(model, volume, found.array, clicks=listed)
        write_label_map(out, corrected, grid=volume.grid, like=first)
        return int((corrected != found.array).sum())


def refine_volume(
    model: SegmentationModel,
    volume: Volume,
    label_map: Integer[np.ndarray, "z y x"],
    *,
    clicks: Sequence[Click],
    options: PredictionOptions = DEFAULT_OPTIONS,
) -> Integer[np.ndarray, "z y x"]:
    """Corrects a label map; every clicked voxel gets the label of its last click.

    Args:
        model: Model of a configuration that gets clicks.
        volume: The image.
        label_map: Values of the dataset's files, on the grid of the image.
        clicks: May be empty.
        options: Options of the prediction.

    Raises:
        PredictionError: The image does not fit the model.
    """
    previous = build_previous_input(model.plan, model.configuration)
    assert isinstance(previous, ClickInput), "this configuration gets no clicks"
    labels = model.plan.labels
    case = model.preprocess(volume.array, volume.grid)
    stage_map = resample_like(case, labels.encode(label_map), resampling=model.configuration_plan.resampling)
    previous.mark_clicks(stage_map, [(click.voxel, click.label) for click in clicks], case)
    logits = model.predict_preprocessed(previous.append_to(case.image, stage_map), options=options)
    corrected = model.restore_label_map(logits, case.geometry)
    for click in clicks:
        corrected[click.voxel] = labels.file_values[click.label]
    return corrected


def find_refinement(run: RunFolder, wanted: str | None, *, source: Path) -> str:
    """Finds the configuration that corrects label maps by clicks.

    Args:
        run: The run, temporary if the model had to be unpacked.
        wanted: Its name; None: the only one.
        source: The run or model file as it was given.

    Raises:
        PredictionError: There is none, the wanted one is none, or there are several.
    """
    plan = read_document(run.plan, Plan)
    names = [
        name for name, part in plan.configurations.items() if isinstance(part.previous_stage, ClicksOfPreviousStage)
    ]
    if not names:
        msg = (
            f"{source} has no configuration that corrects label maps by clicks; it has: "
            f"{', '.join(plan.configurations)}; {_advise_refinement(plan, source)}"
        )
        raise PredictionError(msg)
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted in names:
        return wanted
    found = "none was named" if wanted is None else f"found {wanted!r}"
    msg = f"expected a configuration that corrects label maps by clicks, {found}; name one of: {', '.join(names)}"
    raise PredictionError(msg)


def check_label_values(label_map: Integer[np.ndarray, "z y x"], model: SegmentationModel, *, where: str) -> None:
    """Checks that a label map holds background and labels alone.

    Raises:
        PredictionError: It holds other values, or that of voxels to ignore.
    """
    labels = model.plan.labels
    known = [labels.file_values[label] for label in (0, *labels.foreground_labels)]
    unknown = sorted(set(np.unique(label_map).tolist()) - set(known))
    if unknown:
        msg = (
            f"{where}: expected the values {', '.join(map(str, known))}, which {model.configuration} was trained with, "
            f"found {', '.join(map(str, unknown[:5]))}; give a label map of this dataset"
        )
        raise PredictionError(msg)


def _advise_refinement(plan: Plan, source: Path) -> str:
    """Says how to get a configuration that gets clicks, where one can be planned."""
    if plan.instances is not None:
        return (
            "clicks do not go with objects that are told apart (--task instances): correct its label maps in a viewer, "
            "or plan a run of its own without --task instances"
        )
    kind = find_kind(source)
    if kind == "nnunet":
        return "models of nnU-Net have none: plan and train a run of autoseg, with --refine"
    fitting = (
        name for name, part in plan.configurations.items() if not part.sees_other_planes and not part.is_class_by_class
    )
    first = next(fitting, "CONFIGURATION")
    where = "" if kind == "run" else f" in the run that {source} was exported from"
    place = quote_path(source) if kind == "run" else "RUN"
    return (
        f"add one{where} with: autoseg plan DATASET --run {place} --refine {first}, then train it with: autoseg train "
        f"{place} --configuration {first}_refine"
    )


def _read_channels(image: Path, plan: Plan) -> tuple[Volume, Sequence[Path]]:
    """Reads an image, whose other channels lie beside the first; returns the files of all channels, too."""
    cases, _ = find_images(image, channel_count=len(plan.channels), file_ending=plan.file_ending)
    if len(cases) != 1:
        msg = f"expected one image, found {len(cases)} in {image}; give the file of the image"
        raise PredictionError(msg)
    paths = cases[0].image_paths
    return read_image(paths, channel_count=len(plan.channels)), paths


def _check_output(out: Path, *, overwrite: bool) -> None:
    if find_ending(out.name) not in WRITABLE_ENDINGS:
        msg = f"--out {out}: expected the name of a label map, such as corrected.nii.gz; give one"
        raise PredictionError(msg)
    if out.exists() and not overwrite:
        msg = f"{out} exists; name another file with --out, or replace it with --overwrite"
        raise RunError(msg)


def _check_inputs_are_kept(out: Path, inputs: Sequence[Path]) -> None:
    if out.resolve() in {path.resolve() for path in inputs}:
        msg = f"--out {out} is read by this command; name another file"
        raise PredictionError(msg)
