"""Segments a folder of images with a trained model; one failing image does not stop the others."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from autoseg import __version__
from autoseg.dataset import Case, find_images
from autoseg.dataset.files import list_files
from autoseg.document import Document, Part, read_document, write_document
from autoseg.errors import CasesFailedError, PredictionError, RunError
from autoseg.geometry import Grid
from autoseg.inference.ensemble import Ensemble, load_ensemble
from autoseg.inference.execution import Execution, ExecutionChoice
from autoseg.inference.options import PredictionOptions, Workload
from autoseg.networks.cpu_threads import follow_cpu_time
from autoseg.networks.device import find_device
from autoseg.networks.precision import NumberType, Precision
from autoseg.plan import Plan
from autoseg.postprocessing.application import finish_label_map
from autoseg.postprocessing.rules import FillHoles, LargestComponent, MinimumSize, Rule
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.problems import Problem
from autoseg.progress import Progress
from autoseg.run_folder import RunFolder, make_folder, open_run
from autoseg.volume_io import (
    PROBABILITIES_ENDING,
    label_map_ending,
    read_image,
    write_label_map,
    write_probabilities,
)
from autoseg.workflows.case_pool import Failure, build_failure, list_problems, write_failure_log
from autoseg.workflows.model_choice import check_weights, choose_models, hash_ensemble
from autoseg.workflows.overlap import overlap_stages
from autoseg.workflows.selection_document import NAMES_JOINED_BY
from autoseg.workflows.versions import LibraryVersions, measure_versions

RECORD_NAME = "prediction.json"
PLAN_NAME = "plan.json"
WHAT_MAKES_LABEL_MAPS = (
    *("images", "configuration", "folds", "ensemble", "weights_sha256"),
    *("mirroring", "step_fraction", "number_type", "postprocessing"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionRequest:
    """What the user asked for.

    Attributes:
        configuration: None takes what was selected (selection.json), else the one that is trained. One that is named,
            like a fold, leaves the selection aside.
        folds: None takes those that were selected, else every trained one.
        postprocessing: Whether the postprocessing that was selected is applied.
    """

    configuration: str | None = None
    folds: tuple[str, ...] | None = None
    options: PredictionOptions
    postprocessing: bool = True
    save_probabilities: bool = False
    device: str = "auto"
    precision: Precision = "auto"
    execution: ExecutionChoice = "auto"
    overwrite: bool = False


class EnsembleMember(Part):
    """One of several configurations whose probabilities were averaged."""

    configuration: str
    folds: tuple[str, ...]


class PredictionRecord(Document):
    """How the label maps of a folder were made.

    Attributes:
        configuration: Of an ensemble, all names.
        folds: Of an ensemble, those of all members, each once.
        weights_sha256: Of every checkpoint: for each member, of every stage the folds.
        execution: What ran the networks, one for each stage of each member; empty in records of earlier versions.
        ensemble: The members where there are several, else empty.
        postprocessing: What was applied to the label maps, in this order. Probabilities are as the networks say.
        outputs: Names of all files that are made in this way, also by earlier calls, each with that of the image (its
            first channel); nothing else in the folder is ever removed.
    """

    schema_version: Literal[1] = 1
    autoseg_version: str
    model: str
    images: str
    configuration: str
    folds: tuple[str, ...]
    weights_sha256: tuple[str, ...]
    mirroring: bool
    step_fraction: float
    number_type: NumberType
    execution: tuple[Execution, ...] = ()
    probabilities: bool
    ensemble: tuple[EnsembleMember, ...] = ()
    postprocessing: tuple[Rule, ...] = ()
    outputs: dict[str, str] = Field(default_factory=dict)
    versions: LibraryVersions


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionOutcome:
    """How many label maps were written now and how many had been there."""

    written: int
    kept: int

    def describe(self) -> str:
        """One line for the user."""
        kept = f", {self.kept} finished earlier and kept (--overwrite replaces them)" if self.kept else ""
        return f"{self.written} label maps written{kept}"


def predict_images(
    run_root: Path, images: Path, out: Path, *, request: PredictionRequest, progress: Progress
) -> PredictionOutcome:
    """Writes one label map per image, on the image's own grid, with the ending of the dataset.

    A repeated call keeps what is finished, provided that the same model and options made it.

    Raises:
        RunError: The run does not exist, or `out` holds results of another model or other options.
        PredictionError: There is no trained model, or there are no images for it, or `out` is their folder.
        SelectionError: What was selected was trained again since.
        CasesFailedError: Some images failed, or lack channels; the others are written.
    """
    run = open_run(run_root)
    _check_other_folder(images, out)
    with follow_cpu_time(find_device(request.device), announce=progress.note):
        return _predict_images(run, images, out, request=request, progress=progress)


def _predict_images(
    run: RunFolder, images: Path, out: Path, *, request: PredictionRequest, progress: Progress
) -> PredictionOutcome:
    choice = choose_models(
        run,
        configuration=request.configuration,
        folds=request.folds,
        postprocessing=request.postprocessing,
        progress=progress,
    )
    model = load_ensemble(
        run.root,
        choice.members,
        device=request.device,
        precision=request.precision,
        execution=request.execution,
        workload=_estimate_workload(run, images, request),
    )
    weights = hash_ensemble(run, model)
    check_weights(run, choice, weights)
    progress.note(model.describe())
    cases, problems = find_images(images, channel_count=len(model.plan.channels), file_ending=model.plan.file_ending)
    outputs = {path: case.image_paths[0] for case in cases for path in _find_outputs(case, out, model, request)}
    check_inputs_are_kept(cases, tuple(outputs))
    record = _describe_model(model, run, images, request, weights=weights, rules=choice.rules)
    record = record.model_copy(update={"outputs": {path.name: image.name for path, image in outputs.items()}})
    record = _prepare_folder(out, record, overwrite=request.overwrite)
    write_document(out / RECORD_NAME, record)  # first: a plan alone would be taken for a run's
    write_document(out / PLAN_NAME, model.plan)
    waiting = [case for case in cases if not _is_finished(case, out, model, request)]
    failures = _list_incomplete(problems)
    total = len(cases) + len(failures)
    events = _predict_each(waiting, out, model, request=request, rules=choice.rules, progress=progress)
    for failure in progress.track(events, label="Predicting", total=len(waiting), unit="image"):
        failures += [] if failure is None else [failure]
    if failures:
        _report(failures, out, total=total)
    return PredictionOutcome(written=len(waiting), kept=len(cases) - len(waiting))


def _list_incomplete(problems: Sequence[Problem]) -> list[Failure]:
    names = dict.fromkeys(name for problem in problems for name in problem.cases)
    return [Failure(case=name, problems=tuple(one for one in problems if name in one.cases)) for name in names]


def _estimate_workload(run: RunFolder, images: Path, request: PredictionRequest) -> Workload:
    """By the number of files, before anything is known of the model; it only decides what preparation pays."""
    files = len(list_files(images)) if images.is_dir() else 1
    channels = len(read_document(run.plan, Plan).channels)
    return Workload(images=max(1, files // channels), options=request.options)


def _describe_model(
    model: Ensemble,
    run: RunFolder,
    images: Path,
    request: PredictionRequest,
    *,
    weights: Sequence[tuple[str, ...]],
    rules: tuple[Rule, ...],
) -> PredictionRecord:
    members = tuple(EnsembleMember(configuration=part.configuration, folds=part.folds) for part in model.members)
    return PredictionRecord(
        autoseg_version=__version__,
        model=run.root.name,
        images=str((images if images.is_dir() else images.parent).resolve()),
        configuration=NAMES_JOINED_BY.join(member.configuration for member in members),
        folds=tuple(dict.fromkeys(fold for member in members for fold in member.folds)),
        weights_sha256=tuple(digest for of_member in weights for digest in of_member),
        mirroring=request.options.mirroring,
        step_fraction=request.options.step_fraction,
        number_type=model.members[0].number_type,
        execution=tuple(stage.execution for member in model.members for stage in member.stages),
        probabilities=request.save_probabilities,
        ensemble=members if len(members) > 1 else (),
        postprocessing=rules,
        versions=measure_versions(),
    )


def _check_other_folder(images: Path, out: Path) -> None:
    """Label maps among the images would be taken for images by the next call."""
    folder = images if images.is_dir() else images.parent
    if folder.resolve() == out.resolve():
        msg = f"{out} is the folder of the images; choose another folder for the label maps"
        raise PredictionError(msg)


def check_inputs_are_kept(cases: Sequence[Case], outputs: Sequence[Path]) -> None:
    """Refuses to write a label map over an image.

    Raises:
        PredictionError: An output is an input.
    """
    images = {path.resolve() for case in cases for path in case.image_paths}
    clash = next((path for path in outputs if path.resolve() in images), None)
    if clash is not None:
        msg = f"the label map of {clash.name} would replace the image {clash}; write to another folder"
        raise PredictionError(msg)


def _prepare_folder(out: Path, record: PredictionRecord, *, overwrite: bool) -> PredictionRecord:
    """Keeps what the same model and options made; what anything else made needs permission to be replaced.

    One folder never holds the label maps of two models: those that another one made are all removed. An interruption
    leaves either the earlier record or the new one, and with it a folder that the same call goes on with.

    Returns:
        The record with everything that the folder is to hold.
    """
    make_folder(out)
    path = out / RECORD_NAME
    if (out / PLAN_NAME).exists() and not path.exists():
        msg = f"{out} holds a plan.json that is not of a prediction, perhaps it is a run; choose another folder"
        raise RunError(msg)
    earlier = read_document(path, PredictionRecord) if path.exists() else None
    changes = [] if earlier is None else _list_changes(earlier, record)
    made = {} if earlier is None else earlier.outputs
    if overwrite:
        for name in (*record.outputs, *(made if changes else ())):
            (out / Path(name).name).unlink(missing_ok=True)
    else:
        _refuse_changes(out, changes)
        _refuse_strangers(out, record.outputs, made)
    return record if changes else record.model_copy(update={"outputs": made | record.outputs})


def _refuse_strangers(out: Path, outputs: Mapping[str, str], made: Mapping[str, str]) -> None:
    """Files that no prediction of this kind made, or made of another image of the same name, such as x.mha of x.nii."""
    existing = [name for name in outputs if (out / name).exists()]
    others = [name for name in existing if name in made and made[name] != outputs[name]]
    if others:
        msg = (
            f"{out / others[0]} was made of {made[others[0]]}, not of {outputs[others[0]]} ({len(others)} in all); "
            f"choose another folder, or replace it with --overwrite"
        )
        raise RunError(msg)
    existing = [name for name in existing if name not in made]
    if existing:
        msg = (
            f"{out} holds files that label maps would replace, such as {existing[0]} ({len(existing)} in all); "
            f"choose another folder, or replace them with --overwrite"
        )
        raise RunError(msg)


def _list_changes(earlier: PredictionRecord, record: PredictionRecord) -> list[str]:
    return [
        f"{field}: {_format(getattr(earlier, field))} there, {_format(getattr(record, field))} now"
        for field in WHAT_MAKES_LABEL_MAPS
        if getattr(earlier, field) != getattr(record, field)
    ]


def _refuse_changes(out: Path, changes: Sequence[str]) -> None:
    if changes:
        msg = (
            f"{out} holds predictions made in another way ({'; '.join(changes)}); "
            f"choose another folder, or replace them with --overwrite"
        )
        raise RunError(msg)


def _format(value: object) -> str:
    """Rules and members in words; anything else as it is."""
    if isinstance(value, tuple) and value and isinstance(value[0], Part):
        return "; ".join(_describe_part(part) for part in value)
    return "none" if value == () else str(value)


def _describe_part(part: Part) -> str:
    if isinstance(part, EnsembleMember):
        return f"{part.configuration} (folds {', '.join(part.folds)})"
    assert isinstance(part, LargestComponent | MinimumSize | FillHoles), "no other parts are compared"
    return part.describe()


def _find_outputs(case: Case, out: Path, model: Ensemble, request: PredictionRequest) -> tuple[Path, ...]:
    label_map = out / f"{case.name}{label_map_ending(model.plan.file_ending)}"
    return (label_map, out / f"{case.name}{PROBABILITIES_ENDING}") if request.save_probabilities else (label_map,)


def _is_finished(case: Case, out: Path, model: Ensemble, request: PredictionRequest) -> bool:
    return all(path.is_file() for path in _find_outputs(case, out, model, request))


def _predict_each(
    cases: Sequence[Case],
    out: Path,
    model: Ensemble,
    *,
    request: PredictionRequest,
    rules: Sequence[Rule],
    progress: Progress,
) -> Iterator[Failure | None]:
    def segment(case: Case, read: Sequence[PreprocessedCase]) -> tuple[NDArray[np.integer], Grid]:
        show = partial(progress.show_part, case.name)
        logits = model.predict_case(read, options=request.options, on_window=show)
        geometries, grid = [member.geometry for member in read], read[0].geometry.grid
        if request.save_probabilities:
            path, shape = out / f"{case.name}{PROBABILITIES_ENDING}", (len(logits[0]), *grid.shape_voxels)
            write_probabilities(path, shape, model.iterate_probabilities(logits, geometries))
        return model.restore_label_map(logits, geometries), grid

    def write(case: Case, segmented: tuple[NDArray[np.integer], Grid]) -> None:
        label_map, grid = segmented
        finished = finish_label_map(label_map, rules, labels=model.plan.labels, spacing_mm=grid.spacing_mm)
        write_label_map(_find_outputs(case, out, model, request)[0], finished, grid=grid, like=case.image_paths[0])

    for case, error in overlap_stages(cases, read=partial(_read, model), work=segment, write=write):
        failure = None if error is None else build_failure(case.name, error)
        del error  # its frames hold arrays, which may lie on a GPU
        yield failure


def _read(model: Ensemble, case: Case) -> tuple[PreprocessedCase, ...]:
    volume = read_image(case.image_paths)
    try:
        return model.preprocess(volume.array, volume.grid)
    except PredictionError as error:
        files = ", ".join(str(path) for path in _find_culprits(case, volume.array))
        msg = f"{files}: {error}"
        raise PredictionError(msg) from error


def _find_culprits(case: Case, array: NDArray[np.float32]) -> Sequence[Path]:
    """The files with values that are not finite; all files where there is none, or one file holds all channels."""
    if len(case.image_paths) != len(array):
        return case.image_paths
    pairs = zip(case.image_paths, array, strict=True)
    return [path for path, channel in pairs if not np.isfinite(channel).all()] or case.image_paths


def _report(failures: Sequence[Failure], out: Path, *, total: int) -> None:
    lines = [*list_problems(failures)]
    lines += write_failure_log(out / "prediction.log", failures)
    rest = "; the others are written:" if len(failures) < total else ":"
    heading = f"{len(failures)} of {total} images failed{rest}"
    raise CasesFailedError(heading, lines)
