"""Makes synthetic training cases: trains a denoiser of images on the training cases of a fold, then draws with it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from autoseg.dataset.folds import Splits, select_fold
from autoseg.document import read_document, write_document
from autoseg.errors import RunError
from autoseg.networks.cost import measure_cost
from autoseg.networks.memory_limits import check_training_memory
from autoseg.networks.weights import hash_weights
from autoseg.plan.document import Plan
from autoseg.preprocessing.cache import is_case_written, write_case
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.preprocessing.class_locations import find_class_locations
from autoseg.processes.fold_lock import find_holder, lock_fold
from autoseg.processes.progress import Progress
from autoseg.processes.signals import StopRequest
from autoseg.run_folder import ALL_CASES, FoldFolder, check_writable, open_run, remove_folder
from autoseg.runtime.cpu_threads import adaptive_cpu_threads
from autoseg.runtime.device import find_device
from autoseg.training.objectives.image_denoising import count_condition_channels
from autoseg.workflows.folds.synthesis import SynthesisPlan, SyntheticCase, SyntheticRecord, check_same_origin
from autoseg.workflows.plan.preprocessing import check_has_data, check_preprocessed
from autoseg.workflows.synthesize.artist import build_artist
from autoseg.workflows.synthesize.denoiser_plan import ETA, PATCHES_PER_AXIS, plan_denoiser, plan_variation
from autoseg.workflows.synthesize.denoiser_training import measure_ranges, train_denoiser
from autoseg.workflows.synthesize.image_files import write_images
from autoseg.workflows.synthesize.job import SynthesisJob, check_can_be_synthesized
from autoseg.workflows.synthesize.request import SynthesisRequest
from autoseg.workflows.train.fold_options import find_newest_checkpoint
from autoseg.workflows.train.interruption import set_aside
from autoseg.workflows.train.training import find_configuration_name


def synthesize_cases(
    run_root: Path, request: SynthesisRequest, *, progress: Progress, stop: StopRequest | None = None
) -> int:
    """Makes synthetic cases for the training of the requested folds; continues what was interrupted.

    Args:
        run_root: Run folder.
        request: The options.
        progress: Receives notes and progress.
        stop: Receives requests to end; the state of the training of a denoiser is saved first.

    Returns:
        The number of synthetic cases that the folds have now.

    Raises:
        RunError: There is no run, its preprocessed data is incomplete, or what is there was made from other cases.
        PlanError: The configuration is not planned, or synthetic cases cannot train it.
        TrainingError: The fold does not exist, or the training of a denoiser failed.
        DeviceError: The device does not exist or is too small.
    """
    run, device = open_run(run_root), find_device(request.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # otherwise this process would also allocate memory on other GPUs
    plan = read_document(run.plan, Plan)
    check_has_data(run, plan)
    name = find_configuration_name(plan, request.configuration)
    check_can_be_synthesized(plan, name)
    splits = read_document(run.splits, Splits)
    folds = request.folds or tuple(str(index) for index in range(len(splits.folds)))
    chosen = {fold: select_fold(splits, fold) for fold in folds}
    check_preprocessed(run, plan, plan.configurations[name].data_of, select_fold(splits, ALL_CASES).training)
    if request.out is not None:
        check_writable(request.out)
    count = 0
    with adaptive_cpu_threads(device, announce=progress.note):
        for fold, cases in chosen.items():
            job = SynthesisJob(
                run=run, plan=plan, configuration=name, fold=fold, cases=cases, device=device, seed=request.seed or 0
            )
            count += synthesize_fold(job, request, progress=progress, stop=stop or StopRequest())
    return count


def synthesize_fold(job: SynthesisJob, request: SynthesisRequest, *, progress: Progress, stop: StopRequest) -> int:
    """Makes the synthetic cases of one fold while holding its lock, and returns their number.

    Raises:
        AutosegError: As `synthesize_cases`.
    """
    folder = FoldFolder(job.folder.root)
    with lock_fold(folder, device=str(job.device)):  # beside all that is discarded
        if request.restart:
            _check_not_in_use(job)
        # Once more, as the lock keeps `autoseg preprocess` from replacing the arrays only from now on.
        check_preprocessed(job.run, job.plan, job.configuration_plan.data_of, job.cases.training)
        with set_aside(folder, is_restart=request.restart) as discard_earlier:
            return _synthesize(job, request, progress=progress, stop=stop, on_begin=discard_earlier)


def _synthesize(
    job: SynthesisJob,
    request: SynthesisRequest,
    *,
    progress: Progress,
    stop: StopRequest,
    on_begin: Callable[[], None],
) -> int:
    """Trains the denoiser, and draws the cases.

    Args:
        on_begin: Called when nothing is refused any more.
    """
    checkpoint = find_newest_checkpoint(job.folder.denoiser)
    if request.seed is None and checkpoint is not None:
        job = replace(job, seed=checkpoint.identity.seed)
    plan = _find_plan(job, progress)
    check_training_memory(plan.denoiser, f"the denoiser of {job.name}", job.device, count=measure_cost)
    on_begin()
    train_denoiser(job, plan, request, progress=progress, stop=stop)
    return _draw_cases(job, plan, request, progress=progress)


def _check_not_in_use(job: SynthesisJob) -> None:
    """Checks that no training may be reading the cases that are to be discarded.

    Raises:
        RunError: The fold is being trained.
    """
    holder = find_holder(job.run.fold(job.configuration, job.fold))
    if holder is not None:
        msg = (
            f"{job.name} is being trained by process {holder.pid} on {holder.host} ({holder.device}), perhaps on the "
            f"synthetic cases in {job.folder.root} that would be discarded; wait until it has ended, or stop it"
        )
        raise RunError(msg)


def _find_plan(job: SynthesisJob, progress: Progress) -> SynthesisPlan:
    """Reads how the cases of a fold are made, or decides it and writes it down.

    Raises:
        RunError: It was decided for other cases.
    """
    if job.folder.plan.is_file():
        plan = read_document(job.folder.plan, SynthesisPlan)
        check_same_origin(plan, job.folder, job.plan, configuration=job.configuration, fold=job.fold, cases=job.cases)
        return plan
    progress.note(f"{job.name}: measures the intensities of {len(job.cases.training)} training cases")
    denoiser, reasons = plan_denoiser(
        job.configuration_plan,
        measure_ranges(job),
        condition_channels=count_condition_channels(job.plan.labels),
        device_type=job.device.type,
    )
    variation, reason = plan_variation(job.configuration_plan)
    plan = SynthesisPlan(
        configuration=job.configuration,
        fold=job.fold,
        training_cases=job.cases.training,
        denoiser=denoiser,
        variation=variation,
        eta=ETA,
        patches_per_axis=PATCHES_PER_AXIS,
        reasons=(*reasons, reason),
    )
    write_document(job.folder.denoiser.plan, job.plan)
    write_document(job.folder.plan, plan)
    return plan


def _draw_cases(job: SynthesisJob, plan: SynthesisPlan, request: SynthesisRequest, *, progress: Progress) -> int:
    """Draws the cases that are not there yet; each is a function of the seed, its number, and the denoiser."""
    record = _read_record(job, plan, progress)
    wanted = len(job.cases.training) if request.cases is None else request.cases
    missing = range(len(record.cases), wanted)
    if missing:
        artist = build_artist(job, plan)
        for index in progress.track(missing, label=job.name, total=len(missing), unit="synthetic case"):
            show = partial(progress.show_part, "denoising", total=artist.step_count, unit="steps")
            drawn = artist.draw(index, on_step=show)
            case = SyntheticCase(name=f"synthetic_{index + 1:04d}", source=artist.choose_source(index))
            _write(job, plan, case.name, drawn)
            record = record.model_copy(update={"cases": (*record.cases, case)})
            write_document(job.folder.record, record)
    if request.out is not None:
        write_images(job, plan, record, request.out)
    return len(record.cases)


def _read_record(job: SynthesisJob, plan: SynthesisPlan, progress: Progress) -> SyntheticRecord:
    """Reads which cases are finished; those of another denoiser or seed are discarded."""
    new = SyntheticRecord(
        configuration=plan.configuration,
        fold=plan.fold,
        training_cases=plan.training_cases,
        seed=job.seed,
        weights_sha256=hash_weights(job.folder.denoiser.final_checkpoint),
        cases=(),
    )
    if not job.folder.record.is_file():
        return new
    found = read_document(job.folder.record, SyntheticRecord)
    if found.model_copy(update={"cases": ()}) == new and all(
        is_case_written(job.folder.cases, name) for name in found.names
    ):
        return found
    _check_not_in_use(job)
    progress.note(f"{job.name}: {len(found.cases)} synthetic cases of another denoiser or seed are made anew")
    job.folder.record.unlink()
    remove_folder(job.folder.cases)
    return new


def _write(job: SynthesisJob, plan: SynthesisPlan, name: str, drawn: PreprocessedCase) -> None:
    assert drawn.label_map is not None, "images are drawn for label maps"
    write_case(
        job.folder.cases,
        name,
        drawn,
        locations=find_class_locations(drawn.label_map, job.plan.labels),
        patch_voxels=plan.denoiser.patch_voxels,
    )
