"""Segments a folder of images with a trained model; one failing image does not stop the others."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autoseg import __version__
from autoseg.dataset import Case
from autoseg.dataset.label_entries import warn_of_region_order
from autoseg.document import write_document
from autoseg.errors import PlanError, PredictionError, Problem, VolumeError, group_problems
from autoseg.file_endings import strip_ending
from autoseg.geometry import Grid
from autoseg.inference.ensemble import Ensemble, load_ensemble
from autoseg.inference.execution.preparation import ExecutionChoice
from autoseg.inference.options import PredictionOptions, Workload
from autoseg.plan.document import Plan
from autoseg.postprocessing.application import postprocess_label_map
from autoseg.postprocessing.rules import Rule
from autoseg.processes.case_pool import Failure
from autoseg.processes.progress import Progress
from autoseg.quality.features import NetworkFeatures
from autoseg.run_folder import RunFolder, open_run
from autoseg.runtime.cpu_threads import adaptive_cpu_threads
from autoseg.runtime.device import find_device
from autoseg.runtime.precision import Precision
from autoseg.runtime.provenance import read_versions
from autoseg.stages.staged_case import StagedCase
from autoseg.volume_io import PROBABILITIES_ENDING, write_probabilities
from autoseg.volume_io.dicom import DicomFormat, SegmentedBy
from autoseg.workflows.cases.loop import check_failures, collect_failures, predict_each
from autoseg.workflows.predict.attention_maps import MAPS_FOLDER, MapRecorder, build_recorder, check_attention_maps
from autoseg.workflows.predict.found_images import FoundImages, find_predicted_images
from autoseg.workflows.predict.prediction_folder import (
    PLAN_NAME,
    RECORD_NAME,
    EnsembleMember,
    PredictionRecord,
    complete_record,
    lock_record,
    prepare_folder,
    write_recorded,
)
from autoseg.workflows.predict.quality import (
    QualityEstimator,
    add_quality,
    build_estimator,
    describe_quality,
    merge_quality,
    read_quality,
)
from autoseg.workflows.predict.recorded_maps import Maps, check_no_maps, remove_old_maps, write_maps
from autoseg.workflows.predict.uncertainty_maps import (
    UNCERTAINTY_FOLDER,
    UncertaintyRecorder,
    build_uncertainty_recorder,
)
from autoseg.workflows.select.model_choice import ModelChoice, check_weights, hash_ensemble, resolve_models
from autoseg.workflows.select.selection_document import NAMES_JOINED_BY

LoadEnsemble = Callable[..., Ensemble]
Recorder = MapRecorder | UncertaintyRecorder
Predicted = tuple[tuple[Tensor, ...], Sequence[StagedCase], Maps]
"""The logits of each member of an ensemble for a case, the case as each of them got it, and maps to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionRequest:
    """The request of the user.

    Attributes:
        configuration: None takes what was selected (selection.json), else the one that is trained. One that is named,
            like a fold, leaves the selection aside.
        folds: None takes those that were selected, else every trained one.
        postprocessing: Whether the postprocessing that was selected is applied.
        attention_maps: Whether the attention maps of the networks are written, too.
        uncertainty: Whether maps of entropy and disagreement are written, too.
        series: DICOM series to segment, each by UID, number or description; empty for all.
        formats: Formats of DICOM in which the results of series are written besides NIfTI.
    """

    configuration: str | None = None
    folds: tuple[str, ...] | None = None
    options: PredictionOptions
    postprocessing: bool = True
    save_probabilities: bool = False
    attention_maps: bool = False
    uncertainty: bool = False
    device: str = "auto"
    precision: Precision = "auto"
    execution: ExecutionChoice = "auto"
    overwrite: bool = False
    series: tuple[str, ...] = ()
    formats: tuple[DicomFormat, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionOutcome:
    """Numbers of label maps that were written now and that had been there."""

    written: int
    kept: int

    def describe(self) -> str:
        """One line for the user."""
        kept = f", {self.kept} finished earlier and kept (--overwrite replaces them)" if self.kept else ""
        return f"{self.written} label maps written{kept}"


def predict_images(
    run_root: Path,
    images: Path,
    out: Path,
    *,
    request: PredictionRequest,
    progress: Progress,
    load: LoadEnsemble = load_ensemble,
) -> PredictionOutcome:
    """Writes one label map per image, on the image's own grid, with the ending of the dataset.

    A repeated call keeps what is finished, provided that the same model and options made it.

    Args:
        run_root: Run with the models.
        images: Folder of images, or one image.
        out: Folder for the label maps.
        request: The request of the user.
        progress: Receives the progress.
        load: Loads the models, with the arguments of `load_ensemble`.

    Raises:
        RunError: The run does not exist, or `out` holds results of another model or other options.
        PredictionError: There is no trained model, or there are no images for it, or `out` is their folder.
        SelectionError: What was selected was trained again since.
        CasesFailedError: Some images failed, or lack channels; the others are written.
    """
    run = open_run(run_root)
    check_other_folder(images, out)
    with adaptive_cpu_threads(find_device(request.device), announce=progress.note):
        return _predict_images(run, images, out, request=request, progress=progress, load=load)


def _predict_images(
    run: RunFolder, images: Path, out: Path, *, request: PredictionRequest, progress: Progress, load: LoadEnsemble
) -> PredictionOutcome:
    choice = resolve_models(
        run,
        configuration=request.configuration,
        folds=request.folds,
        postprocessing=request.postprocessing,
        progress=progress,
    )
    _check_maps(run, choice, out, request)
    found = find_predicted_images(images, run, series=request.series, formats=request.formats, progress=progress)
    model = load(
        run.root,
        choice.members,
        device=request.device,
        precision=request.precision,
        execution="eager" if request.attention_maps else request.execution,
        workload=Workload(images=len(found.cases), options=request.options),
    )
    weights = hash_ensemble(run, model)
    check_weights(run, choice, weights)
    progress.note(model.describe())
    for warning in warn_of_region_order(model.plan.labels):
        progress.note(warning)
    cases = found.cases
    outputs = {path: found.describe(case) for case in cases for path in _find_outputs(case, out, found, request)}
    check_inputs_are_kept(cases, tuple(outputs))
    estimator = build_estimator(run, model.plan, choice, weights=weights, options=request.options)
    record = _describe_model(model, run, found.source, request, weights=weights, rules=choice.rules)
    record = record.model_copy(update={"outputs": {path.name: image for path, image in outputs.items()}})
    record = _open_folder(out, record, model.plan, estimator, overwrite=request.overwrite)
    recorder = _build_recorder(model, out, request)
    waiting = [case for case in cases if not _is_finished(case, out, found, request, recorder=recorder)]
    failures = list_incomplete(found.problems)
    total = len(cases) + len(failures)
    odd: list[Problem] = []
    read = partial(_read, model, odd, found)
    events = _predict_images_of(
        waiting,
        out,
        model,
        found=found,
        request=request,
        record=record,
        progress=progress,
        read=read,
        recorder=recorder,
        estimator=estimator,
    )
    try:
        failures += collect_failures(events, progress=progress, label="Predicting", total=len(waiting), unit="image")
    finally:
        with lock_record(out):
            complete_record(out)
            quality = merge_quality(out, estimator, model=record.model)
    for line in describe_quality(quality):
        progress.note(line)
    for problem in group_problems(odd):
        progress.note(f"warning: {problem.describe()}")
    check_failures(failures, total=total, log=out / "prediction.log", unit="image")
    return PredictionOutcome(written=len(waiting), kept=len(cases) - len(waiting))


def list_incomplete(problems: Sequence[Problem]) -> list[Failure]:
    """Lists the images that have problems before anything is predicted."""
    of_case: dict[str, list[Problem]] = {}
    for problem in problems:
        for name in dict.fromkeys(problem.cases):
            of_case.setdefault(name, []).append(problem)
    return [Failure(case=name, problems=tuple(found)) for name, found in of_case.items()]


def _check_maps(run: RunFolder, choice: ModelChoice, out: Path, request: PredictionRequest) -> None:
    """Checks that the maps that are asked for can be made, and that there are no others."""
    if request.attention_maps and request.uncertainty:
        msg = "attention maps and maps of uncertainty cannot be recorded at once; leave out --attention-maps"
        raise PredictionError(msg)
    if request.attention_maps:
        check_attention_maps(run, choice.members, execution=request.execution)
    else:
        check_no_maps(out / MAPS_FOLDER, kind="attention maps", flag="--attention-maps")
    if not request.uncertainty:
        check_no_maps(out / UNCERTAINTY_FOLDER, kind="maps of uncertainty", flag="--uncertainty")


def _build_recorder(model: Ensemble, out: Path, request: PredictionRequest) -> Recorder | None:
    if request.attention_maps:
        return build_recorder(model.members[0], out)
    return build_uncertainty_recorder(model, out) if request.uncertainty else None


def _open_folder(
    out: Path, record: PredictionRecord, plan: Plan, estimator: QualityEstimator, *, overwrite: bool
) -> PredictionRecord:
    """Prepares the folder for a prediction; returns the record with everything that it is to hold."""
    wanted = record.outputs.keys()
    with lock_record(out):
        read_quality(out)  # before anything is removed or written
        record = prepare_folder(out, record, overwrite=overwrite)
        write_document(out / RECORD_NAME, record)  # first: a plan alone would be taken for a run's
        write_document(out / PLAN_NAME, plan)
        merge_quality(out, estimator, model=record.model)
    if overwrite:
        kept = [strip_ending(name) for name in record.outputs.keys() - wanted]
        for folder in (MAPS_FOLDER, UNCERTAINTY_FOLDER):
            remove_old_maps(out / folder, kept=kept)
    return record


def _describe_model(
    model: Ensemble,
    run: RunFolder,
    source: str,
    request: PredictionRequest,
    *,
    weights: Sequence[tuple[str, ...]],
    rules: tuple[Rule, ...],
) -> PredictionRecord:
    members = tuple(EnsembleMember(configuration=part.configuration, folds=part.folds) for part in model.members)
    return PredictionRecord(
        autoseg_version=__version__,
        model=run.root.name,
        images=source,
        configuration=NAMES_JOINED_BY.join(member.configuration for member in members),
        folds=tuple(dict.fromkeys(fold for member in members for fold in member.folds)),
        weights_sha256=tuple(digest for of_member in weights for digest in of_member),
        mirroring=request.options.mirroring,
        step_fraction=request.options.step_fraction,
        number_type=model.members[0].dtype,
        execution=tuple(stage.execution for member in model.members for stage in member.stages),
        probabilities=request.save_probabilities,
        ensemble=members if len(members) > 1 else (),
        pruned_depth=model.members[0].pruned_depth if len(members) == 1 else None,
        postprocessing=rules,
        versions=read_versions(),
    )


def check_other_folder(images: Path, out: Path) -> None:
    """Refuses to write among the images, as the next call would take label maps for images.

    Raises:
        PredictionError: Both are the same folder.
    """
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


def _find_outputs(case: Case, out: Path, found: FoundImages, request: PredictionRequest) -> tuple[Path, ...]:
    names = list(found.list_outputs(case))
    if request.save_probabilities:
        names.append(f"{case.name}{PROBABILITIES_ENDING}")
    return tuple(out / name for name in names)


def _is_finished(
    case: Case, out: Path, found: FoundImages, request: PredictionRequest, *, recorder: Recorder | None
) -> bool:
    maps = () if recorder is None else recorder.find_paths(case.name)
    return all(path.is_file() for path in (*_find_outputs(case, out, found, request), *maps))


def _predict_images_of(
    cases: Sequence[Case],
    out: Path,
    model: Ensemble,
    *,
    found: FoundImages,
    request: PredictionRequest,
    record: PredictionRecord,
    progress: Progress,
    read: Callable[[Case], tuple[StagedCase, ...]],
    recorder: Recorder | None,
    estimator: QualityEstimator,
) -> Iterator[Failure | None]:
    made_by = SegmentedBy(version=record.autoseg_version, model=record.model, weights=record.weights_sha256[0])

    def predict(case: Case, read: Sequence[StagedCase]) -> Predicted:
        show = partial(progress.show_part, case.name)
        maps: Maps = {}
        if recorder is None:
            logits = model.predict_case(read, options=request.options, on_window=show)
        else:
            logits, maps = recorder.predict_case(case.name, read, options=request.options, on_window=show)
        return logits, read, maps

    def restore(case: Case, predicted: Predicted) -> tuple[NDArray[np.integer], Grid, NetworkFeatures, Maps]:
        logits, read, maps = predicted
        geometries, grid = [member.geometry for member in read], read[0].geometry.grid
        if request.save_probabilities:
            path, shape = out / f"{case.name}{PROBABILITIES_ENDING}", (len(logits[0]), *grid.shape_voxels)
            with write_recorded(path, record) as temporary:
                write_probabilities(temporary, shape, model.iterate_probabilities(logits, geometries))
        features = estimator.measure(model, logits, read)
        return model.restore_label_map(logits, geometries), grid, features, maps

    def write(case: Case, segmented: tuple[NDArray[np.integer], Grid, NetworkFeatures, Maps]) -> None:
        label_map, grid, features, maps = segmented
        write_maps(maps, grid)
        rules, labels = record.postprocessing, model.plan.labels
        finished = postprocess_label_map(label_map, rules, labels=labels, spacing_mm=grid.spacing_mm)
        names, refused = found.list_outputs(case), []
        add_quality(out, estimator.estimate(case.name, names[0], finished, grid=grid, network=features))
        for name in names:  # each stands alone: one that is refused does not keep the others away
            try:
                with write_recorded(out / name, record) as temporary:
                    found.write(temporary, finished, grid, case=case, made_by=made_by)
            except VolumeError as error:
                refused.append(error)
        if refused:
            raise refused[0]

    return predict_each(
        cases,
        get_name=lambda case: case.name,
        read=read,
        predict=predict,
        finish=restore,
        write=write,
        device=model.members[0].device,
    )


def _read(model: Ensemble, warnings: list[Problem], found: FoundImages, case: Case) -> tuple[StagedCase, ...]:
    volume = found.read(case)
    try:
        return model.preprocess(
            volume.array,
            volume.grid,
            warn=lambda text: warnings.append(Problem(text=text, cases=(case.name,))),
        )
    except (PlanError, PredictionError) as error:
        msg = f"{found.name_files(case, volume.array)}: {error}"
        raise PredictionError(msg) from error
