"""Predicts the images of a folder one by one in the workers of a place, each of which keeps the loaded model.

Each task is a prediction of its own that writes into the same folder, like a job of an array: it ends with the whole
file and its entry in the record, or changes nothing, and may be repeated.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from autoseg.dataset import Case
from autoseg.document import read_document
from autoseg.errors import OptionError, Problem, VolumeError
from autoseg.files.checksums import FileVersion, find_version
from autoseg.geometry import Grid
from autoseg.inference.ensemble import Ensemble, MemberChoice, load_ensemble
from autoseg.inference.execution.preparation import ExecutionChoice
from autoseg.inference.folds import find_trained_folds
from autoseg.inference.options import Workload
from autoseg.places.place import Place
from autoseg.plan.document import Plan
from autoseg.processes.case_pool import CaseSize, Failure, compute_worker_count
from autoseg.processes.progress import Progress, SilentProgress
from autoseg.quality.estimates import QualityReport
from autoseg.remote.cache_folder import is_in_cache
from autoseg.run_folder import RunFolder, open_run
from autoseg.runtime.precision import Precision
from autoseg.workflows.cases.image_memory import estimate_prediction_sizes
from autoseg.workflows.cases.loop import check_failures
from autoseg.workflows.plan.planning import find_network_cost
from autoseg.workflows.predict.found_images import (
    ImageFiles,
    ImageSource,
    SeriesImages,
    check_other_folder,
    find_predicted_images,
    list_incomplete,
)
from autoseg.workflows.predict.prediction import (
    PredictionOutcome,
    PredictionRequest,
    predict_images,
)
from autoseg.workflows.predict.prediction_folder import QUALITY_NAME
from autoseg.workflows.predict.quality import QUALITY_NOTE, describe_quality
from autoseg.workflows.select.model_choice import resolve_models
from autoseg.workflows.train.detached import CPU, check_device_kind

LABEL: Final = "Predicting"
BYTES_PER_WORKER: Final = 4 * 2**30  # networks, an image of 512 x 512 x 500 voxels and its logits (guess)


@dataclass(slots=True)
class _KeptNotes(SilentProgress):
    lines: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keeps the line."""
        self.lines.append(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ImageJobs:
    """Images to predict, and their sizes by name where a scheduler must know them."""

    found: ImageFiles | SeriesImages
    sizes: Mapping[str, CaseSize]
    uses_gpu: bool

    def list_jobs(self) -> list[tuple[str, Path | SeriesImages]]:
        return [(case.name, _select_image(self.found, case)) for case in self.found.cases]


def describe_predicting(
    run_root: Path, images: Path, out: Path, *, request: PredictionRequest, place: Place, progress: Progress
) -> str:
    """Describes the jobs that would predict the images.

    Raises:
        AutosegError: As `predict_images_in_tasks`.
        OptionError: The place has no jobs.
    """
    given = _find_jobs(run_root, images, out, request=request, place=place, progress=progress)
    return place.describe_cases(
        given.list_jobs(), label=LABEL, sizes=given.sizes, runs_networks=True, uses_gpu=given.uses_gpu
    )


def _find_jobs(
    run_root: Path, images: Path, out: Path, *, request: PredictionRequest, place: Place, progress: Progress
) -> _ImageJobs:
    """Finds the images, and what a scheduler must know of them.

    Raises:
        OptionError: Jobs would get series of DICOM, there is a budget, or the device of a job is named by its number.
        RunError: The run does not exist.
        PredictionError: There is no trained model, or there are no images for it, or `out` is their folder.
    """
    run = open_run(run_root)
    check_other_folder(images, out)
    if request.budget_seconds is not None:
        msg = "--budget is fitted to the speed of one computer, and --on uses several; leave out one of them"
        raise OptionError(msg)
    choice = resolve_models(
        run,
        configuration=request.configuration,
        folds=request.folds,
        postprocessing=request.postprocessing,
        progress=SilentProgress(),
    )
    found = find_predicted_images(
        images, run, series=request.series, formats=request.formats, terms=request.terms, progress=progress
    )
    if isinstance(found, SeriesImages) and place.is_detached:
        msg = (
            "jobs read below the run which files they work on, and those of DICOM series may name patients; predict "
            "them without --on or with --on dask, or convert them to NIfTI"
        )
        raise OptionError(msg)
    sizes = {}
    if place.is_detached:
        check_device_kind(request.device)
        names = tuple(member.configuration for member in choice.members if member.configuration is not None)
        cost = None if request.device != CPU else find_network_cost
        sizes = estimate_prediction_sizes(_read_grids(found), read_document(run.plan, Plan), names, measure_cost=cost)
    return _ImageJobs(found=found, sizes=sizes, uses_gpu=request.device != CPU)


def predict_images_in_tasks(
    run_root: Path, images: Path, out: Path, *, request: PredictionRequest, place: Place, progress: Progress
) -> PredictionOutcome:
    """Writes one label map per image, as `predict_images` does, by a task per image.

    Raises:
        AutosegError: As `_find_jobs`.
        CasesFailedError: Some images failed, or lack channels; the others are written.
        WorkerError: The workers of the place cannot work on the run.
    """
    given = _find_jobs(run_root, images, out, request=request, place=place, progress=progress)
    found, count = given.found, len(given.found.cases)
    outcome = place.run_over_cases(
        partial(predict_image, run_root=run_root, out=out, request=request, count=count),
        given.list_jobs(),
        workers=compute_worker_count(requested=None, case_count=count, bytes_per_case=BYTES_PER_WORKER),
        label=LABEL,
        progress=progress,
        sizes=given.sizes,
        runs_networks=True,
        uses_gpu=given.uses_gpu,
    )
    for line in dict.fromkeys(line for _, notes in outcome.results for line in notes):
        progress.note(line)
    if (out / QUALITY_NAME).is_file():
        for line in describe_quality(read_document(out / QUALITY_NAME, QualityReport)):
            progress.note(line)
    incomplete = list_incomplete(found.problems)
    failures = [*incomplete, *outcome.failures]
    if outcome.results:
        failures += _find_missing([case.name for case in found.cases], out, ending=found.ending, failures=failures)
    check_failures(failures, total=count + len(incomplete), log=out / "prediction.log", unit="image")
    written = sum(is_new for is_new, _ in outcome.results)
    return PredictionOutcome(written=written, kept=len(outcome.results) - written)


def _select_image(found: ImageFiles | SeriesImages, case: Case) -> ImageSource:
    """Returns what a worker is told of an image: a file, or the headers of series, which many files hold."""
    return found.select(case) if isinstance(found, SeriesImages) else case.image_paths[0]


def _read_grids(found: ImageFiles | SeriesImages) -> dict[str, Grid]:
    """Reads the headers of images that lie here; those that cannot be read are left to the tasks, which report them."""
    grids = {}
    for case in found.cases:
        with suppress(VolumeError):
            if not any(map(is_in_cache, case.image_paths)):  # a header by URL would cost the whole file
                grids[case.name] = found.read_grid(case)
    return grids


def predict_image(
    image: ImageSource, *, run_root: Path, out: Path, request: PredictionRequest, count: int
) -> tuple[bool, tuple[str, ...]]:
    """Predicts one image, with the model that this process has loaded for an earlier one, if it is the same.

    Returns:
        Whether it was written now, and notes.

    Args:
        image: File of the first channel, or the series of the image.
        run_root: Run with the models.
        out: Folder for the label maps.
        request: The request for the whole folder.
        count: Number of images of the whole folder.

    Raises:
        AutosegError: As for `predict_images`.
    """
    heard = _KeptNotes()
    outcome = predict_images(
        run_root, image, out, request=request, progress=heard, load=partial(load_kept_ensemble, count=count)
    )
    notes = tuple(line for line in heard.lines if not line.startswith(QUALITY_NOTE))  # of the images so far
    return outcome.written > 0, notes


def load_kept_ensemble(
    run_root: Path,
    members: Sequence[MemberChoice],
    *,
    device: str,
    precision: Precision,
    execution: ExecutionChoice,
    workload: Workload,
    count: int,
) -> Ensemble:
    """Returns the models that this process has loaded last, if nothing was trained since, or loads them.

    Args:
        run_root: Run with the models.
        members: Models whose probabilities are averaged.
        device: Device, as the user named it.
        precision: Precision, as the user named it.
        execution: Way to run the networks.
        workload: Options of the prediction.
        count: Number of images that the models are expected to predict.

    Raises:
        PredictionError: Something is not trained.
    """
    return _load_once(
        run_root=run_root,
        members=tuple(members),
        device=device,
        precision=precision,
        execution=execution,
        workload=replace(workload, images=count),
        trained=_list_trained(RunFolder(run_root)),
    )


@lru_cache(maxsize=1)  # models fill the memory of a GPU
def _load_once(
    *,
    run_root: Path,
    members: tuple[MemberChoice, ...],
    device: str,
    precision: Precision,
    execution: ExecutionChoice,
    workload: Workload,
    trained: tuple[FileVersion, ...],
) -> Ensemble:
    del trained
    return load_ensemble(run_root, members, device=device, precision=precision, execution=execution, workload=workload)


def _list_trained(run: RunFolder) -> tuple[FileVersion, ...]:
    names = read_document(run.plan, Plan).configurations
    folds = (run.fold(name, fold) for name in names for fold in find_trained_folds(run, name))
    return tuple(find_version(fold.final_checkpoint) for fold in folds)


def _find_missing(names: Sequence[str], out: Path, *, ending: str, failures: Sequence[Failure]) -> list[Failure]:
    """Finds label maps that workers wrote elsewhere: a folder of this name may exist on each computer."""
    failed = {failure.case for failure in failures}
    present = {path.name for path in out.iterdir()} if out.is_dir() else set()
    text = f"a worker has written its label map, but {out} does not hold it here; it must be on a shared file system"
    missing = [name for name in names if name not in failed and f"{name}{ending}" not in present]
    return [Failure(case=name, problems=(Problem(text=text, cases=(name,)),)) for name in missing]
