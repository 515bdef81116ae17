"""Describes the training of a fold (plan, cases, device) and its result, and records it beside the model."""

from dataclasses import dataclass
from pathlib import Path

import torch

from autoseg.dataset.folds import Fold
from autoseg.document import read_document, write_document
from autoseg.evaluation.crossvalidation import CrossValidation
from autoseg.evaluation.summary import EvaluationSummary
from autoseg.files.checksums import compute_sha256
from autoseg.plan.document import ConfigurationPlan, Plan
from autoseg.remote.mirror import find_location
from autoseg.run_folder import FoldFolder, RunFolder
from autoseg.runtime.provenance import TrainingRecord, read_versions
from autoseg.stages.training_cases import StoredStageInput
from autoseg.training.data.synthetic_cases import SyntheticCases
from autoseg.training.monitoring.trackers import TrackedRun
from autoseg.training.options import TrainingOptions
from autoseg.training.teacher import Teacher
from autoseg.workflows.train.report import list_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldJob:
    """One training of a run.

    Attributes:
        run: Run folder.
        plan: Plan of the run.
        configuration: Name of the configuration.
        fold: Name of the fold.
        cases: Training and validation cases.
        device: Device that trains.
        previous: Input from the previous stage; None without one.
        initial_weights: Checkpoint whose weights a new training begins with; None: those of the stage, or drawn.
        stage_weights: Checkpoint of the previous stage whose weights it begins with otherwise; one that is resumed may
            have begun with others. None: they are drawn.
        synthetic: Synthetic cases of the fold; None: they take no part.
        teacher: Trained network whose answers are learnt, too; None: none is given, or that of the
            training that is resumed.
        arguments: Options of the call, as `training.json` records them.
    """

    run: RunFolder
    plan: Plan
    configuration: str
    fold: str
    cases: Fold
    device: torch.device
    previous: StoredStageInput | None = None
    initial_weights: Path | None = None
    stage_weights: Path | None = None
    synthetic: SyntheticCases | None = None
    teacher: Teacher | None = None
    arguments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Returns the name for messages."""
        return f"{self.configuration}, fold {self.fold}"

    @property
    def title(self) -> str:
        """Returns the title of pictures, which are viewed away from the run."""
        return f"{self.plan.dataset_name}: {self.name} (planner {self.plan.planner})"

    @property
    def folder(self) -> FoldFolder:
        """Returns the folder that the training writes."""
        return self.run.fold(self.configuration, self.fold)

    @property
    def configuration_plan(self) -> ConfigurationPlan:
        """Returns the plan of the configuration."""
        return self.plan.configurations[self.configuration]

    def describe(self) -> TrackedRun:
        """Describes the training for trackers."""
        parameters = list_parameters(self.plan, self.configuration) | {"fold": self.fold, "device": str(self.device)}
        return TrackedRun(
            experiment=self.plan.dataset_name,
            name=self.name,
            parameters=parameters,
            folder=self.folder.root,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedFold:
    """A finished training, also of a cascade's first stage.

    Attributes:
        fold: Name of the fold.
        folder: Folder of the training.
        summary: Scores of the validation; None for the fold "all", which has no held-out cases.
        shortage: Warning about a training of few iterations.
    """

    fold: str
    folder: FoldFolder
    summary: EvaluationSummary | None
    shortage: str | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lists remarks on the scores, or on the model if there are none."""
        if self.summary is not None:
            return self.summary.warnings
        return () if self.shortage is None else (self.shortage,)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOutcome:
    """Outcome of training several folds.

    Attributes:
        is_main_process: False for a process that only helps another one to train, and that writes nothing.
        failures: Reasons of the folds that failed.
        crossvalidation: Scores of the configurations of which every fold is validated; None if there are none.
    """

    is_main_process: bool
    failures: tuple[str, ...] = ()
    crossvalidation: CrossValidation | None = None


def record_training(job: FoldJob, options: TrainingOptions) -> None:
    """Writes the plan and the record of a training beside it."""
    write_document(job.folder.plan, job.plan)
    record = TrainingRecord(
        configuration=job.configuration,
        fold=job.fold,
        seed=options.seed,
        device=str(options.device),
        number_type=options.dtype,
        plan_sha256=compute_sha256(job.folder.plan),
        initial_weights=_find_initial(job, options),
        initial_weights_sha256=options.initial_digest,
        teacher=None if options.teacher is None else find_location(options.teacher.checkpoint.resolve()),
        teacher_sha256=options.teacher_digest,
        synthetic_cases=0 if job.synthetic is None else len(job.synthetic.names),
        calls=_list_calls(job),
        versions=read_versions(),
    )
    write_document(job.folder.training_record, record)


def _list_calls(job: FoldJob) -> tuple[tuple[str, ...], ...]:
    """Lists the options of all calls so far; those that repeat a call, as after an interruption, once."""
    path = job.folder.training_record
    earlier = read_document(path, TrainingRecord).calls if path.is_file() else ()
    return earlier if earlier[-1:] == (job.arguments,) else (*earlier, job.arguments)


def _find_initial(job: FoldJob, options: TrainingOptions) -> str | None:
    """Finds the checkpoint that a training began with; one that is resumed has recorded it."""
    if options.initial_weights is not None:
        return find_location(options.initial_weights.resolve())
    if options.initial_digest is None or not job.folder.training_record.is_file():
        return None
    return read_document(job.folder.training_record, TrainingRecord).initial_weights
