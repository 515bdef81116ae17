"""Options that a user chooses for synthetic cases."""

from dataclasses import dataclass
from pathlib import Path

from autoseg.dataset.folds import name_folds
from autoseg.errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisRequest:
    """Options that the user chose.

    Attributes:
        configuration: Configuration for whose training the cases are made; None takes 3d_fullres if it is planned,
            else 2d.
        folds: Folds that get synthetic cases; None: every fold, one after the other.
        cases: Number of synthetic cases of each fold; None: as many as the fold has training cases.
        epochs: Number of epochs of the denoiser in place of the planned ones; None: these.
        budget_seconds: Time for the training of each denoiser; None: without a limit.
        device: Device that trains and draws; "auto", "cpu", "cuda", "cuda:1" or "mps".
        seed: Seed of everything random; None takes that of what is continued, else 0.
        workers: Number of processes that prepare patches; None chooses it from the cores.
        restart: Discard earlier denoisers and synthetic cases of these folds.
        out: Folder for images of the cases, to look at; None: none are written.
    """

    configuration: str | None = None
    folds: tuple[str, ...] | None = None
    cases: int | None = None
    epochs: int | None = None
    budget_seconds: float | None = None
    device: str = "auto"
    seed: int | None = None
    workers: int | None = None
    restart: bool = False
    out: Path | None = None

    def __post_init__(self) -> None:
        """Names the folds, and checks that the options do not contradict each other.

        Raises:
            OptionError: A budget is combined with a number of epochs.
        """
        object.__setattr__(self, "folds", name_folds(self.folds))
        if self.epochs is not None and self.budget_seconds is not None:
            msg = "--budget and --epochs both say how long to train the denoiser; give one of them"
            raise OptionError(msg)
