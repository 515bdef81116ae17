"""Options that a user chooses for a training."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from autoseg.dataset.folds import name_folds
from autoseg.errors import OptionError
from autoseg.runtime.precision import Precision
from autoseg.training.monitoring.trackers import TrackerName
from autoseg.training.options import Length

CONTRADICTIONS: Final = (
    ("--budget", "--epochs"),
    ("--budget", "--until-plateau"),
    ("--extend", "--epochs"),
    ("--extend", "--until-plateau"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRequest:
    """Options that the user chose.

    Attributes:
        configuration: Configuration to train; None takes 3d_fullres if it is planned, else 2d.
        folds: Folds to train; None trains every fold, one after the other. Missing folds of the previous stage are
            trained first, with the same length, budget, device, precision and seed.
        length: Length of each training.
        budget_seconds: Time for each fold, including its validation; None takes the plan's budget, if it has one and no
            number of epochs is given.
        device: Device that trains; "auto", "cpu", "cuda", "cuda:1" or "mps".
        precision: Precision in which networks compute.
        seed: Seed of everything random; None takes that of the training that is continued, else 0.
        restart: Discard earlier trainings of these folds.
        initial_weights: Checkpoint whose weights new trainings begin with, or a run with a model of the same
            configuration and fold; None: they are drawn.
        synthetic: Train also on the synthetic cases of each fold, as does a training that is continued.
        teacher: Run with a model of the same configuration and fold whose answers are learnt beside the labels; None:
            the labels alone are, or a training that is continued keeps its teacher.
        workers: Number of processes that prepare patches; None chooses it from the cores.
        deterministic: Compute the same result every time, also on a GPU and beside other programs.
        log_to: Trackers that receive the history beside the log and TensorBoard.
        parallel: This process is one of several that train one fold together, each on a device of its own.
        nodes: Number of computers of a cluster that train each fold together.
    """

    configuration: str | None = None
    folds: tuple[str, ...] | None = None
    length: Length = field(default_factory=Length)
    budget_seconds: float | None = None
    device: str = "auto"
    precision: Precision = "auto"
    seed: int | None = None
    restart: bool = False
    initial_weights: Path | None = None
    synthetic: bool = False
    teacher: Path | None = None
    workers: int | None = None
    deterministic: bool = False
    log_to: tuple[TrackerName, ...] = ()
    parallel: bool = False
    nodes: int = 1

    def __post_init__(self) -> None:
        """Names the folds, and checks that the options do not contradict each other.

        Raises:
            OptionError: A budget is combined with a number of epochs or a plateau, two numbers of epochs are given, or
                several computers are to train without sharing a fold.
        """
        object.__setattr__(self, "folds", name_folds(self.folds))
        if self.nodes > 1 and not self.parallel:
            msg = f"--nodes {self.nodes} needs --parallel: each fold is trained on all of them together"
            raise OptionError(msg)
        given = {
            "--budget": self.budget_seconds is not None,
            "--epochs": self.length.epochs is not None,
            "--until-plateau": self.length.until_plateau,
            "--extend": self.length.more_epochs is not None,
        }
        for pair in CONTRADICTIONS:
            if all(given[name] for name in pair):
                msg = f"{' and '.join(pair)} both say how long to train; give one of them"
                raise OptionError(msg)
