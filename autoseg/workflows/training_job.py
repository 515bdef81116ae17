"""One training of a run: what, on what, where."""

from dataclasses import dataclass

import torch

from autoseg.plan import ConfigurationPlan, Plan
from autoseg.run_folder import FoldFolder, RunFolder
from autoseg.stages.training_cases import StoredStageInput
from autoseg.training.folds import Fold
from autoseg.training.trackers import TrackedRun
from autoseg.workflows.training_report import list_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldJob:
    """One training: what, on what, where.

    Attributes:
        previous: What the previous stage gives; None without one.
    """

    run: RunFolder
    plan: Plan
    configuration: str
    fold: str
    cases: Fold
    device: torch.device
    previous: StoredStageInput | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.configuration}, fold {self.fold}"

    @property
    def title(self) -> str:
        """For pictures, which are looked at far from the run."""
        return f"{self.plan.dataset_name}: {self.name} (planner {self.plan.planner})"

    @property
    def folder(self) -> FoldFolder:
        """What the training writes."""
        return self.run.fold(self.configuration, self.fold)

    @property
    def configuration_plan(self) -> ConfigurationPlan:
        """How it is trained."""
        return self.plan.configurations[self.configuration]

    def describe(self) -> TrackedRun:
        """As trackers show it."""
        parameters = list_parameters(self.plan, self.configuration) | {"fold": self.fold, "device": str(self.device)}
        return TrackedRun(
            experiment=self.plan.dataset_name,
            name=self.name,
            parameters=parameters,
            folder=self.folder.root,
        )
