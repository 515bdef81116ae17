"""Describes the training of a fold (plan, cases, device) and its result."""

from dataclasses import dataclass
from pathlib import Path

import torch

from autoseg.dataset.folds import Fold
from autoseg.evaluation.crossvalidation import CrossValidation
from autoseg.evaluation.summary import EvaluationSummary
from autoseg.plan.document import ConfigurationPlan, Plan
from autoseg.run_folder import FoldFolder, RunFolder
from autoseg.stages.training_cases import StoredStageInput
from autoseg.training.data.synthetic_cases import SyntheticCases
from autoseg.training.monitoring.trackers import TrackedRun
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
