"""Segments a folder of images with a trained model; one failing image does not stop the others."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoseg import __version__
from autoseg.dataset import Case
from autoseg.dataset.folds import name_folds
from autoseg.dataset.label_entries import warn_of_region_order
from autoseg.document import read_document, write_document
from autoseg.errors import PredictionError, Problem, group_problems
from autoseg.file_endings import strip_ending
from autoseg.inference.ensemble import Ensemble, load_ensemble
from autoseg.inference.execution.preparation import ExecutionChoice
from autoseg.inference.options import Decoding, PredictionOptions, Workload
from autoseg.inference.view_disagreement import averages_samples
from autoseg.plan.document import Plan
from autoseg.postprocessing.rules import Rule
from autoseg.processes.progress import Progress
from autoseg.run_folder import RunFolder, open_run
from autoseg.runtime.cpu_threads import adaptive_cpu_threads
from autoseg.runtime.device import find_device
from autoseg.runtime.precision import Precision
from autoseg.runtime.provenance import read_versions
from autoseg.volume_io import PROBABILITIES_ENDING
from autoseg.volume_io.dicom import DicomFormat
from autoseg.workflows.cascade import warn_of_stale_stages
from autoseg.workflows.cases.loop import check_failures, collect_failures
from autoseg.workflows.predict.attention_maps import MAPS_FOLDER, build_recorder, check_attention_maps
from autoseg.workflows.predict.boxes import merge_boxes, remove_old_boxes
from autoseg.workflows.predict.budget import Way, describe_duration, fit_budget
from autoseg.workflows.predict.folder_preparation import check_unchanged, prepare_folder
from autoseg.workflows.predict.found_images import (
    FoundImages,
    ImageSource,
    check_other_folder,
    find_predicted_images,
    list_incomplete,
)
from autoseg.workflows.predict.image_steps import ImageSteps, Recorder
from autoseg.workflows.predict.objects import (
    build_object_finder,
    check_objects_unchanged,
    merge_tables,
    remove_old_objects,
)
from autoseg.workflows.predict.prediction_folder import (
    PLAN_NAME,
    RECORD_NAME,
    EnsembleMember,
    PredictionRecord,
    complete_record,
    list_changes,
    lock_record,
    read_record,
)
from autoseg.workflows.predict.quality import (
    QualityEstimator,
    build_estimator,
    describe_quality,
    merge_quality,
    read_quality,
)
from autoseg.workflows.predict.recorded_maps import check_no_maps, remove_old_maps
from autoseg.workflows.predict.uncertainty_maps import UNCERTAINTY_FOLDER, build_uncertainty_recorder, list_compared
from autoseg.workflows.select.model_choice import ModelChoice, check_weights, hash_ensemble, resolve_models
from autoseg.workflows.select.selection_document import NAMES_JOINED_BY

LoadEnsemble = Callable[..., Ensemble]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionRequest:
    """The request of the user.

    Attributes:
        configuration: None takes what was selected (selection.json), else the one that is trained. One that is named,
            like a fold, leaves the selection aside.
        folds: None takes those that were selected, else every trained one.
        options: Options of the prediction; None takes what was selected, else the usual ones.
        mirroring: Changes `options`; None leaves it as it is, and so do the next two.
        budget_seconds: Time for an image on average, into which the prediction is fitted; None for no limit.
        postprocessing: Whether the postprocessing that was selected is applied.
        attention_maps: Whether the attention maps of the networks are written, too.
        uncertainty: Whether maps of entropy and disagreement are written, too.
        series: DICOM series to segment, each by UID, number or description; empty for all.
        formats: Formats of DICOM in which the results of series are written besides NIfTI.
        terms: File with coded terms of classes for these formats; None for those that the model knows.
    """

    configuration: str | None = None
    folds: tuple[str, ...] | None = None
    options: PredictionOptions | None = None
    mirroring: bool | None = None
    step_fraction: float | None = None
    decoding: Decoding | None = None
    budget_seconds: float | None = None
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
    terms: Path | None = None

    def __post_init__(self) -> None:
        """Takes folds also as numbers, and a single one by itself."""
        object.__setattr__(self, "folds", name_folds(self.folds))

    def choose_options(self, selected: PredictionOptions) -> PredictionOptions:
        """Chooses the options of the prediction: those of the request before those that were selected.

        Raises:
            PredictionError: The step is not above 0, or above 1.
        """
        named = {"mirroring": self.mirroring, "step_fraction": self.step_fraction, "decoding": self.decoding}
        changes: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        return replace(self.options or selected, **changes)

    @property
    def named_options(self) -> tuple[str, ...]:
        """Names of the options that the user chose, and that no budget changes."""
        named = {"mirroring": self.mirroring, "step_fraction": self.step_fraction}
        return tuple(name for name, value in named.items() if self.options is not None or value is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionOutcome:
    """Numbers of label maps that were written now and that had been there."""

    written: int
    kept: int

    def describe(self) -> str:
        """One line for the user."""
        kept = f", {self.kept} finished earlier and kept (--overwrite replaces them)" if self.kept else ""
        return f"{self.written} label map{'' if self.written == 1 else 's'} written{kept}"


def predict_images(
    run_root: Path,
    images: ImageSource,
    out: Path,
    *,
    request: PredictionRequest,
    progress: Progress,
    load: LoadEnsemble | None = None,
) -> PredictionOutcome:
    """Writes one label map per image, on the image's own grid, with the ending of the dataset.

    A repeated call keeps what is finished, provided that the same model and options made it.

    Args:
        run_root: Run with the models.
        images: Folder of images, or one image; or series that were found before.
        out: Folder for the label maps.
        request: The request of the user.
        progress: Receives the progress.
        load: Loads the models, with the arguments of `load_ensemble`, which is the default.

    Raises:
        RunError: The run does not exist, or `out` holds results of another model or other options.
        PredictionError: There is no trained model, or there are no images for it, or `out` is their folder.
        SelectionError: What was selected was trained again since.
        CasesFailedError: Some images failed, or lack channels; the others are written.
    """
    run = open_run(run_root)
    check_other_folder(images, out)
    with adaptive_cpu_threads(find_device(request.device), announce=progress.note):
        return _predict_images(run, images, out, request=request, progress=progress, load=load or load_ensemble)


def _predict_images(
    run: RunFolder,
    images: ImageSource,
    out: Path,
    *,
    request: PredictionRequest,
    progress: Progress,
    load: LoadEnsemble,
) -> PredictionOutcome:
    choice = resolve_models(
        run,
        configuration=request.configuration,
        folds=request.folds,
        postprocessing=request.postprocessing,
        progress=progress,
    )
    _check_maps(run, choice, out, request)
    found = find_predicted_images(
        images, run, series=request.series, formats=request.formats, terms=request.terms, progress=progress
    )
    way, weights = _choose_way(run, choice, found, request=request, load=load, progress=progress)
    model = way.model
    progress.note(model.describe())
    for warning in (*warn_of_region_order(model.plan.labels), *warn_of_stale_stages(run, model.members)):
        progress.note(warning)
    cases = found.cases
    outputs = {path: found.describe(case) for case in cases for path in _find_outputs(case, out, found, request)}
    check_inputs_are_kept(cases, tuple(outputs))
    estimator = build_estimator(run, model.plan, choice, weights=weights, options=way.options)
    finder = build_object_finder(model.plan, choice.selection, out, formats=request.formats)
    recorder = _build_recorder(way, out, request, progress)
    record = _describe_way(way, run, found.source, request, weights=weights, rules=choice.rules)
    record = record.model_copy(
        update={
            "outputs": {path.name: image for path, image in outputs.items()},
            "objects": () if finder is None else finder.rules,
            "disagreement_of": list_compared(recorder),
        }
    )
    record = _open_folder(out, record, model.plan, estimator, overwrite=request.overwrite)
    odd: list[Problem] = []
    steps = ImageSteps(
        out=out,
        model=model,
        found=found,
        record=record,
        recorder=recorder,
        estimator=estimator,
        finder=finder,
        save_probabilities=request.save_probabilities,
        progress=progress,
        warn=odd.append,
    )
    waiting = steps.list_waiting(cases, lambda case: _find_outputs(case, out, found, request))
    written = [path.name for case in waiting for path in _find_outputs(case, out, found, request)]
    check_unchanged(out, written, record.sha256)
    check_objects_unchanged(out, written)
    failures = list_incomplete(found.problems)
    total = len(cases) + len(failures)
    events = steps.predict(waiting)
    started = time.perf_counter()
    try:
        failures += collect_failures(events, progress=progress, label="Predicting", total=len(waiting), unit="image")
    finally:
        with lock_record(out):
            complete_record(out)
            _merge_tables(out, record, tells_objects=finder is not None)
            quality = merge_quality(out, estimator, model=record.model)
    for line in describe_quality(quality):
        progress.note(line)
    if request.budget_seconds is not None and waiting:
        progress.note(describe_duration(time.perf_counter() - started, len(waiting), request.budget_seconds))
    for problem in group_problems(odd):
        progress.note(f"warning: {problem.describe()}")
    check_failures(failures, total=total, log=out / "prediction.log", unit="image")
    return PredictionOutcome(written=len(waiting), kept=len(cases) - len(waiting))


def _merge_tables(out: Path, record: PredictionRecord, *, tells_objects: bool) -> None:
    names = (read_record(out) or record).outputs
    if tells_objects:
        merge_tables(out, names)
    merge_boxes(out, names)


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


def _build_recorder(way: Way, out: Path, request: PredictionRequest, progress: Progress) -> Recorder | None:
    if request.attention_maps:
        return build_recorder(way.model.members[0], out)
    if not request.uncertainty:
        return None
    return build_uncertainty_recorder(way.model, out, mirroring=way.options.mirroring, announce=progress.note)


def _open_folder(
    out: Path, record: PredictionRecord, plan: Plan, estimator: QualityEstimator, *, overwrite: bool
) -> PredictionRecord:
    """Prepares the folder for a prediction; returns the record with everything that it is to hold."""
    wanted = record.outputs.keys()
    with lock_record(out):
        read_quality(out)  # before anything is removed or written
        earlier = read_record(out)
        if overwrite:
            replaced = {} if earlier is None or not list_changes(earlier, record) else earlier.outputs
            check_objects_unchanged(out, {*wanted, *replaced})
        record = prepare_folder(out, record, overwrite=overwrite)
        write_document(out / RECORD_NAME, record)  # first: a plan alone would be taken for a run's
        write_document(out / PLAN_NAME, plan)
        merge_quality(out, estimator, model=record.model)
        if overwrite:  # still under the lock: others that predict into this folder may write maps from then on
            made = wanted if earlier is None else wanted | earlier.outputs.keys()
            kept = record.outputs.keys() - wanted
            removed, others = ({strip_ending(name) for name in names} for names in (made - kept, kept))
            for folder in (MAPS_FOLDER, UNCERTAINTY_FOLDER):
                remove_old_maps(out / folder, removed=removed, kept=others)
            remove_old_objects(out, removed=made - kept)
            remove_old_boxes(out, removed=made - kept)
    return record


def _choose_way(
    run: RunFolder,
    choice: ModelChoice,
    found: FoundImages,
    *,
    request: PredictionRequest,
    load: LoadEnsemble,
    progress: Progress,
) -> tuple[Way, tuple[tuple[str, ...], ...]]:
    """Loads the models, and fits them into the budget, if there is one; returns also the digests of their weights."""
    options = request.choose_options(choice.options)
    is_open = request.uncertainty and request.execution == "auto"  # maps of samples need networks that are not compiled
    is_eager = request.attention_maps or (is_open and averages_samples(read_document(run.plan, Plan)))
    model = load(
        run.root,
        choice.members,
        device=request.device,
        precision=request.precision,
        execution="eager" if is_eager else request.execution,
        workload=Workload(images=len(found.cases), options=options),
    )
    weights = hash_ensemble(run, model)
    check_weights(run, choice, weights)
    usual = Way(model=model, options=options)
    if request.budget_seconds is None:
        return usual, weights
    way = fit_budget(
        usual,
        found,
        budget_seconds=request.budget_seconds,
        measured=None if choice.selection is None else choice.selection.prediction,
        kept=request.named_options,
        progress=progress,
    )
    return way, hash_ensemble(run, way.model)


def _describe_way(
    way: Way,
    run: RunFolder,
    source: str,
    request: PredictionRequest,
    *,
    weights: Sequence[tuple[str, ...]],
    rules: tuple[Rule, ...],
) -> PredictionRecord:
    model, options = way.model, way.options
    members = tuple(EnsembleMember(configuration=part.configuration, folds=part.folds) for part in model.members)
    return PredictionRecord(
        autoseg_version=__version__,
        model=run.root.name,
        images=source,
        configuration=NAMES_JOINED_BY.join(member.configuration for member in members),
        folds=tuple(dict.fromkeys(fold for member in members for fold in member.folds)),
        weights_sha256=tuple(digest for of_member in weights for digest in of_member),
        mirroring=options.mirroring,
        step_fraction=options.step_fraction,
        decoding=options.decoding,
        budget_seconds=request.budget_seconds,
        given_up=way.given_up,
        number_type=model.members[0].dtype,
        execution=tuple(stage.execution for member in model.members for stage in member.stages),
        probabilities=request.save_probabilities,
        ensemble=members if len(members) > 1 else (),
        pruned_depth=model.members[0].pruned_depth if len(members) == 1 else None,
        postprocessing=rules,
        versions=read_versions(),
    )


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
