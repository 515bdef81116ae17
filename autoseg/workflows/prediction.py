"""Segments a folder of images with a trained model; one failing image does not stop the others."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autoseg import __version__
from autoseg.dataset import Case, find_images
from autoseg.document import Document, read_document, write_document
from autoseg.errors import CasesFailedError, PredictionError, RunError
from autoseg.geometry import Grid
from autoseg.inference.execution import Execution, ExecutionChoice
from autoseg.inference.model import SegmentationModel, load_model
from autoseg.inference.options import PredictionOptions, Workload
from autoseg.networks.precision import NumberType, Precision
from autoseg.plan import Plan
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.progress import Progress
from autoseg.run_folder import RunFolder, make_folder, open_run
from autoseg.volume_io import (
    PROBABILITIES_ENDING,
    label_map_ending,
    read_image,
    write_label_map,
    write_probabilities,
)
from autoseg.workflows.case_pool import Failure, build_failure, describe_failures, write_failure_log
from autoseg.workflows.overlap import overlap_stages
from autoseg.workflows.versions import LibraryVersions, measure_versions

RECORD_NAME = "prediction.json"
PLAN_NAME = "plan.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionRequest:
    """What the user asked for.

    Attributes:
        configuration: None takes the one that is trained.
        folds: None takes every trained fold.
    """

    configuration: str | None = None
    folds: tuple[str, ...] | None = None
    options: PredictionOptions
    save_probabilities: bool = False
    device: str = "auto"
    precision: Precision = "auto"
    execution: ExecutionChoice = "auto"
    overwrite: bool = False


class PredictionRecord(Document):
    """How the label maps of a folder were made.

    Attributes:
        execution: What ran the networks, one for each stage; empty in records of earlier versions.
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
        PredictionError: There is no trained model, or there are no images for it.
        CasesFailedError: Some images failed; the others are written.
    """
    run = open_run(run_root)
    model = load_model(
        run.root,
        configuration=request.configuration,
        folds=request.folds,
        device=request.device,
        precision=request.precision,
        execution=request.execution,
        workload=_estimate_workload(run, images, request),
    )
    progress.note(model.describe())
    cases = find_images(images, channel_count=len(model.plan.channels), file_ending=model.plan.file_ending)
    outputs = [path for case in cases for path in _find_outputs(case, out, model, request)]
    check_inputs_are_kept(cases, outputs)
    record = _describe_model(model, run, images, request)
    _prepare_folder(out, record, outputs, overwrite=request.overwrite)
    write_document(out / PLAN_NAME, model.plan)
    write_document(out / RECORD_NAME, record)
    waiting = [case for case in cases if not _is_finished(case, out, model, request)]
    failures: list[Failure] = []
    events = _predict_each(waiting, out, model, request=request, progress=progress)
    for failure in progress.track(events, label="Predicting", total=len(waiting), unit="image"):
        failures += [] if failure is None else [failure]
    if failures:
        _report(failures, out, total=len(cases))
    return PredictionOutcome(written=len(waiting), kept=len(cases) - len(waiting))


def _estimate_workload(run: RunFolder, images: Path, request: PredictionRequest) -> Workload:
    """By the number of files, before anything is known of the model; it only decides what preparation pays."""
    files = sum(1 for _ in images.iterdir()) if images.is_dir() else 1
    channels = len(read_document(run.plan, Plan).channels)
    return Workload(images=max(1, files // channels), options=request.options)


def _describe_model(
    model: SegmentationModel, run: RunFolder, images: Path, request: PredictionRequest
) -> PredictionRecord:
    checkpoints = [
        run.fold(stage.configuration, fold).final_checkpoint for stage in model.stages for fold in stage.folds
    ]
    return PredictionRecord(
        autoseg_version=__version__,
        model=run.root.name,
        images=str((images if images.is_dir() else images.parent).resolve()),
        configuration=model.configuration,
        folds=tuple(model.folds),
        weights_sha256=tuple(_hash_file(path) for path in checkpoints),
        mirroring=request.options.mirroring,
        step_fraction=request.options.step_fraction,
        number_type=model.number_type,
        execution=tuple(stage.execution for stage in model.stages),
        probabilities=request.save_probabilities,
        versions=measure_versions(),
    )


def _hash_file(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


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


def _prepare_folder(out: Path, record: PredictionRecord, outputs: Sequence[Path], *, overwrite: bool) -> None:
    """Keeps what the same model and options made; what anything else made needs permission to be replaced."""
    make_folder(out)
    path = out / RECORD_NAME
    if (out / PLAN_NAME).exists() and not path.exists():
        msg = f"{out} holds a plan.json that is not of a prediction, perhaps it is a run; choose another folder"
        raise RunError(msg)
    if overwrite:
        for output in (*outputs, *_list_earlier_outputs(out, path)):
            output.unlink(missing_ok=True)
        return
    if not path.exists():
        _refuse_strangers(out, outputs)
        return
    _refuse_other_predictions(out, read_document(path, PredictionRecord), record)


def _list_earlier_outputs(out: Path, record_path: Path) -> list[Path]:
    """All label maps and probabilities of an earlier prediction: one folder never holds those of two models."""
    if not record_path.exists():
        return []
    endings = (PROBABILITIES_ENDING, label_map_ending(read_document(out / PLAN_NAME, Plan).file_ending))
    return [record_path, *(path for path in out.iterdir() if path.name.endswith(endings))]


def _refuse_strangers(out: Path, outputs: Sequence[Path]) -> None:
    existing = [output.name for output in outputs if output.exists()]
    if existing:
        msg = (
            f"{out} holds files that label maps would replace, such as {existing[0]} ({len(existing)} in all); "
            f"choose another folder, or replace them with --overwrite"
        )
        raise RunError(msg)


def _refuse_other_predictions(out: Path, earlier: PredictionRecord, record: PredictionRecord) -> None:
    changes = [
        f"{field}: {getattr(earlier, field)} there, {getattr(record, field)} now"
        for field in ("images", "configuration", "folds", "weights_sha256", "mirroring", "step_fraction", "number_type")
        if getattr(earlier, field) != getattr(record, field)
    ]
    if changes:
        msg = (
            f"{out} holds predictions made in another way ({'; '.join(changes)}); "
            f"choose another folder, or replace them with --overwrite"
        )
        raise RunError(msg)


def _find_outputs(case: Case, out: Path, model: SegmentationModel, request: PredictionRequest) -> tuple[Path, ...]:
    label_map = out / f"{case.name}{label_map_ending(model.plan.file_ending)}"
    return (label_map, out / f"{case.name}{PROBABILITIES_ENDING}") if request.save_probabilities else (label_map,)


def _is_finished(case: Case, out: Path, model: SegmentationModel, request: PredictionRequest) -> bool:
    return all(path.is_file() for path in _find_outputs(case, out, model, request))


def _predict_each(
    cases: Sequence[Case], out: Path, model: SegmentationModel, *, request: PredictionRequest, progress: Progress
) -> Iterator[Failure | None]:
    def segment(case: Case, read: PreprocessedCase) -> tuple[NDArray[np.integer], Grid]:
        show = partial(progress.show_part, case.name)
        logits = model.predict_case(read, options=request.options, on_window=show)
        if request.save_probabilities:
            path, shape = out / f"{case.name}{PROBABILITIES_ENDING}", (len(logits), *read.geometry.grid.shape_voxels)
            write_probabilities(path, shape, model.iterate_probabilities(logits, read.geometry))
        return model.restore_label_map(logits, read.geometry), read.geometry.grid

    def write(case: Case, segmented: tuple[NDArray[np.integer], Grid]) -> None:
        path = _find_outputs(case, out, model, request)[0]
        write_label_map(path, segmented[0], grid=segmented[1], like=case.image_paths[0])

    for case, error in overlap_stages(cases, read=partial(_read, model), work=segment, write=write):
        yield None if error is None else build_failure(case.name, error)


def _read(model: SegmentationModel, case: Case) -> PreprocessedCase:
    volume = read_image(case.image_paths)
    return model.preprocess(volume.array, volume.grid)


def _report(failures: Sequence[Failure], out: Path, *, total: int) -> None:
    lines = [*describe_failures(failures)]
    if any(failure.traceback for failure in failures):
        log = out / "prediction.log"
        write_failure_log(log, failures)
        lines.append(f"tracebacks of unexpected errors are in {log}")
    rest = "; the others are written:" if len(failures) < total else ":"
    heading = f"{len(failures)} of {total} images failed{rest}"
    raise CasesFailedError(heading, lines)
