"""What the user may ask for when models are imported or exported, and what came of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autoseg.exchange.nnunet_folders import CheckpointKind

ExportFormat = Literal["autoseg", "nnunet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What the user asked for.

    Attributes:
        configuration: None takes every model of the source.
        folds: None takes every fold.
        checkpoint: Which of nnU-Net's checkpoints; its prediction takes "final" by default.
        accepts_any_trainer: The user vouches for trainers that nnU-Net does not ship.
        overwrite: Replace models that the run already holds.
    """

    configuration: str | None = None
    folds: tuple[str, ...] | None = None
    checkpoint: CheckpointKind = "final"
    accepts_any_trainer: bool = False
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangedModel:
    """One configuration that was imported or exported, with its folds.

    Attributes:
        written: Those of the folds that were not there already.
        folder: Where it lies now.
    """

    configuration: str
    folds: tuple[str, ...]
    written: tuple[str, ...]
    folder: Path

    def describe(self) -> str:
        """What was written, in one line for the user."""
        return f"{self.configuration}, fold {', '.join(self.written)}: {self.folder}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What the user asked for.

    Attributes:
        format: For nnU-Net, or one file for autoseg.
        configuration: None takes every one that is trained; for autoseg, what was selected, if something was.
        folds: None takes every trained fold; for autoseg likewise.
        overwrite: Replace what was exported before.
    """

    format: ExportFormat = "nnunet"
    configuration: str | None = None
    folds: tuple[str, ...] | None = None
    overwrite: bool = False
