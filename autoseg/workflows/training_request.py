"""What a user asks for when a run is to be trained."""

from dataclasses import dataclass, field
from typing import Final

from autoseg.errors import OptionError
from autoseg.networks.precision import Precision
from autoseg.training.start import Length
from autoseg.training.trackers import TrackerName

CONTRADICTIONS: Final = (
    ("--budget", "--epochs"),
    ("--budget", "--until-plateau"),
    ("--extend", "--epochs"),
    ("--extend", "--until-plateau"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRequest:
    """What the user asked for.

    Attributes:
        configuration: None takes 3d_fullres where it is planned, else 2d.
        folds: None takes every fold, one after the other. Missing folds of the previous stage are trained
            before, with the same length, budget, device, precision and seed.
        length: How long to train each fold.
        budget_seconds: Time for each fold, its validation included; None takes the plan's, if it has one and no
            number of epochs is given.
        precision: Numbers in which networks compute.
        seed: None takes that of the training that is continued, else 0.
        restart: Discard earlier trainings of these folds.
        workers: Processes that prepare patches; None goes by the cores.
        deterministic: The same result every time: on a GPU, too, and beside other programs.
        log_to: Where the history goes beside the log and TensorBoard.
        parallel: This process is one of several that train one fold together, each on a device of its own.
    """

    configuration: str | None = None
    folds: tuple[str, ...] | None = None
    length: Length = field(default_factory=Length)
    budget_seconds: float | None = None
    device: str = "auto"
    precision: Precision = "auto"
    seed: int | None = None
    restart: bool = False
    workers: int | None = None
    deterministic: bool = False
    log_to: tuple[TrackerName, ...] = ()
    parallel: bool = False

    def __post_init__(self) -> None:
        """Refuses two lengths at once.

        Raises:
            OptionError: A budget beside a number of epochs or a plateau, or two numbers of epochs.
        """
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
