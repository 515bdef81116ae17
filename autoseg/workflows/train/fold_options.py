"""Builds the options of one training from the request, an existing checkpoint and the machine."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from autoseg.document import read_document
from autoseg.errors import TrainingError
from autoseg.inference.held_out import MEASURED_DEVICES
from autoseg.networks.weights import hash_weights
from autoseg.plan.document import Plan
from autoseg.processes.progress import Progress
from autoseg.run_folder import ALL_CASES, FoldFolder
from autoseg.runtime.cpu_time import count_usable_cpus
from autoseg.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from autoseg.runtime.precision import DtypeName
from autoseg.runtime.provenance import TrainingRecord
from autoseg.training.budget.pace import Budget
from autoseg.training.checkpoint import CheckpointDescription, read_description
from autoseg.training.data.synthetic_cases import remember_synthetic_cases
from autoseg.training.options import TrainingOptions
from autoseg.training.teacher import Teacher
from autoseg.workflows.evaluate.validation import measure_volume_dice
from autoseg.workflows.folds.synthesis import find_synthetic_cases
from autoseg.workflows.plan.preprocessing import extract_recipe
from autoseg.workflows.train.initial_weights import find_recorded_teacher
from autoseg.workflows.train.job import FoldJob
from autoseg.workflows.train.request import TrainingRequest

# Preparing patches for a GPU takes many processes; on a CPU the network needs the cores, and one process suffices.
MOST_WORKERS: Final = 12


def build_training_options(
    job: FoldJob,
    request: TrainingRequest,
    dtype: DtypeName,
    *,
    checkpoint: CheckpointDescription | None,
    budget: Budget | None = None,
    progress: Progress,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> TrainingOptions:
    """Builds the options of a training; seed, first weights and teacher that nobody requests are those it began with.

    Raises:
        TrainingError: A plateau is requested for the fold "all", which has no validation.
        RunError: The checkpoint to begin with cannot be read.
    """
    if request.length.until_plateau and job.fold == ALL_CASES:
        msg = 'the fold "all" holds no case out on which a plateau could show; choose a fold, or give --epochs'
        raise TrainingError(msg)
    seed = request.seed
    if seed is None:
        seed = 0 if checkpoint is None else checkpoint.identity.seed
    teacher = job.teacher or find_recorded_teacher(job, checkpoint)
    initial = job.stage_weights if job.initial_weights is None and checkpoint is None else job.initial_weights
    return TrainingOptions(
        device=job.device,
        seed=seed,
        initial_weights=initial,
        initial_digest=_find_initial_digest(initial, checkpoint),
        teacher=teacher,
        teacher_digest=_find_teacher_digest(teacher, checkpoint),
        workers=compute_loader_count(job.device.type) if request.workers is None else request.workers,
        length=request.length,
        budget=budget,
        dtype=dtype,
        is_dtype_free=request.precision == "auto",
        measure_dice=partial(
            measure_volume_dice,
            run=job.run,
            plan=job.plan,
            configuration=job.configuration,
            cases=job.cases.validation,
            dtype=dtype if job.device.type in MEASURED_DEVICES else "float32",
        )
        if process_group.is_main_process
        else None,
        process_group=process_group,
        announce=progress.note,
        deterministic=request.deterministic,
    )


def _find_initial_digest(initial: Path | None, checkpoint: CheckpointDescription | None) -> str | None:
    if initial is not None:
        return hash_weights(initial)
    return None if checkpoint is None else checkpoint.identity.initial_digest


def _find_teacher_digest(teacher: Teacher | None, checkpoint: CheckpointDescription | None) -> str | None:
    if teacher is not None:
        return teacher.digest
    return None if checkpoint is None else checkpoint.identity.teacher_digest


def find_newest_checkpoint(folder: FoldFolder) -> CheckpointDescription | None:
    """Finds the newest checkpoint from which a training can be resumed.

    Raises:
        TrainingError: A checkpoint is damaged.
    """
    paths = (folder.final_checkpoint, folder.latest_checkpoint)
    descriptions = [read_description(path) for path in paths if path.exists()]
    return max(descriptions, key=lambda description: description.reached, default=None)


def add_synthetic_cases(
    job: FoldJob, request: TrainingRequest, checkpoint: CheckpointDescription | None, progress: Progress
) -> FoldJob:
    """Adds the synthetic cases that were made from the training cases of this fold; a training that is continued takes
    those with which it was begun, and a finished one needs them no more. They are never held out.

    Raises:
        RunError: There are none, or they were made from other cases.
    """
    digest = None if checkpoint is None else checkpoint.identity.synthetic_digest
    if not request.synthetic and (digest is None or _is_finished(job.folder, request)):
        return job if digest is None else replace(job, synthetic=remember_synthetic_cases(digest))
    count = None if digest is None else read_document(job.folder.training_record, TrainingRecord).synthetic_cases
    synthetic = find_synthetic_cases(job.run, job.plan, job.configuration, job.fold, cases=job.cases, count=count)
    training = job.configuration_plan.training
    end = training.synthetic_end_fraction
    until = f", but for the last {end:.0%} of the training (synthetic_end_fraction)" if end > 0 else ""
    progress.note(
        f"{job.name}: {len(synthetic.names)} synthetic cases train beside {len(job.cases.training)} cases of the "
        f"dataset, and give {training.synthetic_fraction:.0%} of the samples (synthetic_fraction in plan.json){until}"
    )
    return replace(job, synthetic=synthetic)


def _is_finished(folder: FoldFolder, request: TrainingRequest) -> bool:
    """Returns whether a training, of which there is a checkpoint, has ended and is not to be extended."""
    return not folder.latest_checkpoint.exists() and request.length.more_epochs is None


def check_same_recipe(folder: FoldFolder, plan: Plan, name: str) -> None:
    """Checks that an existing training used arrays like those of the plan.

    Raises:
        TrainingError: Axes, normalization, spacing or labels have changed since.
    """
    if not (folder.final_checkpoint.exists() or folder.latest_checkpoint.exists()):
        return
    if extract_recipe(read_document(folder.plan, Plan), name) != extract_recipe(plan, name):
        msg = (
            f"{folder.root} was trained by another plan ({folder.plan}): orientation, axes, normalization, labels or "
            f"spacing differ; put plan.json back, or begin again with --restart"
        )
        raise TrainingError(msg)


def compute_loader_count(device_type: str) -> int:
    """Returns the number of processes that prepare patches."""
    if device_type == "cpu":
        return 1
    return max(1, min(MOST_WORKERS, count_usable_cpus() - 1))
