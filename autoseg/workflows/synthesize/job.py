"""Describes the synthetic cases of one fold."""

from dataclasses import dataclass
from pathlib import Path

import torch

from autoseg.dataset.folds import Fold
from autoseg.errors import PlanError
from autoseg.plan.document import ConfigurationPlan, Plan
from autoseg.run_folder import RunFolder
from autoseg.workflows.folds.synthesis import SynthesisFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisJob:
    """The synthetic cases of one fold of a configuration.

    Attributes:
        cases: Training and validation cases of the fold; the latter are never read.
        seed: Seed of everything random.
    """

    run: RunFolder
    plan: Plan
    configuration: str
    fold: str
    cases: Fold
    device: torch.device
    seed: int

    @property
    def name(self) -> str:
        """Returns the name for messages."""
        return f"{self.configuration}, fold {self.fold}"

    @property
    def folder(self) -> SynthesisFolder:
        """Returns the folder of what is made."""
        return SynthesisFolder(self.run.synthetic(self.configuration, self.fold))

    @property
    def configuration_plan(self) -> ConfigurationPlan:
        """Returns the plan of the configuration."""
        return self.plan.configurations[self.configuration]

    @property
    def data_folder(self) -> Path:
        """Returns the folder of the preprocessed cases."""
        return self.run.preprocessed(self.configuration_plan.data_of)


def check_can_be_synthesized(plan: Plan, name: str) -> None:
    """Checks that synthetic cases can train a configuration.

    Raises:
        PlanError: They cannot.
    """
    chosen = plan.get_configuration(name)
    if chosen.previous_stage is not None:
        problem = f"it needs what {chosen.previous_configuration} predicts for each case"
    elif chosen.context_slices:
        problem = f"it sees {chosen.slice_count} neighbouring slices, and synthetic cases of 2D networks have one"
    elif chosen.sees_other_planes:
        problem = "it sees slices across several axes, and synthetic cases of 2D networks have one slice"
    else:
        return
    fitting = [
        other
        for other, part in plan.configurations.items()
        if part.previous_stage is None and not part.context_slices and not part.sees_other_planes
    ]
    msg = f"synthetic cases cannot train {name}: {problem}; choose another --configuration ({', '.join(fitting)})"
    raise PlanError(msg)
